"""dk-run over videos, pictures and the rendered drive: one after the other, every frame."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkcam.tools.logs import say
from dkcam.tools.run.shared import (
    Interrupt,
    Left,
    RunOptions,
    close_all,
    interrupts,
    is_page,
    live_rules,
    open_explainer,
    progress_bar,
    settle_process,
)
from dkcam.tools.terminal import echo

if TYPE_CHECKING:
    from dkcam.runtime.controls import Controls
    from dkcam.runtime.explainer import Explains
    from dkcam.runtime.frame import Source
    from dkcam.runtime.health import Health
    from dkcam.runtime.live.page import PageSink
    from dkcam.runtime.result import Result
    from dkcam.runtime.sinks import Sink
    from dkcam.tools.checks.live import LiveRules
    from dkcam.tools.summary import RunSummary

MOST_LANES = 8  # each holds its own activations in memory
PICTURES_A_SECOND = 2.0  # on the page, of sources that have no speed of their own
NAMED = 3  # of what could not be read, in the last line


def run_files(options: RunOptions) -> bool:
    """Whether every rule of severity fail held. Errors: DkcamError."""
    from dkcam.runtime.health import Health

    held = True
    health = Health()
    with interrupts() as interrupt, health.watched():
        held = _run(options, interrupt, health)
    return held


def _run(options: RunOptions, interrupt: Interrupt, health: Health) -> bool:
    from dkcam.engines.onnxruntime_engine import cores
    from dkcam.errors import SourceError
    from dkcam.files import exists
    from dkcam.runtime.sinks import open_sink
    from dkcam.runtime.sources import open_source
    from dkcam.tools.run.page import open_page

    opened: list[Source] = []
    outputs: list[Sink] = []
    pages: list[PageSink] = []
    playing = Playing(options.sources[0])
    older = [path for path in map(Path, options.sinks) if exists(path) and path.is_file()]
    finished = False
    try:
        try:
            for uri in options.sources:
                opened.append(open_source(uri))
            # several frames at once, each on few threads, give more frames a second than one frame on all of them
            explainer = open_explainer(options, lanes=min(options.threads or cores(), MOST_LANES))
            controls = options.controls()
            rate = next((source.fps for source in opened if source.fps), None)
            for uri in options.sinks:
                if is_page(uri):
                    pages.append(open_page(uri, options, controls, lambda: explainer, playing.state, health=health))
                else:
                    outputs.append(open_sink(uri, rate))
            watch = live_rules(options.rules, explainer) if options.rules else None
            files = _Files(options, explainer, [*outputs, *pages], controls, watch, interrupt, playing, health, paced=bool(pages))
            interrupt.left = Left(health, lambda names: close_all([sink for sink in outputs if sink.name not in names], True, older=older))
            unread = files.run(opened)
            finished = not unread
        finally:
            interrupt.ending()
            for source in opened:
                source.close()
            close_all(outputs, finished, older=older)
        if pages and playing.last is not None and not options.max_frames:
            _stay(pages, playing, explainer, controls, interrupt, health)
    finally:
        close_all(pages, True)
    if watch is not None:
        echo(*watch.lines())
    if unread:
        raise SourceError(
            _told(unread, done=playing.last is not None, files=any(uri.endswith((".mp4", ".jsonl")) for uri in options.sinks))
        )
    if watch is not None and watch.nothing_judged and not interrupt.by:
        echo("nothing was checked: no rule of severity fail could be judged (frames of its class, and as many as frames: says)")
        return False
    return watch is None or not watch.failed


@dataclass
class Playing:
    """What the page says about the files. frames: of the source, explained in this round. of: how many it has, where known."""

    name: str
    frames: int = 0
    of: int | None = None
    round: int = 1
    ended: bool = False
    last: Result | None = None

    def state(self) -> list[dict[str, Any]]:
        file = {"frames": self.frames, "of": self.of, "round": self.round, "ended": self.ended}
        return [{"camera": 0, "name": self.name, "live": True, "reason": "", "shots": 0, "dropped": 0, "reopened": 0, "file": file}]


@dataclass
class Seen:
    """Of one source, over all rounds."""

    summary: RunSummary
    frames: int = 0
    seconds: float = 0.0

    def tell(self, source: Source) -> None:
        if self.frames:
            fps = self.frames / self.seconds if self.seconds > 0 else 0.0
            first, *rest = self.summary.lines(self.frames, fps, 0)
            echo(f"{source.name.rstrip(':')}: {first}", *(f"  {line}" for line in rest))


@dataclass
class _Files:
    """Sources one after the other, in rounds where they are looped. paced: each at its own speed, for someone who watches."""

    options: RunOptions
    explainer: Explains
    sinks: Sequence[Sink]
    controls: Controls
    watch: LiveRules | None
    interrupt: Interrupt
    playing: Playing
    health: Health
    paced: bool
    _unread: dict[str, None] = field(default_factory=dict)  # in order, and in every round the same

    def run(self, sources: Sequence[Source]) -> list[str]:
        """What could not be read, a message each."""
        from dkcam.tools.summary import RunSummary

        settle_process()
        self.explainer.warm_up()
        seen = [Seen(RunSummary()) for _ in sources]
        which: Iterable[int] = cycle(range(len(sources))) if self.options.loop else range(len(sources))
        before = 0
        for turn, number in zip(count(), which):
            self.playing.round = 1 + turn // len(sources)
            goes_on = self._one(sources[number], seen[number])
            if not self.options.loop:
                seen[number].tell(sources[number])
            if not goes_on:
                break
            if number == len(sources) - 1:
                if sum(each.frames for each in seen) == before:
                    break  # a round in which nothing could be read: nor could it in the next
                before = sum(each.frames for each in seen)
        if self.options.loop:
            for source, each in zip(sources, seen, strict=True):
                each.tell(source)
        self.interrupt.say()
        return list(self._unread)

    def _one(self, source: Source, seen: Seen) -> bool:
        """Run one source; whether to go on after it."""
        from dkcam.errors import SourceError
        from dkcam.runtime.pipeline import Pipeline

        most = self.options.max_frames
        total = min(source.count or most or 0, most or source.count or 0) or None
        self.playing.name, self.playing.frames, self.playing.of = source.name, 0, total
        with progress_bar(source.name, None if self.options.loop else total) as advance:

            def on_result(result: Result) -> None:
                seen.summary.add(result)
                self.playing.frames += 1
                self.playing.last = result
                advance()

            pipeline = Pipeline(
                source,
                self._explainer_of(source),
                self.sinks,
                controls=self.controls,
                watch=self.watch,
                max_frames=most,
                pace=(source.fps or PICTURES_A_SECOND) if self.paced else None,
                on_result=on_result,
                health=self.health,
            )
            self.interrupt.running = pipeline.stop
            try:
                pipeline.run()
            except SourceError as error:
                self._unread[str(error)] = None
        self._unread |= dict.fromkeys(source.skipped)
        seen.frames += pipeline.summary.frames
        seen.seconds += pipeline.summary.seconds
        return not self.interrupt.by and not pipeline.ended_by_sink

    def _explainer_of(self, source: Source) -> Explains:
        """Drawn scenes say where their signs are: their runner-up's map is a control beside the hits."""
        from dkcam.runtime.sources import DemoSource
        from dkcam.tools.run.compared import with_runner_up

        return with_runner_up(self.explainer, self.options.explain or (-1,)) if isinstance(source, DemoSource) else self.explainer


