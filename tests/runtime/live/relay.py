"""Stands between a camera and dkcam, and stops passing things on."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Relay:
    """Passes connections on to ``port`` of this machine.

    how: "pass", "silent" (nothing more comes through), "half" (half of what came last, then nothing), "mute" (new connections are
    accepted, and nothing is ever said).
    """

    def __init__(self, port: int) -> None:
        self.how, self._to = "pass", port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End every connection."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                if self.how != "mute":
                    camera = socket.create_connection(("127.0.0.1", self._to))
                    self._open.append(camera)
                    for pair in ((client, camera), (camera, client)):
                        threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.how == "half":
                    target.sendall(data[: len(data) // 2])
                    self.how = "silent"
                if self.how == "silent":
                    threading.Event().wait(600)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
