"""What all of dk-run's forms share: its options, its model, its rules, its outputs, its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkcam.tools.cli import progress_line
from dkcam.tools.logs import say
from dkcam.tools.terminal import echo, moving_line

if TYPE_CHECKING:
    from dkcam.runtime.controls import Controls
    from dkcam.runtime.explainer import Explains
    from dkcam.runtime.recording import Rotation
    from dkcam.runtime.sinks import Sink
    from dkcam.tools.checks.live import LiveRules
    from dkcam.tools.checks.rules import Rules


LAST_S = 10.0  # from a signal to the end, whatever hangs


@dataclass(frozen=True)
class RunOptions:
    """dk-run's flags, read. model: where it lies. max_age, frame_timeout, flight_seconds: seconds."""

    model: Path
    sources: tuple[str, ...]
    sinks: tuple[str, ...]
    explain: tuple[str, ...] | None
    layout: str
    resize: str | None
    max_frames: int | None
    alpha: float
    colormap: str
    rules: Rules | None
    grid: tuple[int, int] | None
    background: str | None
    device: str
    threads: int
    provider_options: Mapping[str, str]
    max_age: float
    frame_timeout: float
    wait: bool
    token: str | None
    rotation: Rotation | None
    flight_folder: Path | None
    flight_seconds: float
    loop: bool = False

    def controls(self) -> Controls:
        from dkcam.runtime.controls import Controls, Style

        return Controls(Style(self.alpha, self.colormap, self.layout))


def open_explainer(options: RunOptions, *, lanes: int, device: str | None = None) -> Explains:
    """The model on a device (default: the one asked for), through a grid where one was asked for. Errors: DkcamError."""
    from dkcam.engines import EngineOptions, open_engine
    from dkcam.runtime.explainer import Explainer
    from dkcam.runtime.grid import grid_explainer

    with progress_line() as report:
        settings = EngineOptions(options.threads, lanes, provider_options=options.provider_options, report=report)
        engine = open_engine(options.model, device or options.device, settings)
        single = Explainer(engine, explain=options.explain or (-1,), resize=options.resize)
    return grid_explainer(single, options.grid, options.background)


def live_rules(rules: Rules, explainer: Explains, *, quiet: bool = False) -> LiveRules:
    """Rules for one source. Errors: DataError where none of them can be judged live, and for classes the model does not have."""
    from dkcam.errors import DataError
    from dkcam.tools.checks.live import LiveRules, told
    from dkcam.tools.checks.rules import check_classes

    check_classes(rules, explainer.spec.labels, live=True)
    watch = LiveRules(rules, samples=bool(explainer.spec.samples))
    if len(watch.skipped) == len(rules.rules):
        raise DataError(f"{rules.source} has no rule that can be judged live; expected confidence, region, entropy, jitter or stability")
    if watch.skipped and not quiet:
        say("note", told(watch.skipped))
    return watch


def is_page(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def check_places(inputs: Mapping[Path, str], sinks: Sequence[str], cameras: int = 1) -> None:
    """No sink twice, and none that would replace one of ``inputs`` ({path: what it is})."""
    from dkcam.errors import SinkError
    from dkcam.files import check_target, exists

    taken: set[Path] = set()
    each = [uri.replace("{camera}", str(k)) for uri in sinks for k in range(cameras if "{camera}" in uri else 1)]
    for uri in each:
        place = Path(uri).resolve()
        if place in taken:
            raise SinkError(f"{uri} is given twice; give each sink once")
        taken.add(place)
        if is_page(uri):
            continue
        if exists(place) and place.is_dir():
            for path, what in inputs.items():
                if what == "the source" and exists(path) and place in (path.resolve(), path.resolve().parent):
                    raise SinkError(f"{uri} is the source's own folder and its pictures would be overwritten; choose another place")
        elif exists(place):
            check_target(place, inputs, SinkError)


def close_all(outputs: Sequence[Sink], finished: bool, *, older: Collection[Path] = ()) -> None:
    """Finish every output, also when another one fails, and say where it is; an earlier error goes first. older: what was there before."""
    from dkcam.errors import SinkError

    failed: SinkError | None = None
    places: list[Path] = []
    for sink in outputs:
        try:
            written = sink.close(complete=finished)
            if written is not None:
                places.append(written)
        except SinkError as error:
            failed = failed or error
    for place in places:
        echo(f"wrote {place}" + (", in place of an older one" if place in older else ""))
    if failed is not None and finished:
        raise failed


def settle_process() -> None:
    """Habits of libraries for a process that does nothing else."""
    import cv2

    from dkcam.runtime.process import keep_freed_memory

    # the pipeline's threads keep the cores busy; OpenCV's own, inside each small step, only add waiting
    cv2.setNumThreads(1)
    keep_freed_memory()


@dataclass
class Interrupt:
    """What signals do. running: what to stop; before there is something, a signal breaks off. by: the signal that came."""

    running: threading.Event | None = None
    by: str = ""
    on_usr1: Callable[[], None] | None = None
    _last: threading.Timer | None = None

    def handle(self, number: int, frame: Any) -> None:
        again = bool(self.by)
        self.by = self.by or ("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        if again and number == signal.SIGINT:
            self.by = ""
            raise KeyboardInterrupt
        if self._last is None:
            self._last = threading.Timer(LAST_S, self._give_up)
            self._last.daemon = True
            self._last.start()
        if self.running is not None:
            self.running.set()
        elif not again:
            raise KeyboardInterrupt

    def _give_up(self) -> None:
        """Something is inside native code that does not come back: a driver, a file system that is gone."""
        say(
            "error", f"stopped by {self.by}, but an output or the engine did not end within {LAST_S:.0f} s; what it had not written is lost"
        )
        os._exit(1)

    def usr1(self, number: int, frame: Any) -> None:
        if self.on_usr1 is not None:
            self.on_usr1()
        else:
            say("note", "SIGUSR1 writes the flight recorder, and there is none; start with --flight-recorder DIR")

    def say(self) -> None:
        if self.by:
            say("info", f"stopped by {self.by}; outputs are complete up to here")

    def done(self) -> None:
        """Everything has ended."""
        if self._last is not None:
            self._last.cancel()


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """The first Ctrl-C or SIGTERM ends the run cleanly, a second Ctrl-C breaks it off. Holds until the outputs are closed."""
    found = Interrupt()
    handlers: dict[int, Any] = {signal.SIGINT: found.handle, signal.SIGTERM: found.handle}
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = found.usr1
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield found
    except KeyboardInterrupt:
        if not found.by:
            raise
        say("info", f"stopped by {found.by} before the first frame")
    finally:
        found.done()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(name: str, total: int | None) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal for sources of known length; nothing otherwise."""
    if total is None or not sys.stderr.isatty():
        yield lambda: None
        return
    done = count(1)
    with moving_line("text", "bar", "of", "remaining") as show:
        show(name, 0, total)
        yield lambda: show(name, next(done), total)