def _told(unread: Sequence[str], *, done: bool, files: bool) -> str:
    """The last line of a run that could not read everything. done: something was read. files: there are outputs that lack it."""
    further = f"; and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
    rest = ". Everything else is done" + ("; outputs that lack it are called NAME.partial" if files else "") if done else ""
    return "; ".join(unread[:NAMED]) + further + rest


def _stay(
    pages: Sequence[PageSink], playing: Playing, explainer: Explains, controls: Controls, interrupt: Interrupt, health: Health
) -> None:
    """The last picture stays on the page, and changes with its settings, until a signal comes."""
    from dkcam.runtime.delivery import Explained, result_of

    over = threading.Event()
    interrupt.running = over
    if interrupt.by:
        return
    result = playing.last
    assert result is not None
    playing.ended = True
    say("info", f"the last picture stays at {pages[0].name}; Ctrl-C ends")
    settings = controls.settings
    while not over.wait(0.1):
        if controls.settings == settings:
            continue
        settings = controls.settings
        with health.busy("engine"):
            said = explainer.infer(explainer.prepare(result.frame.image), settings.classes, masks=settings.masks)
        said = controls.focused(result.frame.camera, said)
        done = Explained(result.frame, said, 0.0, 0.0, 0.0, 0.0, settings.masks)
        again = result_of(done, style=settings.style, watch=None, picture=False, fps=None, dropped=0)
        for page in pages:
            page.write(again)
