"""Single pictures that strangers send, decoded in a process of their own: without network, within limits, killed when it is slow."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError
from dkcam.runtime.live.decoder import launch
from dkcam.runtime.live.decoder.wire import Channel, Room
from dkcam.runtime.live.stream import Limits

CODE = launch.CODE.format("picture_child")
DECODE_S = 5.0  # for a picture
ENDING = "dk-run is ending; no further picture is explained"


class PictureDecoder:
    """``decode`` from any thread, one picture at a time. The process starts with the first picture, and again after one that ended it."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008
        self._limits = limits
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._messages: Iterator[tuple[Mapping[str, Any], int | None]] = iter(())
        self._closed = False
        self._late = threading.Event()

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process else None

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """JPEG, PNG, WebP, BMP or TIFF as uint8 [H, W, 3] BGR. Errors: InputError."""
        if not data:
            raise InputError("the body is empty; expected a picture")
        with self._turn:
            if self._closed:
                raise InputError(ENDING)
            try:
                return self._decoded(data)
            except InputError:
                raise
            except Exception as error:  # whatever its decoder did or sent
                late = self._end()
                if self._closed:
                    raise InputError(ENDING) from None
                cause = f"it takes longer than {DECODE_S:g} s" if late else "its decoder ended over it"
                raise InputError(f"the picture cannot be decoded: {cause}") from error

    def close(self) -> None:
        """At once, also while a picture is being decoded."""
        self._closed = True
        process, channel = self._process, self._channel
        if process is not None:
            process.kill()
        if channel is not None:
            channel.end()
        with self._turn:
            self._end()

    def _decoded(self, data: bytes) -> NDArray[np.uint8]:
        channel = self._started()
        with Room.of(len(data)) as body, self._deadline(DECODE_S):
            body.view(len(data))[:] = data
            channel.send({"room": len(data)}, body.descriptor)
            message = self._next()
            if "failed" in message:
                raise InputError(str(message["failed"]))
            height, width = (int(side) for side in message["size"])
            if not (height > 0 and width > 0 and height * width <= self._limits.pixels):
                raise ValueError(f"a picture of {height}x{width} pixels")
            with Room.of(3 * height * width) as room:
                channel.send({"room": room.size}, room.descriptor)
                if "picture" not in self._next():
                    raise ValueError("no picture")
                return room.pixels(height, width).copy()

    def _started(self) -> Channel:
        if self._channel is None or self._process is None or self._process.poll() is not None:
            self._end()
            self._process, self._channel = launch.start(CODE)
            if self._closed:  # meanwhile, when there was nothing yet to be killed
                raise OSError("closed")
            self._messages = self._channel.messages()
            with self._deadline(launch.START_S):
                self._channel.send({"memory": self._limits.memory})
                self._next()
        return self._channel

    def _next(self) -> Mapping[str, Any]:
        return next(self._messages)[0]

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """The process is killed when the block has not ended by then; what waits for it sees that."""
        assert self._process is not None
        self._late = threading.Event()
        process, late = self._process, self._late

        def kill() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self) -> bool:
        """Be rid of the process; whether it was the deadline that ended it."""
        late = self._late.is_set()
        if self._channel is not None:
            self._channel.close()
        if self._process is not None:
            with suppress(OSError):
                self._process.kill()
            launch.end(self._process)
        self._process = self._channel = None
        return late
