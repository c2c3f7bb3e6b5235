"""What every command shares: exit codes, one-line errors, parsing of sizes and lists."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar

import click

from dkcam.errors import DkcamError
from dkcam.files import MOST_PIXELS
from dkcam.printable import printable
from dkcam.tools import streams
from dkcam.tools.logs import say
from dkcam.tools.terminal import echo, moving_line

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))  # OpenCV reads it when it is loaded; by itself it takes 3 GB

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic from click 8.4 on


def user_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a DkcamError into one line on stderr and exit code 1; any other exception is a bug and keeps its traceback."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        streams.settle()
        try:
            result = function(*args, **kwargs)
            streams.finish()
            return result
        except DkcamError as error:
            say("error", " ".join(str(error).split()))
            sys.exit(1)
        except KeyboardInterrupt:
            echo("stopped", err=True)
            sys.exit(130)
        except OSError as error:
            if error.errno not in streams.FULL:
                raise
            echo("error: the place that the output goes to is full; free it or choose another", err=True)
            _forget_output()
            sys.exit(1)

    return wrapped


class Command(click.Command):
    """A command whose refusals of flags are escaped, too: a name that the shell found for a * may stand in them."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.ClickException as error:
            vars(error)["message"] = printable(error.message)  # click calls it final
            raise


def run_and_leave(command: click.Command) -> None:
    """Run a command as a process of its own, and end the process.

    A thread that is inside native code (a driver, an engine, a file system that hangs) while the interpreter is taken down
    crashes the process when it comes back; where one is left, the interpreter is not taken down.
    """
    code: object = 0
    try:
        command()
    except SystemExit as done:
        code = done.code
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    with suppress(OSError, ValueError):
        streams.finish()
    left = set(threading.enumerate()) - {threading.current_thread(), *streams.threads()}
    if not left or not isinstance(code, int | None):
        sys.exit(code)  # type: ignore[arg-type]
    os._exit(code or 0)


def _forget_output() -> None:
    """Python would fail once more at its end, flushing what could not be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


class SizeType(_ParamType):
    """HxW in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a size; expected height x width in pixels, such as 384x640", param, ctx)
        return int(parts[0]), int(parts[1])


class ListType(_ParamType):
    """Names separated by commas."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in str(value).split(",") if part.strip())
        if not parts:
            self.fail("the list is empty; expected names separated by commas", param, ctx)
        return parts


class NumbersType(_ParamType):
    """One number, or three with commas: of R, G and B."""

    name = "R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 3) or not all(math.isfinite(number) for number in numbers):
            self.fail(f"{value!r} is no colour; expected three numbers such as 0.485,0.456,0.406, or one for grey", param, ctx)
        return numbers


class ScaleType(_ParamType):
    """A number, or a fraction such as 1/255."""

    name = "NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        top, _, bottom = str(value).partition("/")
        try:
            number = float(top) / float(bottom or 1)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not math.isfinite(number) or number <= 0:
            self.fail(f"{value!r} is no scale; expected a number such as 1 or 1/255", param, ctx)
        return number


class RangeType(_ParamType):
    """N, MIN:MAX or MIN:OPT:MAX, as three numbers: least, usual, most."""

    name = "MIN:OPT:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(":")
        if len(parts) > 3 or not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"{value!r} is not a number or a range; expected 4, 1:8 or 1:4:8", param, ctx)
        numbers = [int(part) for part in parts]
        return numbers[0], numbers[1] if len(parts) == 3 else numbers[0], numbers[-1]


class PairType(_ParamType):
    """KEY=VALUE."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not key.strip() or not equals:
            self.fail(f"{value!r} is not an option; expected KEY=VALUE, such as gpu_mem_limit=2147483648", param, ctx)
        return key.strip(), text.strip()


class GridType(SizeType):
    """Rows x columns, at most 64 windows."""

    name = "RxC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        rows, columns = super().convert(value, param, ctx)
        if rows * columns > 64:
            self.fail(f"{value!r} is {rows * columns} windows; expected 64 at most", param, ctx)
        return rows, columns


