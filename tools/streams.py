"""stdin, stdout and stderr as a command uses them: closed, broken off or read by nobody, they end nothing and hold nothing up.

``settle``, first in every command    what is closed is opened on nothing; a reader that is gone costs the words alone
``never_wait``, in long runs          words go through a short queue and a thread; what finds no room is dropped and counted
``finish``, last                      what is queued goes out, within half a second
"""

from __future__ import annotations

import atexit
import errno
import io
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

MOST = 256 << 10  # bytes of a queue
PATIENCE_S = 0.5  # of the end of a run, for all words together
FULL = (errno.ENOSPC, errno.EDQUOT)
NAMES = ("stdin", "stdout", "stderr")


class Stream(io.TextIOBase):
    """Text to a descriptor, each piece at once. Waits for the reader; one that is gone is not missed.

    Characters that the encoding lacks become question marks. Errors: OSError where the disk is full.
    """

    encoding: str = "utf-8"
    errors: str = "replace"

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__()
        self.encoding, self._descriptor, self._gone = encoding, descriptor, False

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._put(text.encode(self.encoding, "replace"))
        return len(text)

    def _put(self, data: bytes) -> None:
        self._out(data)

    def _out(self, data: bytes) -> None:
        left = memoryview(data)
        while left and not self._gone:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # whoever started us shares a descriptor that does not wait
                select.select([], [self._descriptor], [], 1.0)
            except OSError as error:
                if error.errno in FULL:
                    raise
                self._gone = True


@dataclass
class _Gap:
    """Where messages are missing from a queue."""

    count: int = 0


class Unwaiting(Stream):
    """Never waits: a thread writes. Messages that find the queue full are dropped, and ``lost`` says how many once the reader is back.

    error: why the disk took no more.
    """

    _patience = PATIENCE_S  # of all of them together

    def __init__(self, descriptor: int, encoding: str, lost: Callable[[int], str]) -> None:
        super().__init__(descriptor, encoding)
        self.error: OSError | None = None
        self._lost = lost
        self._news = threading.Condition(threading.RLock())  # a signal's handler may write while its thread does
        self._queue: deque[bytes | _Gap] = deque()
        self._size = 0
        self._since: float | None = None  # of the piece that is being written, of time.monotonic
        self.thread = threading.Thread(target=self._run, name="words", daemon=True)
        self.thread.start()

    def _put(self, data: bytes) -> None:
        if not data:
            return
        with self._news:
            last = self._queue[-1] if self._queue else None
            if self._size + len(data) <= (MOST // 2 if isinstance(last, _Gap) else MOST):  # one gap, not one at every message
                self._queue.append(data)
                self._size += len(data)
                self._news.notify_all()
                return
            if not isinstance(last, _Gap):
                self._queue.append(last := _Gap())
            last.count += bool(data.strip())

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._queue)
                item = self._queue.popleft()
                self._since = time.monotonic()
            data = self._lost(item.count).encode(self.encoding, "replace") if isinstance(item, _Gap) else item
            try:
                self._out(data)
            except OSError as error:
                self.error = error
            with self._news:
                self._size -= 0 if isinstance(item, _Gap) else len(data)
                self._since = None
                self._news.notify_all()

    def drain(self) -> None:
        """Wait until everything is out, half a second at most however often it is asked for; not at all where the reader has taken
        nothing for as long.
        """
        start = now = time.monotonic()
        end = start + Unwaiting._patience
        with self._news:
            while self._queue or self._since is not None:
                left = end - now if self._since is None else min(end, self._since + PATIENCE_S) - now
                if left <= 0:
                    break
                self._news.wait(left)
                now = time.monotonic()
        Unwaiting._patience = max(0.0, end - now)


def settle() -> None:
    """Open what is closed on nothing, so that no file of the run gets its number, and take stdout and stderr over.

    Streams that are not the process's own (a test's) stay what they are.
    """
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.FileIO(0, closefd=False)) if number == 0 else Stream(number, "utf-8"))
    for number, name in enumerate(NAMES[1:], 1):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a label or an arrow that the terminal's encoding lacks is no failure
            if _number(stream) == number:
                with suppress(OSError):
                    stream.flush()
                setattr(sys, name, Stream(number, stream.encoding))


def never_wait(lost: Callable[[int], str]) -> None:
    """From here on whoever reads stdout and stderr, or does not, holds nobody up. lost: a line that says how many messages
    were dropped.
    """
    for number, name in enumerate(NAMES[1:], 1):
        stream = getattr(sys, name)
        if type(stream) is Stream:
            own = os.dup(number)
            _spare(number)
            setattr(sys, name, Unwaiting(own, stream.encoding, lost))
            atexit.register(getattr(sys, name).drain)


def finish() -> None:
    """Everything goes out, or is given up. Errors: OSError where the disk behind stdout is full."""
    for stream in (sys.stderr, sys.stdout):
        if isinstance(stream, Unwaiting):
            stream.drain()
        elif stream is not None:
            stream.flush()
    if isinstance(sys.stdout, Unwaiting) and sys.stdout.error is not None:
        error, sys.stdout.error = sys.stdout.error, None
        raise error


def threads() -> list[threading.Thread]:
    """Those that write words."""
    return [stream.thread for stream in (sys.stdout, sys.stderr) if isinstance(stream, Unwaiting)]


def _number(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _spare(number: int) -> None:
    """Libraries that print there themselves do not wait for a pipe's reader either: theirs is opened anew, as one that does not wait,
    and nobody who shares it with us is affected.
    """
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            anew = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
            os.dup2(anew, number)
            os.close(anew)
