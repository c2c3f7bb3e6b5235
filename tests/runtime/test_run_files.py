"""dk-run over files: what is damaged, what is whole, two runs at once, the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dkcam
from dkcam.runtime.frame import Frame
from dkcam.runtime.health import Health
from dkcam.runtime.pipeline import Pipeline
from dkcam.runtime.sinks import open_sink
from dkcam.tools.run_command import main
from tests.runtime.live import chromium
from tests.runtime.live.camera_server import wait_until
from tests.runtime.live.chromium import Chromium

COMMAND = "from dkcam.tools.run_command import main; main()"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(result: Result) -> str:
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures; the second and the fourth are damaged."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png", "d.png", "e.jpg"):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (48, 80, 3), dtype=np.uint8))
    data = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(data[: len(data) // 2])
    (folder / "d.png").write_bytes(b"no picture")
    return folder


def test_damaged_pictures_are_skipped_and_what_lacks_them_is_not_called_whole(model_file: Path, folder: Path, tmp_path: Path) -> None:
    words = (
        "--model",
        model_file,
        "--source",
        folder,
        "--sink",
        tmp_path / "e.jsonl",
        "--sink",
        tmp_path / "o.mp4",
        "--sink",
        f"{tmp_path}/p/",
    )
    result = run(*words)
    assert result.exit_code == 1 and "b.jpg is a truncated JPEG" in said(result) and "d.png cannot be read" in said(result)
    assert said(result).endswith(". Everything else is done; outputs that lack it are called NAME.partial")
    assert result.stderr.count("skipped: ") == 2 and "3 frames at" in result.stdout
    assert [line["frame"] for line in lines(tmp_path / "e.partial.jsonl")] == [0, 2, 4]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.partial.jsonl", "in", "o.partial.mp4", "p"]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["a.png", "c.png", "e.png"]
    for name in ("b.jpg", "d.png"):
        cv2.imwrite(str(folder / name), np.full((48, 80, 3), 90, np.uint8))
    result = run(*words)  # now whole, and under its own name
    assert result.exit_code == 0 and len(lines(tmp_path / "e.jsonl")) == 5 and "in place of" not in result.output
    (folder / "c.png").write_bytes(b"no picture")
    assert run(*words).exit_code == 1
    assert len(lines(tmp_path / "e.jsonl")) == 5 and len(lines(tmp_path / "e.partial.jsonl")) == 4
    (folder / "c.png").unlink()
    result = run(*words)
    assert result.exit_code == 0 and f"wrote {tmp_path}/e.jsonl, in place of an older one" in result.stdout
    assert len(lines(tmp_path / "e.jsonl")) == 4


def test_a_damaged_picture_counts_also_where_the_run_ends_early(model_file: Path, folder: Path) -> None:
    result = run("--model", model_file, "--source", folder, "--headless", "--max-frames", 2)
    assert result.exit_code == 1 and "b.jpg" in said(result) and "d.png" not in said(result)
    assert run("--model", model_file, "--source", folder, "--headless", "--max-frames", 1).exit_code == 0


def test_after_a_truncated_video_the_others_follow(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    cut, whole = clip(frames=60, height=96, width=160, name="cut.mp4"), clip(frames=7, name="whole.mp4")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    result = run("--model", model_file, "--source", cut, "--source", whole, "--sink", tmp_path / "e.jsonl")
    assert result.exit_code == 1 and "cut.mp4 ended after" in said(result) and f"{whole}: 7 frames at" in result.stdout
    found = [Path(line["source"]).name for line in lines(tmp_path / "e.partial.jsonl")]
    assert found.count("whole.mp4") == 7 and found.count("cut.mp4") > 0 and not (tmp_path / "e.jsonl").exists()


class Run:
    """dk-run in a process of its own, with a page."""

    def __init__(self, model: Path, folder: Path, *words: object) -> None:
        command = [sys.executable, "-c", COMMAND, "--model", model, *words, "--sink", "http://127.0.0.1:0"]
        self.process = subprocess.Popen(
            [str(word) for word in command], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]

    def get(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.address + path, body), timeout=10) as answer:
            return bytes(answer.read())

    @property
    def file(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/state"))["cameras"][0]["file"])

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        out, errors = self.process.communicate(timeout=20)
        return self.process.returncode, out + errors


@pytest.fixture
def started() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*words: Any) -> Run:
        runs.append(Run(*words))
        return runs[-1]

    yield start
    for each in runs:
        each.process.kill()
        each.process.communicate()


def test_a_second_run_to_the_same_place_is_refused(model_file: Path, tmp_path: Path, started: Callable[..., Run]) -> None:
    first = started(model_file, tmp_path, "--source", "demo:frames=3000", "--sink", "e.jsonl", "--sink", "o.mp4", "--sink", "p/")
    for sink in ("e.jsonl", "o.mp4", "p/"):
        result = run("--model", model_file, "--source", "demo:frames=2", "--sink", f"{tmp_path}/{sink}")
        assert result.exit_code == 1 and f"{tmp_path}/{sink.rstrip('/')} is being written by another run" in said(result)
    assert run("--model", model_file, "--source", "demo:frames=2", "--sink", tmp_path / "else.jsonl").exit_code == 0
    wait_until(lambda: first.file["frames"] >= 3, 20)
    code, out = first.end()
    assert code == 0 and "wrote e.jsonl" in out, out
    assert not list(tmp_path.rglob(".*"))
    assert run("--model", model_file, "--source", "demo:frames=2", "--sink", tmp_path / "e.jsonl").exit_code == 0


def test_the_page_plays_a_file_at_its_own_speed_and_keeps_the_last_picture(
    model_file: Path, clip: Callable[..., Path], tmp_path: Path, started: Callable[..., Run]
) -> None:
    path = clip(frames=16)  # ten a second
    playing = started(model_file, tmp_path, "--source", path, "--sink", "e.jsonl")
    wait_until(lambda: playing.file["frames"] > 0, 20)
    start = time.perf_counter() - playing.file["frames"] / 10
    wait_until(lambda: playing.file["ended"], 20)
    assert time.perf_counter() - start > 1.0
    assert playing.file == {"frames": 16, "of": 16, "round": 1, "ended": True}
    assert len(lines(tmp_path / "e.jsonl")) == 16  # finished already
    before = playing.get("/snapshot.png")
    assert playing.get("/snapshot.png") == before
    playing.get("/control", b'{"alpha": 1, "colormap": "hot", "classes": ["stop"]}')
    wait_until(lambda: playing.get("/snapshot.png") != before, 5)
    assert playing.process.poll() is None
    code, out = playing.end()
    assert code == 0 and "the last picture stays at http://127.0.0.1:" in out and "stopped by" not in out, out


def test_pictures_come_two_a_second(model_file: Path, folder: Path, started: Callable[..., Run]) -> None:
    """Three of five can be read: the last one a second after the first."""
    playing = started(model_file, folder.parent, "--source", folder)
    wait_until(lambda: playing.file["frames"] == 1, 20)
    start = time.perf_counter()
    wait_until(lambda: playing.file["ended"], 20)
    assert time.perf_counter() - start > 0.7
    code, out = playing.end()
    assert code == 1 and "b.jpg is a truncated JPEG" in out and "Everything else is done" in out and "NAME.partial" not in out


def test_unsteady_frames_have_the_speed_of_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    from dkcam.runtime import delivery

    now = 1.0
    monkeypatch.setattr(delivery.time, "perf_counter", lambda: now)
    speed = delivery.Speed()
    for step in range(400):
        now += 0.01 if step % 2 else 0.09
        speed.tick()
    assert speed.fps == pytest.approx(20, rel=0.1)


def test_a_paced_source_makes_up_for_slow_frames(model_file: Path) -> None:
    """Twenty a second; three of 21 come 150 ms late."""

    class Slow:
        name, live, fps, count, skipped = "slow", False, 20.0, 21, ()

        def __iter__(self) -> Iterator[Frame]:
            for index in range(21):
                time.sleep(0.2 if index in (3, 9, 15) else 0)
                yield Frame(np.zeros((48, 80, 3), np.uint8), index, "slow", index / 20)

        def close(self) -> None:
            pass

    explainer = dkcam.load(model_file)
    explainer.warm_up()
    done = Pipeline(Slow(), explainer, [open_sink("null:")], pace=20).run()
    assert done.frames == 21 and 0.98 < done.seconds < 1.2


def test_what_has_ended_is_well(model_file: Path, tmp_path: Path, started: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    from dkcam.runtime.live.page import app

    monkeypatch.setattr(app, "SILENT_S", 0.0)
    file = {"camera": 0, "live": True, "file": {"ended": False}}

    class Stub:
        controls = type("Controls", (), {"settings": type("Settings", (), {"paused": False}), "changed_at": 0.0})
        health = Health()
        hub = type("Hub", (), {"published_at": 0.0})

        def cameras(self) -> list[dict[str, Any]]:
            return [file]

    import asyncio

    page = app.Page.__new__(app.Page)
    page._context, page._hub = Stub(), Stub.hub  # type: ignore[assignment]
    assert asyncio.run(page._health(None)).status_code == 503  # type: ignore[arg-type]
    file["file"] = {"ended": True}
    assert asyncio.run(page._health(None)).status_code == 200  # type: ignore[arg-type]


def test_loop_goes_round_until_it_is_stopped(
    model_file: Path, clip: Callable[..., Path], tmp_path: Path, started: Callable[..., Run]
) -> None:
    playing = started(model_file, tmp_path, "--source", clip(frames=3), "--source", clip(frames=2, name="b.mp4"), "--loop")
    wait_until(lambda: playing.file["round"] >= 3, 20)
    code, out = playing.end()
    assert code == 0 and "stopped by Ctrl-C" in out and "clip.mp4: " in out and "b.mp4: " in out
    counts = {
        line.split(": ")[0].rsplit("/")[-1]: int(line.split(": ")[1].split()[0]) for line in out.splitlines() if " frames at " in line
    }
    assert counts["clip.mp4"] >= 6 and counts["b.mp4"] >= 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--source", "demo:", "--sink", "e.jsonl"], "--loop goes on without end, and e.jsonl would grow with it"),
        (["--source", "http://127.0.0.1:9/", "--headless"], "--loop is for files, and http://127.0.0.1:9/ is a camera"),
    ],
)
def test_loops_that_make_no_sense(model_file: Path, words: list[str], told: str) -> None:
    result = run("--model", model_file, "--loop", *words)
    assert result.exit_code == 1 and told in said(result)


def test_a_loop_over_nothing_that_can_be_read_ends(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    result = run("--model", model_file, "--source", tmp_path / "a.png", "--loop", "--headless")
    assert result.exit_code == 1 and "a.png cannot be read as a picture" in said(result) and "is done" not in said(result)


@pytest.mark.skipif(chromium.find() is None, reason="Chromium is not installed")
def test_a_browser_that_comes_late_sees_the_last_picture(
    model_file: Path, clip: Callable[..., Path], tmp_path: Path, started: Callable[..., Run]
) -> None:
    playing = started(model_file, tmp_path, "--source", clip(frames=3))
    wait_until(lambda: playing.file["ended"], 20)
    with Chromium(tmp_path / "profile") as page:
        page.open(f"{playing.address}/")
        page.until("received > 0 && state !== null")
        page.until("document.getElementById('health').innerText.includes('3 of 3 frames; it has ended, and the last picture stays')")
        page.until("document.querySelector('figcaption').innerText === 'frame 2, 0.20 s'")
        time.sleep(1.6)  # what a camera shows would be STALE by now
        page.until("document.querySelector('figcaption').innerText === 'frame 2, 0.20 s'")
        assert not page.run("document.body.innerText.includes('dropped') || document.querySelector('figure').classList.contains('stale')")
        page.run("(() => { const s = document.getElementById('classes'); s.value = '3'; s.dispatchEvent(new Event('change')); })()")
        page.until("views.get(0).header.explained[0] === 'warning'")


def test_a_name_that_is_no_utf_8_neither_crashes_nor_stops_the_run(model_file: Path, tmp_path: Path, clip: Callable[..., Path]) -> None:
    """OpenCV's imread and VideoCapture end the process with signal 11 on one."""
    folder = tmp_path / "in"
    folder.mkdir()
    data = cv2.imencode(".jpg", np.full((90, 160, 3), 80, np.uint8))[1]
    name = os.fsdecode(b"p\xff\x1b]0;x\x07.jpg")
    for each in ("a.jpg", name):
        (folder / each).write_bytes(data.tobytes())
    lines, heat = tmp_path / "o.jsonl", tmp_path / "heat"
    words = ["--model", model_file, "--headless", "--source"]
    code = [sys.executable, "-c", "from dkcam.tools.run_command import entry; entry()", *words]
    run = subprocess.run([*code, folder, "--sink", lines, "--sink", heat], capture_output=True, text=True)
    assert run.returncode == 0 and "\x1b" not in run.stdout + run.stderr, run.stderr
    sources = [json.loads(line)["source"] for line in lines.read_text().splitlines()]
    assert sources == [str(folder / "a.jpg"), str(folder / name)] and len(list(heat.glob("*.png"))) == 2
    video = clip().rename(tmp_path / os.fsdecode(b"v\xff.mp4"))
    run = subprocess.run([*code, video], capture_output=True, text=True)
    assert run.returncode == 1 and "has a name that is no UTF-8, which OpenCV cannot open; rename it" in run.stderr, run.stderr
