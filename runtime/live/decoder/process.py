"""dk-run's side of a decoder process: started, asked, and killed when it does not answer."""

from __future__ import annotations

import json
import logging
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SourceError
from dkcam.runtime.live.decoder.wire import Channel, Room
from dkcam.runtime.live.link import Arrival, Gone
from dkcam.runtime.live.stream import MOST_PIXELS, shown

log = logging.getLogger("dkcam")

LEAVE_S = 0.4  # for the process to end by itself; it takes leave of the camera meanwhile
START_S = 10.0  # for Python and its libraries to load, on a slow machine
# sys.path as here, so that the child finds this very dkcam, and nothing in the folder it was started in
CODE = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from dkcam.runtime.live.decoder.child import main; main(int(sys.argv[2]))"

Message = Mapping[str, Any]


class Decoder:
    """A camera read in a process of its own. See ``link.Link``.

    The process outlives its connections, and is made again when it ended. uri: of the camera. timeout_s: silence after which
    a camera counts as gone.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        self._uri, self._timeout_s, self._name = uri, timeout_s, shown(uri)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._messages: Iterator[tuple[Message, int | None]] = iter(())
        self._room: Room | None = None
        self._deadline: tuple[float, str] | None = None  # of the next word from the process, and what is to be said without one
        self._asked: tuple[int, float, Future[NDArray[np.uint8] | None]] | None = None
        self._why = ""  # the connection was ended from outside
        self._closed = False
        self._connected = False
        self._count = 0  # of pictures that arrived from this process
        self._since = 0  # the first of this connection

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process else None

    def open(self) -> None:
        with self._lock:
            if self._closed:
                raise SourceError(f"{self._name} was closed")
            if self._why:  # it was ended while nobody listened
                self._reap()
            self._why = ""
            wait = 2 * self._timeout_s + 2  # it has timeouts of its own, for connecting and for the first frame
            wait += START_S if self._start() else 0
            self._deadline = time.perf_counter() + wait, f"{self._name} cannot be opened: its driver has not answered for {wait:.0f} s"
            assert self._channel is not None
            with suppress(OSError):  # the next word says so
                self._channel.send({"open": self._uri, "timeout_s": self._timeout_s})
        while True:
            message = self._next()
            if "opened" in message:
                self._connected, self._since = True, self._count
                self._expect_picture()
                return
            if "failed" in message:
                self._settle()
                _debug(message)
                raise SourceError(str(message["failed"]))

    def arrivals(self) -> Iterator[Arrival]:
        while True:
            message = self._next()
            if "ended" in message:
                self._settle()
                _debug(message)
                if message["ended"]:
                    raise SourceError(str(message["ended"]))
                return
            try:
                arrival = self._heard(message)
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise self._nonsense(error) from error
            if arrival is not None:
                yield arrival

    def overdue(self, now: float) -> str | None:
        asked, deadline = self._asked, self._deadline
        if asked is not None and now - asked[1] > self._timeout_s:
            return f"{self._name} sent a picture that takes longer than {self._timeout_s:g} s to decode"
        return deadline[1] if deadline is not None and now > deadline[0] else None

    def end(self, why: str = "it was closed") -> None:
        with self._lock:
            self._why = self._why or why
            if self._channel is not None:
                self._channel.end()

    def close(self) -> None:
        self._closed = True
        self.end()
        with self._lock:
            self._reap()

    def _start(self) -> bool:
        """Whether there was no process yet. Errors: SourceError."""
        if self._process is not None and self._process.poll() is None:
            return False
        self._reap()
        ours, theirs = socket.socketpair()
        with theirs:
            words = [sys.executable, "-c", CODE, json.dumps(sys.path), str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # what libraries print there is in its messages, or of no use
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C in a terminal is for dk-run alone
                )
            except OSError as error:
                ours.close()
                raise SourceError(f"{self._name}: its decoder cannot be started ({error.strerror})") from error
        self._channel, self._count = Channel(ours), 0
        self._messages = self._channel.messages()
        return True

    def _next(self) -> Message:
        """The next thing it says. Errors: SourceError when it is gone, was ended, or talks nonsense."""
        try:
            message = next(self._messages, None)
        except OSError:
            message = None
        except (ValueError, RecursionError) as error:
            raise self._nonsense(error) from error
        if message is None:
            raise SourceError(self._gone())
        return message[0]

    def _heard(self, message: Message) -> Arrival | None:
        """Errors: ValueError, KeyError, TypeError for what nobody can have meant."""
        if "arrived" in message:
            number, at = int(message["arrived"]), float(message["at"])
            if number < self._count or not math.isfinite(at):
                raise ValueError(f"picture {number} at {at}")
            self._expect_picture()
            skipped, self._count = number - self._count, number + 1
            return Arrival(min(at, time.perf_counter()), partial(self._take, number), skipped)
        if "needs" in message:
            self._make_room(int(message["needs"]))
        elif "picture" in message or "gone" in message:
            self._answer(message)
        return None

    def _nonsense(self, error: Exception) -> SourceError:
        self.end(f"{self._name}: its decoder sent what cannot be understood ({error})")
        return SourceError(self._gone())

    def _gone(self) -> str:
        """Why nothing comes from the process any more, which is ended for certain."""
        self._settle()
        with self._lock:
            why, process = self._why, self._process
            self._reap()
        if why or process is None:
            return why or "it was closed"
        code = process.returncode
        return f"{self._name}: its decoder " + (f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}")

    def _reap(self) -> None:
        """Wait for a process that takes its leave; kill one that stays."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVE_S)
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # one that even the kernel cannot end at once is not waited for
                self._process.wait(LEAVE_S)
        if self._channel is not None:
            self._channel.close()
        if self._room is not None:
            self._room.close()
        self._process = self._channel = self._room = None

    def _settle(self) -> None:
        """The connection is over: nobody waits for a picture that will not come."""
        self._connected, self._deadline, asked = False, None, self._asked
        self._asked = None
        if asked is not None:
            asked[2].set_exception(Gone())

    def _expect_picture(self) -> None:
        wait = self._timeout_s + 1  # what reads with a timeout says so before
        self._deadline = time.perf_counter() + wait, f"{self._name}: its driver has not answered for {wait:.0f} s"

    def _take(self, number: int) -> Future[NDArray[np.uint8] | None]:
        future: Future[NDArray[np.uint8] | None] = Future()
        with self._lock:
            if self._channel is None or self._why or self._asked is not None or not self._connected or number < self._since:
                future.set_exception(Gone())
                return future
            self._asked = number, time.perf_counter(), future
            with suppress(OSError):  # the next word says so
                self._channel.send({"take": number})
        return future

    def _make_room(self, size: int) -> None:
        if not 0 < size <= 3 * MOST_PIXELS:
            raise ValueError(f"a picture of {size} bytes")
        with self._lock:
            if self._channel is None:
                return
            if self._room is not None:
                self._room.close()
            self._room = Room(size)
            self._channel.send({"room": size}, self._room.descriptor)

    def _answer(self, message: Message) -> None:
        asked, number = self._asked, int(message.get("picture", message.get("gone", -1)))
        if 0 <= number < self._since:
            return  # asked for on a connection that has ended
        if asked is None or asked[0] != number:
            raise ValueError("a picture that nobody asked for")
        picture: NDArray[np.uint8] | None = None
        if message.get("size") is not None:
            height, width = (int(side) for side in message["size"])
            if self._room is None or not (height > 0 and width > 0 and 3 * height * width <= self._room.size):
                raise ValueError(f"a picture of {height}x{width} pixels")
            picture = self._room.pixels(height, width).copy()
        self._asked = None
        if "gone" in message:
            asked[2].set_exception(Gone())
        else:
            asked[2].set_result(picture)


def _debug(message: Message) -> None:
    if "trace" in message:
        log.debug("%s", message["trace"])
