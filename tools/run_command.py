"""``dk-run``: heatmaps over a camera, a video, pictures or the rendered drive."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkcam.tools.cli import LIST, engine_options, grid_options, progress_line, user_errors

if TYPE_CHECKING:
    from dkcam.runtime.frame import Source
    from dkcam.runtime.pipeline import Pipeline
    from dkcam.runtime.sinks import Sink
    from dkcam.tools.checks.live import LiveRules
    from dkcam.tools.checks.rules import Rules

MOST_LANES = 8  # each holds its own activations in memory


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", type=click.Path(path_type=Path), help="An .onnx file of dk-export. Default: ./model.onnx, else the demo model.")
@click.option("--camera", "cameras", type=int, multiple=True, help="Camera number.")
@click.option(
    "--source", "sources", multiple=True, help="URI: clip.mp4, frames/, a.jpg, rtsp://…, http://…, v4l2:///dev/video0, demo:  [default: 0]"
)
@click.option("--sink", "sinks", multiple=True, help="URI: window:, out.mp4, frames/, events.jsonl, null:  [default: window:]")
@click.option("--explain", type=LIST, help="Classes to explain, e.g. stop,yield; −1 is the top class, −2 the runner-up.  [default: -1]")
@click.option(
    "--layout",
    type=click.Choice(["side", "tint"]),
    default="side",
    show_default=True,
    help="Several classes: side by side, or a colour each.",
)
@click.option(
    "--resize", type=click.Choice(["stretch", "letterbox", "crop"]), help="How frames reach the model's size. Default: the model's own."
)
@click.option("--headless", is_flag=True, help="No window; without --sink only a summary is printed.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames of each source.")
@click.option("--alpha", type=float, default=0.6, show_default=True, help="Opacity of the hottest place, 0 to 1.")
@click.option("--colormap", default="turbo", show_default=True, help="turbo, jet, inferno, magma, plasma, viridis or hot.")
@click.option("--rules", "rules_file", type=click.Path(path_type=Path), help="Judge every frame by these rules (YAML); see dk-check.")
@grid_options
@engine_options
@user_errors
def main(
    model: Path | None,
    cameras: tuple[int, ...],
    sources: tuple[str, ...],
    sinks: tuple[str, ...],
    explain: tuple[str, ...] | None,
    layout: str,
    resize: str | None,
    headless: bool,
    max_frames: int | None,
    alpha: float,
    colormap: str,
    rules_file: Path | None,
    grid: tuple[int, int] | None,
    background: str | None,
    device: str,
    threads: int,
    provider_options: tuple[tuple[str, str], ...],
) -> None:
    """Draw a model's Grad-CAM heatmaps over frames, live or from files."""
    from dkcam.engines import EngineOptions, open_engine
    from dkcam.engines.onnxruntime_engine import cores
    from dkcam.errors import SinkError, SourceError
    from dkcam.runtime.explainer import DEMO_MODEL, Explainer
    from dkcam.runtime.grid import grid_explainer
    from dkcam.runtime.kernels import is_native
    from dkcam.runtime.overlay import check_style
    from dkcam.runtime.pipeline import Style
    from dkcam.runtime.sinks import open_sink
    from dkcam.runtime.sources import open_source

    check_style(alpha, colormap, layout)
    uris = [*(str(number) for number in cameras), *sources] or ["0"]
    wanted = list(sinks) or (["null:"] if headless else ["window:"])
    if headless and "window:" in wanted:
        raise SinkError("--headless and --sink window: contradict each other; leave one out")
    if model is None:
        model = Path("model.onnx") if Path("model.onnx").is_file() else DEMO_MODEL
        click.echo(f"model: {'the bundled demo model' if model == DEMO_MODEL else model} (--model chooses another)", err=True)
    if not is_native():
        click.echo("note: dkcam was built without a C++ compiler; OpenCV does the per-frame work, slower", err=True)
    rules = None
    if rules_file is not None:
        from dkcam.tools.checks.rules import read_rules

        rules = read_rules(rules_file)
    _check_places({model: "the model"} | {Path(uri): "the source" for uri in uris}, wanted)
    opened: list[Source] = []
    outputs: list[Sink] = []
    finished = False
    try:
        for uri in uris:
            opened.append(open_source(uri))
        # files: several frames at once, each on few threads, give more frames a second than one frame on all of them
        lanes = 1 if any(source.live for source in opened) else min(threads or cores(), MOST_LANES)
        with progress_line() as report:
            options = EngineOptions(threads, lanes, provider_options=dict(provider_options), report=report)
            single = Explainer(open_engine(model, device, options), explain=explain or (-1,), resize=resize)
        explainer = grid_explainer(single, grid, background)
        if len(opened) > 1 and any(source.live for source in opened):
            raise SourceError("several sources run one after the other, and a camera never ends; give one camera alone, or files only")
        rate = next((source.fps for source in opened if source.fps), None)
        for uri in wanted:
            outputs.append(open_sink(uri, rate))
        watch = _watch(rules, explainer) if rules else None
        _run_all(opened, explainer, outputs, Style(alpha, colormap, layout), watch, max_frames)
        finished = True
    finally:
        for source in opened:
            source.close()
        _close(outputs, finished)
    if watch is not None:
        for line in watch.lines():
            click.echo(line)
        if watch.failed:
            sys.exit(3)


