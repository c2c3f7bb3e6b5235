"""Headless Chromium over its debugging protocol: open a page, run JavaScript in it, take a screenshot."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    def __init__(self, folder: Path, width: int = 1280, height: int = 800) -> None:
        program = find()
        assert program is not None
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--window-size={width},{height}"]
        command = [program, *options, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._numbers = itertools.count(1)
        mark = folder / "DevToolsActivePort"
        end = time.monotonic() + 30
        while not (mark.exists() and len(mark.read_text().splitlines()) == 2):
            assert time.monotonic() < end and self._process.poll() is None, "Chromium did not start"
            time.sleep(0.05)
        self._port = int(mark.read_text().split()[0])
        self._socket: Any = None
        self._open = ExitStack()

    def __enter__(self) -> Chromium:
        from websockets.sync.client import connect

        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/json/list") as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        self._socket = self._open.enter_context(connect(page["webSocketDebuggerUrl"], max_size=1 << 26, proxy=None))
        self.send("Page.enable")
        self.send("Runtime.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()
        self._process.kill()
        self._process.wait()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, condition: str, seconds: float = 10.0) -> float:
        """Seconds until a JavaScript condition holds."""
        start = time.perf_counter()
        while not self.run(condition):
            assert time.perf_counter() - start < seconds, f"{condition}: not within {seconds} s"
            time.sleep(0.02)
        return time.perf_counter() - start

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        return path
