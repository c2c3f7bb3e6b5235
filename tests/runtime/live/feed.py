"""A page that is fed from a test."""

from __future__ import annotations

import http.client
import json
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import dkcam
from dkcam.runtime.controls import Controls
from dkcam.runtime.delivery import Explained, result_of
from dkcam.runtime.frame import Frame
from dkcam.runtime.live.page import PageSink
from dkcam.runtime.live.page.app import Context
from dkcam.runtime.live.page.metrics import Metrics
from tests.runtime.live.camera_server import wait_until


class Feed:
    """A page with two cameras that are fed from here, as a pipeline would."""

    def __init__(self, model: Path, *, token: str | None = None, host: str = "127.0.0.1") -> None:
        self.explainer = dkcam.load(model, device="cpu")
        self.controls = Controls()
        self.metrics = Metrics([], None, "model.onnx")
        self.live = [True, True]
        self.context = Context("model.onnx", self.controls, lambda: self.explainer, self.metrics, self._cameras)
        self.page = PageSink(f"http://{host}:0", self.context, token=token)
        self._stop = threading.Event()
        self.fps, self.sent = 30.0, 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.sent > 1)

    def _cameras(self) -> list[dict[str, Any]]:
        names = ("front", "rear")
        return [
            {"camera": k, "name": names[k], "live": self.live[k], "reason": "", "shots": 1, "dropped": 0, "reopened": 0} for k in range(2)
        ]

    def _run(self) -> None:
        while not self._stop.wait(1 / self.fps):
            for camera in range(2):
                picture = self.picture()
                settings = self.controls.settings
                start = time.perf_counter()
                said = self.explainer.infer(self.explainer.prepare(picture), settings.classes)
                said = self.controls.focused(camera, said)
                frame = Frame(picture, self.sent, ("front", "rear")[camera], time.perf_counter(), camera=camera)
                done = Explained(frame, said, 0.0, 0.0, 1.0, start)
                self.page.write(result_of(done, style=settings.style, watch=None, picture=self.page.pictures, fps=30, dropped=0))
            self.sent += 1

    def picture(self) -> np.ndarray:
        """The next frame, uint8 [H, W, 3] BGR: a white circle that moves."""
        picture = np.full((90, 160, 3), 40, np.uint8)
        cv2.circle(picture, (10 + 3 * (self.sent % 45), 45), 9, (255, 255, 255), -1)
        return picture

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.page.close()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.page.port, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, data = self.ask(method, path, None if body is None else json.dumps(body).encode())
        return status, json.loads(data)