class RotationType(_ParamType):
    """A time or a size, as (seconds, None) or (None, bytes)."""

    name = "10min|500MB"
    _units: ClassVar[dict[str, tuple[str, float]]] = {
        "s": ("time", 1),
        "min": ("time", 60),
        "h": ("time", 3600),
        "kb": ("size", 1e3),
        "mb": ("size", 1e6),
        "gb": ("size", 1e9),
    }

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float | None, int | None]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(s|min|h|kb|mb|gb)", str(value).strip().lower())
        if found is None or not float(found[1]) > 0:
            self.fail(f"{value!r} is no time or size; expected such as 10min, 2h, 500MB or 1GB", param, ctx)
        kind, unit = self._units[found[2]]
        amount = float(found[1]) * unit
        return (amount, None) if kind == "time" else (None, int(amount))


class SecondsType(click.FloatRange):
    """Seconds, a number with an end."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


SIZE, GRID, LIST, NUMBERS, RANGE, SCALE = SizeType(), GridType(), ListType(), NumbersType(), RangeType(), ScaleType()
PAIR, ROTATION = PairType(), RotationType()


def version_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--version."""
    import dkcam

    return click.version_option(dkcam.__version__, message="%(prog)s of dkcam %(version)s")(function)


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--device, --threads and --provider-option, for the commands that run a model."""
    options = (
        click.option(
            "--device", default="auto", show_default=True, help="auto, tensorrt, cuda, cpu, openvino, onnxruntime-tensorrt(-rtx)."
        ),
        click.option("--threads", type=click.IntRange(0, 512), default=0, help="CPU threads for inference.  [default: one per core]"),
        click.option(
            "--provider-option",
            "provider_options",
            type=PAIR,
            multiple=True,
            help="For ONNX Runtime's execution provider, as its documentation names it; repeat for more.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def grid_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--grid and --background."""
    options = (
        click.option("--grid", type=GRID, help="Rows x columns of overlapping windows, such as 2x3: for small objects."),
        click.option("--background", help="With --grid: the class of windows that show nothing."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@contextmanager
def progress_line() -> Iterator[Callable[[str, int, int], None]]:
    """What is being done, as (what, step, steps); steps is 0 where unknown. All on stderr.

    On a terminal a line that moves: the step, the time so far, and an estimate where steps are known. Elsewhere a plain line
    for each stage when it begins, with the time so far, and one every half minute of a stage that has steps.
    """
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    with moving_line("spinner", "text", "elapsed", "left", transient=True) as show:
        pace = Pace()

        def report(what: str, step: int, steps: int) -> None:
            show(told(what, step, steps), left=pace.left(what, step, steps))

        yield report


def told(what: str, step: int, steps: int) -> str:
    return f"{what} {step + 1}/{steps}" if steps else what


class Pace:
    """How long a stage will still take, from its own steps so far."""

    def __init__(self) -> None:
        self._what, self._began, self._first = "", 0.0, 0

    def left(self, what: str, step: int, steps: int) -> str:
        """ "about 2 min left", or "" before there is anything to go by."""
        now = time.monotonic()
        if what != self._what or step < self._first:
            self._what, self._began, self._first = what, now, step
        done = step - self._first
        if not steps or not done:
            return ""
        seconds = (now - self._began) / done * (steps - step)
        return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


class PlainProgress:
    """For logs: a line a stage, and now and then one of its steps. Stages that alternate are told once."""

    def __init__(self, every_s: float = 30.0) -> None:
        self._every_s, self._began, self._last = every_s, time.monotonic(), -math.inf
        self._known: set[str] = set()
        self._pace = Pace()

    def __call__(self, what: str, step: int, steps: int) -> None:
        now, left = time.monotonic(), self._pace.left(what, step, steps)
        if what in self._known and not (steps and now - self._last >= self._every_s):
            return
        self._known.add(what)
        self._last = now
        say("info", f"{now - self._began:6.1f} s  {told(what, step, steps)}" + (f", {left}" if left else ""))
