"""One good camera beside everything that a hostile one can send, and beside hostile pictures on the page: what it costs the good one."""

from __future__ import annotations

import argparse
import http.client
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.runtime.live.camera_server import BOUNDARY, CameraServer, free_port, wait_until
from tests.runtime.live.hostile import PICTURES
from tests.runtime.live.hostile_servers import HTTP, RTSP, HostileServer

FPS = 10.0  # of the good camera
BEFORE_S, ATTACK_S = 4.0, 6.0


class GoodCamera(CameraServer):
    """A road-sized picture at a steady rate."""

    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (9, 9), 3))[1].tobytes()

    def _picture(self, client: Any, fault: str) -> bool:
        client.sendall(BOUNDARY % len(self.data) + self.data + b"\r\n")
        return True


def attacks() -> dict[str, tuple[str, Callable[..., Any]]]:
    """By name: "http", "rtsp" or "explain", and what answers or what is posted."""
    streams = {name: ("http", answer) for name, answer in HTTP.items()} | {name: ("rtsp", answer) for name, answer in RTSP.items()}
    return streams | {f"explain: {name}": ("explain", make) for name, make in PICTURES.items()}


def hostile(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bounds: rate ≥ 0.95 of before, memory within 300 MB of before, the page answers within 1 s, SIGTERM ends within 2 s."""
    rows = []
    for number, (name, (kind, what)) in enumerate(attacks().items()):
        if arguments.only and arguments.only not in name:
            continue
        place = folder / str(number)
        place.mkdir()
        row = {"attack": name, **_one(place, kind, what)}
        row["held"] = row["rate"] >= 0.95 and row["memory_mb"] <= 300 and row["page_s"] <= 1 and row["end_s"] <= 2 and row["visits"] == 0
        rows.append(row)
        print(row, flush=True)
    worst = {
        "rate": min(row["rate"] for row in rows),
        "rate_median": statistics.median(row["rate"] for row in rows),
        "memory_mb": max(row["memory_mb"] for row in rows),
        "page_s": max(row["page_s"] for row in rows),
        "end_s": max(row["end_s"] for row in rows),
        "visits": sum(row["visits"] for row in rows),
    }
    return {
        "attacks": len(rows),
        "worst": worst,
        "broken": [row for row in rows if not row["held"]],
        "held": all(row["held"] for row in rows),
    }


def _one(place: Path, kind: str, what: Callable[..., Any]) -> dict[str, Any]:
    from tests.runtime.live.endurance import Run

    good, port, page = GoodCamera(FPS), free_port(), free_port()
    scheme = "rtsp" if kind == "rtsp" else "http"
    sources = ["--source", good.uri, "--source", f"{scheme}://127.0.0.1:{port}/camera"]
    run = Run(place, *sources, "--headless", "--wait", "--frame-timeout", 2, "--sink", f"http://127.0.0.1:{page}")
    wait_until(lambda: len(run.lines()) > 10, 60)
    time.sleep(1)

    def rate(seconds: float) -> float:
        start, before = time.perf_counter(), len(_good(run))
        time.sleep(seconds)
        return (len(_good(run)) - before) / (time.perf_counter() - start)

    ordinary, memory = rate(BEFORE_S), run.resources()["memory_kb"]
    most, slowest, stop = 0, 0.0, threading.Event()

    def watch() -> None:
        nonlocal most, slowest
        while not stop.wait(0.1):
            with suppress(OSError, KeyError):
                most = max(most, run.resources()["memory_kb"])
            start = time.perf_counter()
            with suppress(OSError, http.client.HTTPException):
                _ask(page, "GET", "/healthz")
            slowest = max(slowest, time.perf_counter() - start)

    def post() -> None:
        body = what()
        while not stop.is_set():
            with suppress(OSError, http.client.HTTPException):
                _ask(page, "POST", "/explain", body)

    server = HostileServer(what, port) if kind != "explain" else None
    threads = [threading.Thread(target=watch, daemon=True)]
    threads += [threading.Thread(target=post, daemon=True) for _ in range(2 if kind == "explain" else 0)]
    for thread in threads:
        thread.start()
    under_attack = rate(ATTACK_S)
    end_s = run.end()
    stop.set()
    for thread in threads:
        thread.join(5)
    visits, asked = (server.visits, server.asked) if server is not None else (0, 0)
    if server is not None:
        server.close()
    good.kill()
    assert run.process.returncode == 0, f"exit code {run.process.returncode}: {(place / 'log.txt').read_text()[-500:]}"
    return {
        "rate": round(under_attack / ordinary, 3),
        "rate_before": round(ordinary, 2),
        "memory_mb": round((most - memory) / 1024),
        "page_s": round(slowest, 3),
        "end_s": round(end_s, 2),
        "asked": asked,
        "visits": visits,
    }


def _good(run: Any) -> list[dict[str, Any]]:
    return [line for line in run.lines() if line.get("camera") == 0]


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        connection.getresponse().read()
    finally:
        connection.close()
