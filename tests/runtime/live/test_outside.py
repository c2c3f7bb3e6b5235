"""What holds dk-run from outside: words that nobody reads, a process that is stopped, work for the page that does not end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.runtime.live.camera_server import CameraServer, free_port, numbered, wait_until
from tests.runtime.live.test_run_live import Run, lines
from tests.tools.test_streams import fill

END_S = 5.0  # two seconds, and what a busy machine adds; what is held does not end at all


@pytest.fixture
def server() -> Iterator[CameraServer]:
    made = CameraServer(30)
    yield made
    made.kill()


def health(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=10) as answer:
            return dict(json.loads(answer.read()))
    except urllib.error.HTTPError as error:
        return dict(json.loads(error.read()))


@pytest.mark.parametrize("blocked", ["stderr", "stdout", "both", "stderr without reader"])
def test_words_that_nobody_reads_hold_nothing_up(model_file: Path, server: CameraServer, tmp_path: Path, blocked: str) -> None:
    """Two cameras, one of which is lost; its loss is known, the other goes on, and SIGTERM ends the run."""
    lost = CameraServer(30)
    ours, theirs = os.pipe()
    fill(theirs)
    if "without" in blocked:
        os.close(ours)
    port = free_port()
    words = [sys.executable, "-c", "from dkcam.tools.run_command import entry; entry()", "--model", model_file, "-v"]
    words += ["--source", server.uri, "--source", lost.uri, "--sink", "{camera}.jsonl", "--sink", f"http://127.0.0.1:{port}"]
    given = {name: theirs if blocked == "both" or name in blocked else subprocess.DEVNULL for name in ("stdout", "stderr")}
    run = subprocess.Popen([str(word) for word in words], cwd=tmp_path, **given)  # type: ignore[call-overload]
    os.close(theirs)
    try:
        wait_until(lambda: all((tmp_path / f"{k}.jsonl").exists() and lines(tmp_path / f"{k}.jsonl") for k in (0, 1)), 30)
        lost.kill()
        wait_until(lambda: health(f"http://127.0.0.1:{port}")["lost"] == [1], 20)
        before = len(lines(tmp_path / "0.jsonl"))
        wait_until(lambda: len(lines(tmp_path / "0.jsonl")) > before + 10, 20)
        start = time.perf_counter()
        run.terminate()
        assert run.wait(20) == 0
        assert time.perf_counter() - start < END_S
    finally:
        run.kill()
        run.wait()
        if "without" not in blocked:
            os.close(ours)


def test_a_process_that_was_stopped_goes_on(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    run = Run(
        model_file, tmp_path, "--source", server.uri, "--sink", "e.jsonl", "--sink", "http://127.0.0.1:0", "--frame-timeout", "1"
    )  # fmt: skip
    run.wait_for(tmp_path / "e.jsonl")
    assert run.process.stdout is not None
    address = run.process.stdout.readline().split()[-1]
    run.process.send_signal(signal.SIGSTOP)
    time.sleep(4.0)  # longer than a silent camera or a hanging decoder is given
    before = len(lines(tmp_path / "e.jsonl"))
    run.process.send_signal(signal.SIGCONT)
    run.wait_for(tmp_path / "e.jsonl", before + 20)
    wait_until(lambda: health(address)["status"] == "ok", 10)
    wait_until(lambda: "this process did not run for 4 s" in run.said.read_text(), 5)
    after = lines(tmp_path / "e.jsonl")[before:]
    assert all(line["stale"] is (line["age_ms"] > 1000) for line in after) and after[-1]["age_ms"] < 1000
    code, seconds, _ = run.end()
    said = run.said.read_text()
    assert code == 0 and seconds < END_S and after[-1]["reopened"] == 0
    assert " hangs" not in said and "trying again" not in said


HUNG_EXPLAIN = """
import threading, time
from dkcam.runtime.explainer import Explainer
before = Explainer.infer
def infer(self, *given, **more):
    if threading.current_thread().name not in ("MainThread", "engine"):
        time.sleep(60)
    return before(self, *given, **more)
Explainer.infer = infer
"""


def test_a_picture_to_explain_does_not_delay_the_end(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    run = Run(
        model_file, tmp_path, "--source", server.uri, "--sink", "e.jsonl", "--sink", "http://127.0.0.1:0", patch=HUNG_EXPLAIN
    )  # fmt: skip
    run.wait_for(tmp_path / "e.jsonl")
    assert run.process.stdout is not None
    address = run.process.stdout.readline().split()[-1]
    picture = cv2.imencode(".png", numbered(0))[1].tobytes()

    def ask() -> None:
        with suppress(OSError):
            urllib.request.urlopen(f"{address}/explain", picture, timeout=30).close()

    asking = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in asking:
        thread.start()
    time.sleep(0.5)
    assert health(address)["status"] == "ok"  # and who waits for an answer holds nothing else up
    code, seconds, out = run.end()
    assert code == 0 and seconds < END_S and "wrote e.jsonl" in out, run.said.read_text()
    for thread in asking:
        thread.join(5)
