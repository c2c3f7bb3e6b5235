"""An MJPEG camera over HTTP that can be told to fail; each picture says which one it is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import cv2
import numpy as np

BOUNDARY = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


def numbered(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A picture whose grey level says its number modulo 8, with some texture."""
    picture = np.full((height, width, 3), 20 + 30 * (number % 8), np.uint8)
    picture[::7] //= 2
    return picture


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class CameraServer:
    """Sends pictures at ``fps`` to whoever connects.

    faults, one taken at a time between pictures: "cut" (in mid-picture), "garbage" (bytes that are no picture),
    "bad" (a damaged picture), "silent" (no more, the connection stays open), "half" (silent in mid-picture), "end", "resize" (another
    size from here on). raw: sent in place of every picture.
    """

    def __init__(self, fps: float = 50.0, port: int = 0) -> None:
        self.fps, self.faults, self.size = fps, [], (96, 128)  # type: tuple[float, list[str], tuple[int, int]]
        self._clients: list[socket.socket] = []
        self._up = threading.Event()
        self.raw: bytes | None = None
        self.port = port
        self.sent = 0
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/video"

    def start(self) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(8)
        self.port = self._listener.getsockname()[1]
        self._up.set()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def kill(self) -> None:
        """As a killed process: the port closes, connections are reset."""
        self._up.clear()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self._clients:
            with suppress(OSError):  # some have gone already
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
        self._clients.clear()

    def _accept(self, listener: socket.socket) -> None:
        while self._up.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            due = time.perf_counter()
            while True:
                if not self._picture(client, self.faults.pop(0) if self.faults else ""):
                    return
                due = max(due + 1 / self.fps, time.perf_counter() - 1)
                time.sleep(max(0.0, due - time.perf_counter()))
        except OSError:
            return

    def _picture(self, client: socket.socket, fault: str) -> bool:
        if fault == "resize":
            self.size = (self.size[1], self.size[0] + 32)
        data = cv2.imencode(".jpg", numbered(self.sent, *self.size))[1].tobytes()
        data = self.raw or data
        self.sent += 1
        if fault == "garbage":
            client.sendall(np.random.default_rng(self.sent).bytes(5000))
        if fault == "bad":
            middle = len(data) // 2
            data = data[:middle] + np.random.default_rng(self.sent).bytes(len(data) - middle)
        if fault in ("cut", "half"):
            client.sendall(BOUNDARY % len(data) + data[: len(data) // 2])
        if fault in ("silent", "half"):
            threading.Event().wait(600)
        if fault in ("cut", "end"):
            client.shutdown(socket.SHUT_RDWR)
            client.close()
            return False
        client.sendall(BOUNDARY % len(data) + data + b"\r\n")
        return True


def wait_until(true: object, seconds: float = 10.0, words: Sequence[str] = ()) -> None:
    """Until a callable says so. Fails after ``seconds``."""
    assert callable(true)
    end = time.perf_counter() + seconds
    while not true():
        assert time.perf_counter() < end, f"not within {seconds} s {' '.join(words)}"
        time.sleep(0.01)
