"""What all of dk-run's forms share: its options, its model, its rules, its outputs, its end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkcam.tools import streams
from dkcam.tools.cli import progress_line
from dkcam.tools.logs import say
from dkcam.tools.terminal import echo, moving_line

if TYPE_CHECKING:
    from dkcam.runtime.controls import Controls
    from dkcam.runtime.explainer import Explains
    from dkcam.runtime.health import Health
    from dkcam.runtime.live.stream import Limits
    from dkcam.runtime.recording import Rotation
    from dkcam.runtime.sinks import Sink
    from dkcam.tools.checks.live import LiveRules
    from dkcam.tools.checks.rules import Rules


LAST_S = 10.0  # from a signal to the end, whatever hangs
HUNG_S = 0.8  # from a signal on, in one call: an output that is left behind
CLOSE_S = 0.7  # for the others, then
LOOK_S = 0.05


@dataclass(frozen=True)
class RunOptions:
    """dk-run's flags, read. model: where it lies. max_age, frame_timeout, flight_seconds: seconds. limits: of network cameras."""

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
    limits: Limits
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
        single = Explainer(engine, explain=options.explain, resize=options.resize)
    return grid_explainer(single, options.grid, options.background)


def live_rules(rules: Rules, explainer: Explains, *, quiet: bool = False) -> LiveRules:
    """Rules for one source. Errors: DataError where none of them can be judged live, and for classes the model does not have."""
    from dkcam.errors import DataError
    from dkcam.tools.checks.live import LiveRules, told
    from dkcam.tools.checks.rules import check_classes

    check_classes(rules, explainer.spec.labels, live=True)
    watch = LiveRules(rules, samples=explainer.spec.masks is not None)
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


@dataclass(frozen=True)
class Left:
    """What is left to do where an output never comes back. health: knows which. close: the others, given the names of those."""

    health: Health
    close: Callable[[Collection[str]], None]

    def writing(self) -> dict[object, str]:
        """Calls of outputs that are under way now, and which output."""
        return {call: stage.removeprefix("sink ") for call, stage in self.health.inside().items() if stage.startswith("sink ")}


@dataclass
class Interrupt:
    """What signals do. running: what to stop; before there is something, a signal breaks off. by: the signal that came. left: see
    ``Left``.

    Python's own handlers run in the main thread, between two of its steps, which never come while that is inside native code: a
    driver, a file system that is gone. So a thread hears of signals, too, and sees to it that the process ends.
    """

    running: threading.Event | None = None
    by: str = ""
    on_usr1: Callable[[], None] | None = None
    left: Left | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _end: threading.Lock = field(default_factory=threading.Lock)  # whoever holds it closes the outputs

    def handle(self, number: int, frame: Any) -> None:
        again = bool(self.by)
        self.by = self.by or _named(number)
        if again and number == signal.SIGINT:
            self.by = ""
            raise KeyboardInterrupt
        if self.running is not None:
            self.running.set()
        elif not again:
            raise KeyboardInterrupt

    def listen(self, ears: socket.socket) -> None:
        """Until the other end is closed. A byte comes for every signal, whatever the main thread does."""
        with ears:
            while numbers := ears.recv(64):
                ending = [number for number in numbers if number in (signal.SIGINT, signal.SIGTERM)]
                if ending:
                    self._see_to_the_end(_named(ending[0]))
                    return

    def _see_to_the_end(self, by: str) -> None:
        start = time.monotonic()
        if self.running is not None:
            self.running.set()
        since: dict[object, float] = {}
        while not self._ended.wait(LOOK_S):
            now = time.monotonic()
            writing = self.left.writing() if self.left is not None else {}
            since = {call: since.get(call, now) for call in writing}
            hung = {writing[call] for call, at in since.items() if now - at > HUNG_S}
            if hung and self.left is not None and self._end.acquire(blocking=False):
                self._leave(by, hung, self.left)
            if now - start > LAST_S:
                words = f"an output or the engine did not end within {LAST_S:.0f} s; what it had not written is lost"
                say("error", f"stopped by {by}, but {words}")
                streams.finish()
                os._exit(1)

    def _leave(self, by: str, hung: Collection[str], left: Left) -> None:
        """Close what can be closed, and end the process over what cannot."""
        closing = threading.Thread(target=left.close, args=[{*hung, "window:"}], daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        say("error", f"stopped by {by}, but {' and '.join(sorted(hung))} did not answer; what it had not written is lost")
        streams.finish()
        os._exit(1)

    def ending(self) -> None:
        """The outputs are being closed, by the caller: does not come back where that is being done already."""
        if not self._end.acquire(blocking=False):
            threading.Event().wait()

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
        self._ended.set()


def _named(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interrupts() -> Iterator[Interrupt]:
    """The first Ctrl-C or SIGTERM ends the run cleanly, a second Ctrl-C breaks it off. Holds until the outputs are closed."""
    found = Interrupt()
    handlers: dict[int, Any] = {signal.SIGINT: found.handle, signal.SIGTERM: found.handle}
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = found.usr1
    ears, mouth = socket.socketpair()
    mouth.setblocking(False)
    deaf = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=found.listen, args=[ears], name="signals", daemon=True).start()
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
        signal.set_wakeup_fd(deaf)
        mouth.close()


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