def _watch(rules: Rules, explainer: Any) -> LiveRules:
    from dkcam.errors import DataError
    from dkcam.tools.checks.live import LiveRules, told

    watch = LiveRules(rules, samples=bool(explainer.spec.samples))
    if len(watch.skipped) == len(rules.rules):
        raise DataError(f"{rules.source} has no rule that can be judged live; expected confidence, region, entropy, jitter or stability")
    if watch.skipped:
        click.echo(f"note: {told(watch.skipped)}", err=True)
    return watch


def _check_places(inputs: Mapping[Path, str], sinks: Sequence[str]) -> None:
    """No sink twice, and none that would replace one of ``inputs`` ({path: what it is})."""
    from dkcam.errors import SinkError
    from dkcam.files import check_target, exists

    taken: set[Path] = set()
    for uri in sinks:
        place = Path(uri).resolve()
        if place in taken:
            raise SinkError(f"{uri} is given twice; give each sink once")
        taken.add(place)
        if exists(place) and place.is_dir():
            for path, what in inputs.items():
                if what == "the source" and exists(path) and place in (path.resolve(), path.resolve().parent):
                    raise SinkError(f"{uri} is the source's own folder and its pictures would be overwritten; choose another place")
        elif exists(place):
            check_target(place, inputs, SinkError)


def _close(outputs: Sequence[Sink], finished: bool) -> None:
    """Finish every output, also when another one fails, and say where it is; an earlier error goes first."""
    from dkcam.errors import SinkError

    failed: SinkError | None = None
    for sink in outputs:
        try:
            written = sink.close(complete=finished)
            if written is not None:
                click.echo(f"wrote {written}")
        except SinkError as error:
            failed = failed or error
    if failed is not None and finished:
        raise failed


def _run_all(
    sources: Sequence[Source], explainer: Any, sinks: Sequence[Sink], style: Any, watch: LiveRules | None, max_frames: int | None
) -> None:
    import cv2

    from dkcam.runtime.pipeline import Pipeline
    from dkcam.runtime.process import keep_freed_memory
    from dkcam.tools.summary import RunSummary

    # the pipeline's threads keep the cores busy; OpenCV's own, inside each small step, only add waiting
    cv2.setNumThreads(1)
    keep_freed_memory()
    explainer.warm_up()
    for source in sources:
        summary = RunSummary()
        total = min(source.count or max_frames or 0, max_frames or source.count or 0) or None
        with _progress(source.name, total) as advance:

            def on_result(result: Any, summary: RunSummary = summary, advance: Any = advance) -> None:
                summary.add(result)
                advance()

            pipeline = Pipeline(source, explainer, sinks, style=style, watch=watch, max_frames=max_frames, on_result=on_result)
            with _stop_on_interrupt(pipeline):
                done = pipeline.run()
        if done.frames:
            click.echo(f"{source.name.rstrip(':')}: " + "\n  ".join(summary.lines(done.frames, done.fps, done.dropped)))
        if pipeline.interrupted:
            click.echo(f"stopped by {pipeline.interrupted}; outputs are complete up to here", err=True)
            break


@contextmanager
def _stop_on_interrupt(pipeline: Pipeline) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run cleanly; a second one breaks it off."""

    def handle(number: int, frame: Any) -> None:
        if pipeline.interrupted:
            raise KeyboardInterrupt
        pipeline.interrupted = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        pipeline.stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Any]:
    """A progress bar on a terminal for sources of known length; nothing otherwise."""
    if total is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)
