"""Long proofs, for a machine that does nothing else: python -m tests.runtime.live.endurance PART [--json FILE].

    restarts   a server that is killed and started again 20 times at random: time to recover, memory
    faults     a server that cuts off, sends garbage or damage, falls silent, ends, changes its size, 20 times
    kills      dk-run killed with signal 9 at a random moment, 20 times: what its files hold
    age        a camera at 60 frames a second, an engine at about 20, for 10 minutes: age of the pictures
    soak       two looping cameras and the page in Chromium for 30 minutes: memory, threads, file handles
    clients    the pipeline's speed with one client, and with a second one on a slow line, in turns
    hostile    a good camera beside each of the hostile ones, and beside hostile pictures on the page: its rate, memory, the end
    stops      SIGINT and SIGTERM, 200 times, in every state a camera can be in: exit code, files, seconds

Needs Debian's ffmpeg, and chromium for soak. Each prints what it found and ends with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from dkcam.runtime.live.camera import FIRST_DELAY_S, LONGEST_DELAY_S
from tests.runtime.live.camera_server import BOUNDARY, CameraServer, free_port, wait_until
from tests.runtime.live.chromium import Chromium
from tests.runtime.live.endurance_hostile import hostile
from tests.runtime.live.relay import Relay

COMMAND = [sys.executable, "-c", "from dkcam.tools.run_command import entry; entry()"]


def clip(folder: Path) -> Path:
    """20 seconds of the rendered drive as H.264."""
    from dkcam.runtime.sources import open_source

    path = folder / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 720, 1280, "yuv420p"
        for frame in open_source("demo:frames=500"):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.image, format="bgr24")))
        container.mux(stream.encode())
    return path


def ffmpeg_server(path: Path, port: int) -> subprocess.Popen[bytes]:
    """ffmpeg as an MJPEG camera for one client; it loops the clip at its own speed."""
    words = f"-v quiet -re -stream_loop -1 -i {path} -c:v mjpeg -q:v 4 -threads 1 -f mpjpeg -listen 1 http://127.0.0.1:{port}/camera"
    return subprocess.Popen(["ffmpeg", *words.split()], stdin=subprocess.DEVNULL)


class Run:
    """dk-run, with what Linux says of the process."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.folder, self.events = folder, folder / "e.jsonl"
        self.log = (folder / "log.txt").open("w")
        given = [*COMMAND, *words, "--sink", self.events, "--log", "json"]
        self.process = subprocess.Popen([str(word) for word in given], stdout=subprocess.PIPE, stderr=self.log, text=True)

    def lines(self) -> list[dict[str, Any]]:
        try:
            whole = self.events.read_text().rpartition("\n")[0]
        except FileNotFoundError:  # not there yet, or again not: whether it can be written is tried first
            return []
        return [json.loads(line) for line in whole.splitlines()]

    def size(self) -> int:
        return self.events.stat().st_size if self.events.exists() else 0

    def resources(self) -> dict[str, int]:
        """Of the run and its decoders together."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = {"memory_kb": 0, "threads": 0, "handles": 0}
        for pid in (self.process.pid, *(int(word) for task in tasks for word in task.read_text().split())):
            place = Path(f"/proc/{pid}")
            status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
            found["memory_kb"] += int(status["VmRSS"].split()[0])
            found["threads"] += int(status["Threads"])
            found["handles"] += sum(1 for _ in (place / "fd").iterdir())
        return found

    def alive(self) -> bool:
        return self.process.poll() is None

    def end(self) -> float:
        start = time.perf_counter()
        self.process.terminate()
        self.process.communicate(timeout=20)
        return time.perf_counter() - start


def restarts(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    path, port, rng = clip(folder), free_port(), random.Random(0)
    server = ffmpeg_server(path, port)
    time.sleep(1)
    run = Run(folder, "--source", f"http://127.0.0.1:{port}/camera", "--frame-timeout", 2)
    wait_until(lambda: run.size() > 0, 30)
    time.sleep(10)
    before = run.resources()
    late, waits = [], []
    for _ in range(arguments.times):
        time.sleep(rng.uniform(0.5, 4))
        server.kill()
        server.wait()
        down = rng.uniform(0.1, 6)
        time.sleep(down)
        size, start = run.size(), time.perf_counter()
        server = ffmpeg_server(path, port)
        wait_until(lambda size=size: run.size() > size, LONGEST_DELAY_S + 10)  # type: ignore[misc]
        took = time.perf_counter() - start
        delay, spent = FIRST_DELAY_S, 0.0  # the back-off that may have been under way when the server came back
        while spent + delay < down:
            spent, delay = spent + delay, min(2 * delay, LONGEST_DELAY_S)
        waits.append(took)
        late.append(took - delay)
    time.sleep(5)
    after = run.resources()
    reopened = run.lines()[-1]["reopened"]
    seconds = run.end()
    server.kill()
    worst = max(late)
    return {
        "restarts": arguments.times,
        "reopened": reopened,
        "recovery_s": {"median": statistics.median(waits), "worst": max(waits), "worst_beyond_back_off": worst},
        "before": before,
        "after": after,
        "end_s": seconds,
        "held": worst <= 2 and reopened >= arguments.times and after["memory_kb"] <= 1.05 * before["memory_kb"],
    }


def faults(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    camera, rng, timeout = CameraServer(30), random.Random(0), 2.0
    run = Run(folder, "--source", camera.uri, "--frame-timeout", timeout)
    wait_until(lambda: run.size() > 0, 30)
    time.sleep(10)
    before = run.resources()
    kinds = ("cut", "garbage", "bad", "silent", "end", "resize")
    worst = dict.fromkeys(kinds, 0.0)
    for number in range(arguments.times):
        kind = kinds[number % len(kinds)]
        time.sleep(rng.uniform(0.5, 2))
        camera.faults.append(kind)
        wait_until(lambda: not camera.faults)
        time.sleep(0.05)  # what was on its way has arrived
        start, size = time.perf_counter(), run.size()
        wait_until(lambda size=size: run.size() > size, 20)  # type: ignore[misc]
        late = time.perf_counter() - start - (timeout if kind == "silent" else 0.0)
        worst[kind] = max(worst[kind], late)
    time.sleep(5)
    after = run.resources()
    reopened = run.lines()[-1]["reopened"]
    run.end()
    return {
        "faults": arguments.times,
        "reopened": reopened,
        "worst_recovery_s": worst,
        "before": before,
        "after": after,
        "held": max(worst.values()) <= FIRST_DELAY_S + 2 and after["memory_kb"] <= 1.05 * before["memory_kb"],
    }


def kills(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    path, rng = clip(folder), random.Random(0)
    lost, broken = [], 0
    for number in range(arguments.times):
        port = free_port()
        server = ffmpeg_server(path, port)
        time.sleep(1)
        place = folder / str(number)
        place.mkdir()
        run = Run(place, "--source", f"http://127.0.0.1:{port}/camera", "--sink", place / "o.mp4")
        wait_until(lambda run=run: run.size() > 0, 30)  # type: ignore[misc]
        time.sleep(rng.uniform(2.2, 8))
        run.process.kill()
        run.process.communicate()
        server.kill()
        try:
            found = run.lines()
            with av.open(str(place / "o.mp4")) as container:
                shown = [float(frame.time or 0) for frame in container.decode(video=0)]
            lost.append(found[-1]["time_s"] - found[0]["time_s"] - shown[-1])
        except (ValueError, OSError, IndexError):
            broken += 1
    return {"kills": arguments.times, "broken_files": broken, "seconds_lost": {"median": statistics.median(lost), "worst": max(lost)},
            "held": not broken and max(lost) < 2}  # fmt: skip


def wide_model(folder: Path) -> Path:
    """A full-width ResNet-50 with random weights."""
    return _random_model(folder / "wide.onnx", 1.0, (224, 224))


def small_model(folder: Path) -> Path:
    return _random_model(folder / "small.onnx", 0.125, (64, 96))


def _random_model(path: Path, width: float, size: tuple[int, int]) -> Path:
    import torch

    from dkcam.export.checkpoint import Checkpoint
    from dkcam.export.exporter import export
    from dkcam.export.model import ModelConfig, ResNet
    from dkcam.export.options import ExportOptions

    torch.manual_seed(0)
    model = ResNet(ModelConfig(10, "dropkey", width, None)).eval()
    checkpoint = Checkpoint(model.config, model.state_dict(), tuple("abcdefghij"), size=size)
    path.write_bytes(export(checkpoint, ExportOptions(), check=False).data)
    return path


class Steady:
    """Sends ready-made 720p pictures at a steady rate; costs little."""

    def __init__(self, fps: float) -> None:
        rng = np.random.default_rng(0)
        pictures = [cv2.resize(rng.integers(0, 255, (45, 80, 3), dtype=np.uint8), (1280, 720)) for _ in range(8)]
        self._parts = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
        self._fps = fps
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self.port}/camera"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._send, args=(client,), daemon=True).start()

    def _send(self, client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        due, number = time.perf_counter(), 0
        try:
            while True:
                data = self._parts[number % 8]
                client.sendall(BOUNDARY % len(data) + data + b"\r\n")
                number, due = number + 1, due + 1 / self._fps
                time.sleep(max(0.0, due - time.perf_counter()))
        except OSError:
            client.close()


def age(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    camera = Steady(60)
    run = Run(folder, "--model", wide_model(folder), "--source", camera.uri)
    wait_until(lambda: run.size() > 0, 60)
    time.sleep(60 * arguments.minutes)
    found = run.lines()[20:]
    run.end()
    start = found[0]["time_s"]
    minutes: dict[int, list[float]] = {}
    for line in found:
        minutes.setdefault(int((line["time_s"] - start) // 60), []).append(line["age_ms"])
    ages = [statistics.median(values) for number, values in sorted(minutes.items()) if len(values) > 100]
    periods = np.diff([line["time_s"] for line in found]) * 1e3
    engine = statistics.median(sum(line["latency_ms"][stage] for stage in ("read", "preprocess", "infer")) for line in found)
    median, period = statistics.median(line["age_ms"] for line in found), float(np.median(periods))
    return {
        "frames": len(found),
        "period_ms": period,
        "engine_ms": engine,
        "age_ms": {"median": median, "p99": float(np.quantile([line["age_ms"] for line in found], 0.99)), "by_minute": ages},
        "median_age_in_periods": median / period,
        "held": median <= 1.5 * period and ages[-1] <= 1.1 * ages[0],
    }


def soak(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    path, ports = clip(folder), (free_port(), free_port())
    servers = [ffmpeg_server(path, port) for port in ports]
    time.sleep(1)
    sources = [word for port in ports for word in ("--source", f"http://127.0.0.1:{port}/camera")]
    page = free_port()
    run = Run(folder, *sources, "--sink", f"http://127.0.0.1:{page}", "--max-age", 2)
    wait_until(lambda: run.size() > 0, 30)
    samples: list[dict[str, Any]] = []
    with Chromium(folder / "profile") as browser:
        browser.open(f"http://127.0.0.1:{page}/")
        browser.until("received > 20", 30)
        start = time.monotonic()
        while time.monotonic() - start < 60 * arguments.minutes:
            time.sleep(10)
            samples.append({"s": round(time.monotonic() - start), **run.resources(), "received": browser.run("received")})
        browser.screenshot(folder / "page.png")
        shutil.copy(folder / "page.png", arguments.picture) if arguments.picture else None
    found = run.lines()
    seconds = run.end()
    for server in servers:
        server.kill()
    settled = [sample for sample in samples if sample["s"] >= 120] or samples
    first, last = settled[0], settled[-1]
    return {
        "minutes": arguments.minutes,
        "frames": len(found),
        "lost_cameras": max(line["reopened"] for line in found),
        "pictures_in_browser": samples[-1]["received"],
        "first_after_2_minutes": first,
        "last": last,
        "highest_memory_kb": max(sample["memory_kb"] for sample in settled),
        "memory_growth": last["memory_kb"] / first["memory_kb"] - 1,
        "samples": samples[:: max(1, len(samples) // 30)],
        "end_s": seconds,
        "held": last["memory_kb"] <= 1.02 * first["memory_kb"]
        and last["threads"] <= first["threads"]
        and last["handles"] <= first["handles"],
    }


def _watch(port: int, bytes_a_second: float | None, stop: threading.Event) -> None:
    """A client of the MJPEG stream; with a limit it reads no faster than that."""
    with socket.socket() as client:
        if bytes_a_second:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.settimeout(1)
        while not stop.is_set():
            try:
                size = len(client.recv(4096 if bytes_a_second else 1 << 18))
            except TimeoutError:
                continue
            if bytes_a_second:
                time.sleep(size / bytes_a_second)


def clients(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    camera, port = Steady(100), free_port()
    run = Run(folder, "--source", camera.uri, "--sink", f"http://127.0.0.1:{port}")
    wait_until(lambda: run.size() > 0, 30)
    forever = threading.Event()
    threading.Thread(target=_watch, args=(port, None, forever), daemon=True).start()
    time.sleep(3)

    def frames() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith("dkcam_frames_total")))

    def speed(seconds: float = 10) -> float:
        time.sleep(1)
        first, start = frames(), time.perf_counter()
        time.sleep(seconds)
        return (frames() - first) / (time.perf_counter() - start)

    ratios, alone = [], []
    for _ in range(arguments.times // 2):
        one = speed()
        stop = threading.Event()
        slow = threading.Thread(target=_watch, args=(port, 50_000, stop), daemon=True)
        slow.start()
        ratios.append(speed() / one)
        alone.append(one)
        stop.set()
        slow.join()
    run.end()
    forever.set()
    found = statistics.median(ratios)
    return {"fps_with_one_client": statistics.median(alone), "fps_ratio_with_a_slow_second": found, "ratios": ratios, "held": found >= 0.95}


def stops(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """SIGINT and SIGTERM while cameras are live, silent, in mid-frame or being connected to; over MJPEG and RTSP; one and three of them."""
    model = small_model(folder)
    rtsp_port = free_port()
    rtsp = subprocess.Popen(["/usr/bin/python3", str(Path(__file__).with_name("rtsp_server.py")), str(rtsp_port)], stdout=subprocess.PIPE)
    assert rtsp.stdout is not None and rtsp.stdout.readline() == b"ready\n"
    mjpeg = Steady(30)
    kinds = {"mjpeg": (mjpeg.port, "http://127.0.0.1:{}/camera"), "rtsp": (rtsp_port, "rtsp://127.0.0.1:{}/camera")}
    cases = list(itertools.product(kinds, (1, 3), ("pass", "silent", "half", "mute"), (signal.SIGINT, signal.SIGTERM)))
    rng = random.Random(0)
    slowest, wrong = 0.0, []
    for number in range(arguments.times):
        kind, count, how, sent = cases[number % len(cases)]
        port, address = kinds[kind]
        relays = [Relay(port) for _ in range(count)]
        place = folder / str(number)
        place.mkdir()
        sources = [word for relay in relays for word in ("--source", address.format(relay.port))]
        run = Run(place, *sources, "--model", model, "--sink", place / "o.mp4", "--frame-timeout", 2)
        try:
            wait_until(lambda run=run: len(run.lines()) > 5, 30)  # type: ignore[misc]
            time.sleep(rng.uniform(0, 0.3))
            for relay in relays:
                relay.how = how
                if how == "mute":
                    relay.cut()
            time.sleep(rng.uniform(0, 1.5))
            start = time.perf_counter()
            run.process.send_signal(sent)
            run.process.communicate(timeout=30)
            seconds = time.perf_counter() - start
            slowest = max(slowest, seconds)
            lines = (place / "e.jsonl").read_text().splitlines()
            whole = all(json.loads(line) for line in lines) and len(lines) > 5
            with av.open(str(place / "o.mp4")) as container:
                whole = whole and sum(1 for _ in container.decode(video=0)) > 0
            if run.process.returncode or seconds > 2.5 or not whole:
                said = (place / "log.txt").read_text()[-500:]
                wrong.append({"case": [kind, count, how, sent.name], "code": run.process.returncode, "s": seconds, "said": said})
        except (AssertionError, ValueError, OSError) as error:
            run.process.kill()
            wrong.append({"case": [kind, count, how, sent.name], "said": str(error)})
        for relay in relays:
            relay.close()
    rtsp.kill()
    return {"stops": arguments.times, "slowest_s": slowest, "wrong": wrong, "held": not wrong}


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "restarts": restarts, "faults": faults, "kills": kills, "age": age, "soak": soak, "clients": clients, "stops": stops,
    "hostile": hostile,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=0.0, help="default: 10 for age, 30 for soak")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", default="", help="hostile: attacks whose name holds this")
    parser.add_argument("--picture", type=Path, help="soak: the page at the end")
    arguments = parser.parse_args()
    arguments.minutes = arguments.minutes or {"age": 10.0, "soak": 30.0}.get(arguments.part, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        found = PARTS[arguments.part](Path(folder), arguments)
    text = json.dumps({arguments.part: found}, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    sys.exit(0 if found["held"] else 1)


if __name__ == "__main__":
    main()
