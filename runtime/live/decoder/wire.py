"""What a camera's two processes say to each other: JSON objects, one a line, over a socket pair; pixels in shared memory.

to the decoder     {"open": uri, "timeout_s": s, "limits": {…}}   connect; limits: of stream.Limits
                   {"take": n}                     decode picture n into the shared memory
                   {"room": bytes} + descriptor    new shared memory
to dk-run          {"started": true, "filter": f}  about to connect; filter: of system calls, see confine
                   {"opened": true}                connected
                   {"failed": why, "last": l}      not connected; last: the process ends, too
                   {"arrived": n, "at": t}         a picture, numbered, not decoded yet; t of time.perf_counter,
                                                   less what it waited on the way
                   {"needs": bytes}                the shared memory is too small
                   {"picture": n, "size": [h, w]}  it lies in the shared memory; size null: it was damaged
                   {"gone": n}                     newer ones have taken its place
                   {"ended": why, "last": true}    the connection is over, and the process

JSON and a copy of the pixels, since the decoder may have been taken over by what a camera sent: nothing it says is run, and
nothing it writes later changes a picture that was taken.
"""

from __future__ import annotations

import array
import fcntl
import json
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 1 << 16  # bytes of a line


class Channel:
    """One end of the socket pair. Errors of sending and receiving: OSError; ValueError for what is no message.

    is_run: dk-run's end. It never waits for the other side to read (BlockingIOError), and takes no descriptors from it.
    """

    def __init__(self, end: socket.socket, *, is_run: bool = False) -> None:
        self._socket, self._is_run = end, is_run

    def send(self, message: Mapping[str, Any], descriptor: int | None = None) -> None:
        """descriptor: to go with it, from dk-run's end only."""
        data = json.dumps(message).encode() + b"\n"
        if self._is_run:
            rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
            if self._socket.sendmsg([data], rights, socket.MSG_DONTWAIT) < len(data):
                raise BlockingIOError("the other side does not read")
            return
        self._socket.sendall(data)

    def offer(self, message: Mapping[str, Any]) -> None:
        """As ``send``, but where the other side does not read, nothing is sent and nobody waits."""
        data = json.dumps(message).encode() + b"\n"
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        self._socket.sendall(data[sent:])

    def messages(self) -> Iterator[tuple[Mapping[str, Any], int | None]]:
        """Each with the descriptor that came with it, until the other side is gone."""
        held = b""
        descriptors: list[int] = []
        while True:
            if self._is_run:
                data, ancillary = self._socket.recv(LONGEST), list[Any]()
            else:
                data, ancillary, _, _ = self._socket.recvmsg(LONGEST, socket.CMSG_SPACE(array.array("i").itemsize))
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors += array.array("i", rights)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            if len(held) > LONGEST:
                raise ValueError("a message without end")
            for line in lines:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError(f"no message: {line[:60]!r}")
                yield message, descriptors.pop(0) if "room" in message and descriptors else None

    def end(self) -> None:
        """Both sides' waits end at once."""
        with suppress(OSError):  # the other side has gone before
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class Room:
    """Shared memory for one picture, or a file. descriptor: goes to the decoder, which can neither shrink nor grow it."""

    def __init__(self, size: int, descriptor: int | None = None) -> None:
        self.size = size
        self.descriptor = _made(size) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, size)

    @classmethod
    @contextmanager
    def of(cls, size: int, descriptor: int | None = None) -> Iterator[Room]:
        """As ``Room``, for the time of a block."""
        room = cls(size, descriptor)
        try:
            yield room
        finally:
            room.close()

    def view(self, size: int) -> memoryview:
        """The first ``size`` bytes."""
        return memoryview(self._memory)[:size]

    def pixels(self, height: int, width: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 3], a view."""
        return np.frombuffer(self._memory, np.uint8, height * width * 3).reshape(height, width, 3)

    def close(self) -> None:
        os.close(self.descriptor)
        with suppress(BufferError):  # a copy is being made; the memory goes with it
            self._memory.close()


def _made(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dkcam-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return descriptor
    with tempfile.TemporaryFile() as file:  # without a name
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())
