"""The decoder process: one camera at a time, its newest pictures, decoded when they are asked for."""

from __future__ import annotations

import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from itertools import count
from typing import Any

from dkcam.errors import DkcamError
from dkcam.runtime.live.decoder import confine
from dkcam.runtime.live.decoder.wire import Channel, Room
from dkcam.runtime.live.stream import Grab, Limits, Stream, is_network, open_stream
from dkcam.runtime.process import keep_freed_memory

KEPT = 3  # newest pictures; the one that is asked for is the newest, or nearly
MOST_A_SECOND = 240  # pictures
GRACE_S = 0.25  # to take leave of a camera


def main(descriptor: int) -> None:
    """descriptor: of the socket to dk-run. Ends with it."""
    for number in (signal.SIGTERM, signal.SIGINT):  # systemd sends them to every process of a service; dk-run says when it is over
        signal.signal(number, signal.SIG_IGN)
    keep_freed_memory()
    _Child(Channel(socket.socket(fileno=descriptor))).run()


class _Child:
    """Three threads: the one of ``run`` reads the camera, one decodes, one listens to dk-run."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._opens: queue.SimpleQueue[tuple[str, float, Limits]] = queue.SimpleQueue()
        self._takes: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._rooms: queue.SimpleQueue[Room] = queue.SimpleQueue()
        self._room: Room | None = None
        self._kept: deque[tuple[int, Grab]] = deque(maxlen=KEPT)
        self._numbers = count()  # of pictures
        self._leaving = threading.Event()
        self._is_limited = self._is_last = self._has_filter = False

    def run(self) -> None:
        for work in (self._listen, self._decode):
            threading.Thread(target=work, daemon=True).start()
        while not self._leaving.is_set():
            uri, timeout_s, limits = self._opens.get()
            try:
                if self._connection(uri, timeout_s, limits):
                    break
            except OSError:  # dk-run is gone
                break
        os._exit(0)  # whatever native code the other threads are in

    def _connection(self, uri: str, timeout_s: float, limits: Limits) -> bool:
        """Whether it was the last: what was given up for one connection is not there for another."""
        if is_network(uri) and not self._is_limited:
            import av  # noqa: F401  # what libraries take is no camera's doing
            import cv2  # noqa: F401

            self._has_filter = confine.limit(limits.memory << 20)
            self._is_limited = True
        self._channel.send({"started": True, "filter": self._has_filter or not self._is_limited})
        try:
            stream = open_stream(uri, timeout_s, limits, self._leave_network)
        except DkcamError as error:
            self._channel.send({"failed": str(error), "last": self._is_last})
            return self._is_last
        except Exception as error:  # a driver's own kinds
            self._channel.send({"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(), "last": self._is_last})
            return self._is_last
        self._is_last = True
        self._channel.send({"opened": True})
        ended: dict[str, Any] = {"ended": ""}
        try:
            self._read(stream)
        except DkcamError as error:
            ended = {"ended": str(error)}
        except Exception as error:
            ended = {"ended": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        finally:
            stream.close()
        self._kept.clear()
        self._channel.send({**ended, "last": True})
        return True

    def _leave_network(self) -> None:
        if not self._is_last:
            confine.leave_network()
        self._is_last = True

    def _read(self, stream: Stream) -> None:
        due = 0.0
        for grab, late_s in stream.grabs():
            if self._leaving.is_set():
                return
            time.sleep(max(0.0, due - time.perf_counter()))  # a flood waits in the camera
            due = time.perf_counter() + 1 / MOST_A_SECOND
            number = next(self._numbers)
            self._kept.append((number, grab))
            self._channel.offer({"arrived": number, "at": time.perf_counter() - late_s})

    def _listen(self) -> None:
        with suppress(OSError):
            for message, descriptor in self._channel.messages():
                if "open" in message:
                    self._opens.put((message["open"], message["timeout_s"], Limits(**message["limits"])))
                elif "take" in message:
                    self._takes.put(message["take"])
                elif "room" in message and descriptor is not None:
                    self._rooms.put(Room(message["room"], descriptor))
        self._leaving.set()
        self._opens.put(("", 0.0, Limits()))  # wakes a reader that waits for work
        time.sleep(GRACE_S)
        os._exit(0)

    def _decode(self) -> None:
        while True:
            number = self._takes.get()
            grab = next((grab for kept, grab in list(self._kept) if kept == number), None)
            try:
                self._channel.send({"gone": number} if grab is None else self._decoded(number, grab))
            except OSError:
                return

    def _decoded(self, number: int, grab: Grab) -> dict[str, Any]:
        try:
            picture = grab()
        except Exception:  # of whatever kind: this picture cannot be had
            picture = None
        if picture is None:
            return {"picture": number, "size": None}
        if self._room is None or self._room.size < picture.nbytes:
            self._channel.send({"needs": picture.nbytes})
            if self._room is not None:
                self._room.close()
            self._room = self._rooms.get()
        height, width = picture.shape[:2]
        self._room.pixels(height, width)[:] = picture
        return {"picture": number, "size": [height, width]}
