"""dk-run over videos, pictures and the rendered drive: one after the other, every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dkcam.tools.run.shared import (
    Interrupt,
    RunOptions,
    close_all,
    interrupts,
    is_page,
    live_rules,
    open_explainer,
    progress_bar,
    settle_process,
)

if TYPE_CHECKING:
    from dkcam.runtime.frame import Source
    from dkcam.runtime.sinks import Sink

MOST_LANES = 8  # each holds its own activations in memory


def run_files(options: RunOptions) -> bool:
    """Whether every rule of severity fail held. Errors: DkcamError."""
    with interrupts() as interrupt:
        return _run(options, interrupt)


def _run(options: RunOptions, interrupt: Interrupt) -> bool:
    from dkcam.engines.onnxruntime_engine import cores
    from dkcam.runtime.explainer import class_number
    from dkcam.runtime.sinks import open_sink
    from dkcam.runtime.sources import open_source

    opened: list[Source] = []
    outputs: list[Sink] = []
    finished = False
    try:
        for uri in options.sources:
            opened.append(open_source(uri))
        # several frames at once, each on few threads, give more frames a second than one frame on all of them
        explainer = open_explainer(options, lanes=min(options.threads or cores(), MOST_LANES))
        controls = options.controls()
        rate = next((source.fps for source in opened if source.fps), None)
        for uri in options.sinks:
            outputs.append(_page(uri, options, controls, explainer) if is_page(uri) else open_sink(uri, rate))
        watch = live_rules(options.rules, explainer) if options.rules else None
        classes = [class_number(explainer.spec, name) for name in options.explain or (-1,)]
        _run_all(opened, explainer, classes, outputs, controls, watch, options.max_frames, interrupt)
        finished = True
    finally:
        for source in opened:
            source.close()
        close_all(outputs, finished)
    if watch is not None:
        for line in watch.lines():
            click.echo(line)
    return watch is None or not watch.failed


def _page(uri: str, options: RunOptions, controls: Any, explainer: Any) -> Sink:
    from dkcam.tools.run.page import open_page

    files = [{"camera": 0, "name": ", ".join(options.sources), "live": True, "reason": "", "shots": 0, "dropped": 0, "reopened": 0}]
    return open_page(uri, options, controls, lambda: explainer, lambda: files)


def _run_all(
    sources: list[Source],
    explainer: Any,
    classes: list[int],
    sinks: list[Sink],
    controls: Any,
    watch: Any,
    max_frames: int | None,
    interrupt: Interrupt,
) -> None:
    from dkcam.runtime.pipeline import Pipeline
    from dkcam.runtime.sources import DemoSource
    from dkcam.tools.run.compared import with_runner_up
    from dkcam.tools.summary import RunSummary

    settle_process()
    explainer.warm_up()
    for source in sources:
        summary = RunSummary()
        total = min(source.count or max_frames or 0, max_frames or source.count or 0) or None
        with progress_bar(source.name, total) as advance:

            def on_result(result: Any, summary: RunSummary = summary, advance: Any = advance) -> None:
                summary.add(result)
                advance()

            used = with_runner_up(explainer, classes) if isinstance(source, DemoSource) else explainer
            pipeline = Pipeline(source, used, sinks, controls=controls, watch=watch, max_frames=max_frames, on_result=on_result)
            interrupt.running = pipeline.stop
            done = pipeline.run()
        if done.frames:
            click.echo(f"{source.name.rstrip(':')}: " + "\n  ".join(summary.lines(done.frames, done.fps, done.dropped)))
        interrupt.say()
        if interrupt.by:
            break
