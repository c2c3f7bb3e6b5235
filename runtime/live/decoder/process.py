"""dk-run's side of a decoder process: started, asked, and killed when it does not answer."""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import SourceError
from dkcam.runtime.live.decoder import launch
from dkcam.runtime.live.decoder.wire import Channel, Room
from dkcam.runtime.live.link import Arrival, Gone
from dkcam.runtime.live.stream import Limits, is_network, shown

log = logging.getLogger("dkcam")

CODE = launch.CODE.format("child")
MOST_PIXELS = 100_000_000  # of a camera of this machine
MOST_NUMBER = 1 << 53  # of a picture: a float holds it
MOST_MESSAGES = 2000  # a second
DECODE_S = 2.0  # for a picture; what takes longer is made to take long

Message = Mapping[str, Any]


class Decoder:
    """A camera read in a process of its own. See ``link.Link``.

    The process ends with its connection, and another is made for the next. uri: of the camera. timeout_s: silence after which
    a camera counts as gone.
    """

    def __init__(self, uri: str, timeout_s: float, limits: Limits = Limits()) -> None:  # noqa: B008
        self._uri, self._timeout_s, self._limits, self._name = uri, timeout_s, limits, shown(uri)
        self._most_bytes = 3 * (limits.pixels if is_network(uri) else MOST_PIXELS)
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
        self._count = 0  # of pictures that arrived on this connection
        self._connections = 0
        self._second, self._heard_count = 0.0, 0  # of messages, in that second

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
            self._start()
            self._deadline = time.perf_counter() + launch.START_S, f"{self._name}: its decoder does not start"
            assert self._channel is not None
            with suppress(OSError):  # the next word says so
                self._channel.send({"open": self._uri, "timeout_s": self._timeout_s, "limits": asdict(self._limits)})
        started = False
        while True:
            message = self._next()
            if "started" in message and not started:
                started = True
                self._expect_opening()
                if not message.get("filter", True):
                    log.info("%s: this machine has no filter of system calls; its decoder runs without", self._name)
            if "opened" in message:
                self._connected, self._connections = True, self._connections + 1
                self._expect_picture()
                return
            if "failed" in message:
                self._over(message)
                raise SourceError(str(message["failed"]))

    def arrivals(self) -> Iterator[Arrival]:
        while True:
            message = self._next()
            if "ended" in message:
                self._over(message)
                if message["ended"]:
                    raise SourceError(str(message["ended"]))
                return
            try:
                arrival = self._heard(message)
            except SourceError as error:  # a picture of a size that nobody can use
                self.end(f"{self._name}: {error}")
                raise SourceError(self._gone()) from error
            except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
                raise self._nonsense(error) from error
            if arrival is not None:
                yield arrival

    def overdue(self, now: float) -> str | None:
        asked, deadline = self._asked, self._deadline
        if asked is not None and now - asked[1] > DECODE_S:
            return f"{self._name} sent a picture that takes longer than {DECODE_S:g} s to decode"
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

    def _start(self) -> None:
        """The process, where there is none yet. Errors: SourceError."""
        if self._process is not None and self._process.poll() is None:
            return
        self._reap()
        try:
            self._process, self._channel = launch.start(CODE)
        except OSError as error:
            raise SourceError(f"{self._name}: its decoder cannot be started ({error.strerror})") from error
        self._count = 0
        self._messages = self._channel.messages()

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
        now = time.perf_counter()
        if now - self._second > 1:
            self._second, self._heard_count = now, 0
        self._heard_count += 1
        if self._heard_count > MOST_MESSAGES:
            raise self._nonsense(ValueError(f"more than {MOST_MESSAGES} messages a second"))
        return message[0]

    def _heard(self, message: Message) -> Arrival | None:
        """Errors: ValueError, KeyError, TypeError for what nobody can have meant."""
        if "arrived" in message:
            number, at = int(message["arrived"]), float(message["at"])
            if not self._count <= number < MOST_NUMBER or not math.isfinite(at):
                raise ValueError(f"picture {number} at {at}")
            self._expect_picture()
            skipped, self._count = number - self._count, number + 1
            return Arrival(min(at, time.perf_counter()), partial(self._take, number, self._connections), skipped)
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
        if code is None:
            return f"{self._name}: its decoder does not end"
        if code >= 0:
            return f"{self._name}: its decoder ended with code {code}"
        known = -code in {one.value for one in signal.Signals}
        return f"{self._name}: its decoder was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"

    def _reap(self) -> None:
        if self._process is not None:
            launch.end(self._process)
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

    def _over(self, message: Message) -> None:
        self._settle()
        if message.get("last"):
            with self._lock:
                self._reap()
        if "trace" in message:
            log.debug("%s", message["trace"])

    def _expect_opening(self) -> None:
        wait = 2 * self._timeout_s + 2  # it has timeouts of its own, for connecting and for the first frame
        self._deadline = time.perf_counter() + wait, f"{self._name} cannot be opened: its driver has not answered for {wait:.0f} s"

    def _expect_picture(self) -> None:
        wait = self._timeout_s + 1  # what reads with a timeout says so before
        self._deadline = time.perf_counter() + wait, f"{self._name}: its driver has not answered for {wait:.0f} s"

    def _take(self, number: int, connection: int) -> Future[NDArray[np.uint8] | None]:
        future: Future[NDArray[np.uint8] | None] = Future()
        with self._lock:
            if self._channel is None or self._why or self._asked is not None or not self._connected or connection != self._connections:
                future.set_exception(Gone())
                return future
            self._asked = number, time.perf_counter(), future
            with suppress(OSError):  # the next word says so
                self._channel.send({"take": number})
        return future

    def _make_room(self, size: int) -> None:
        if not 0 < size <= self._most_bytes:
            raise ValueError(f"a picture of {size} bytes")
        if self._asked is None:
            raise ValueError("memory that nobody asked a picture for")
        with self._lock:
            if self._channel is None:
                return
            if self._room is not None:
                self._room.close()
            self._room = Room(size)
            self._channel.send({"room": size}, self._room.descriptor)

    def _answer(self, message: Message) -> None:
        asked, number = self._asked, int(message.get("picture", message.get("gone", -1)))
        if asked is None or asked[0] != number:
            raise ValueError("a picture that nobody asked for")
        picture: NDArray[np.uint8] | None = None
        if message.get("size") is not None:
            height, width = (int(side) for side in message["size"])
            if self._room is None or not (height > 0 and width > 0 and 3 * height * width <= self._room.size):
                raise ValueError(f"a picture of {height}x{width} pixels")
            if is_network(self._uri):
                self._limits.check(height, width)
            picture = self._room.pixels(height, width).copy()
        self._asked = None
        if "gone" in message:
            asked[2].set_exception(Gone())
        else:
            asked[2].set_result(picture)
