"""dk-run from end to end: sources, sinks, pipeline, and what a user reads when something is wrong."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

import dkcam
from dkcam.errors import EngineError
from dkcam.runtime.explainer import DEMO_MODEL
from dkcam.runtime.pipeline import Pipeline
from dkcam.runtime.sinks import open_sink
from dkcam.runtime.sources import open_source
from dkcam.tools.run_command import main

KEYS = {"frame", "source", "time_s", "top", "explained", "peak", "age_ms", "latency_ms", "dropped", "device"}


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def refused(result: Result, *words: str) -> None:
    """One line on stderr, exit code 1, no traceback."""
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.output
    for word in words:
        assert word in errors[0], errors[0]


def test_a_video_into_all_sinks_at_once(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    result = run(
        "--model",
        model_file,
        "--source",
        clip(),
        "--sink",
        tmp_path / "o.mp4",
        "--sink",
        tmp_path / "e.jsonl",
        "--sink",
        f"{tmp_path}/pngs/",
        "--sink",
        "null:",
    )
    assert result.exit_code == 0, result.output
    records = lines(tmp_path / "e.jsonl")
    assert [r["frame"] for r in records] == list(range(12))
    assert set(records[0]) == KEYS and set(records[0]["latency_ms"]) == {"read", "preprocess", "infer", "overlay"}
    assert records[5]["time_s"] == pytest.approx(0.5) and records[0]["device"] == "cpu" and len(records[0]["top"]) == 3
    assert len(frames_of(tmp_path / "o.mp4")) == 12
    assert len(list((tmp_path / "pngs").glob("*.png"))) == 12
    assert not list(tmp_path.glob(".*"))


def test_odd_sizes_and_several_classes(model_file: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((51, 33, 3), 90, np.uint8))
    result = run(
        "--model",
        model_file,
        "--source",
        tmp_path / "a.png",
        "--sink",
        tmp_path / "o.mp4",
        "--sink",
        tmp_path / "e.jsonl",
        "--explain",
        "stop,yield",
    )
    assert result.exit_code == 0, result.output
    assert frames_of(tmp_path / "o.mp4")[0].shape == (52, 66, 3)
    (record,) = lines(tmp_path / "e.jsonl")
    assert record["explained"] == ["stop", "yield"] and len(record["peaks"]) == 2


def test_the_rendered_drive_knows_its_boxes(model_file: Path, tmp_path: Path) -> None:
    result = run("--model", model_file, "--source", "demo:frames=30", "--headless", "--sink", tmp_path / "e.jsonl")
    assert result.exit_code == 0 and "drawn scenes: sign of " in result.output
    assert {"label", "box"} == set(lines(tmp_path / "e.jsonl")[0]["boxes"][0])


def test_the_rendered_drives_runner_up_is_measured_and_not_drawn(tmp_path: Path) -> None:
    words = ("--model", DEMO_MODEL, "--source", "demo:frames=6", "--headless", "--sink", tmp_path / "e.jsonl", "--sink", tmp_path / "p")
    (tmp_path / "p").mkdir()
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert " ".join(result.output.split()).count("of those 6, heat peak top class runner-up chance") == 1
    assert [line["explained"] for line in lines(tmp_path / "e.jsonl")] == [["yield"]] * 6
    assert {cv2.imread(str(picture)).shape for picture in (tmp_path / "p").iterdir()} == {(720, 1280, 3)}
    two = run(*words[:5], "--explain", "stop,-2", "--sink", tmp_path / "two.jsonl")
    assert " ".join(two.output.split()).count("of those 6, heat peak top class runner-up chance") == 1
    assert [line["explained"][0] for line in lines(tmp_path / "two.jsonl")] == ["stop"] * 6


@pytest.mark.parametrize(
    "picture",
    [
        np.full((1, 1, 3), 7, np.uint8),
        np.full((4, 20000, 3), 7, np.uint8),
        np.full((40, 30), 7, np.uint8),
        np.full((40, 30, 4), 7, np.uint8),
        np.full((40, 30, 3), 7 * 257, np.uint16),
        np.full((40, 30), 7 * 257, np.uint16),
    ],
    ids=["1x1", "20000 wide", "grey", "RGBA", "16-bit", "16-bit grey"],
)
def test_odd_pictures_are_processed_as_their_plain_twin(model_file: Path, tmp_path: Path, picture: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "odd.png"), picture)
    cv2.imwrite(str(tmp_path / "plain.png"), np.full((*picture.shape[:2], 3), 7, np.uint8))
    for name in ("odd", "plain"):
        assert run("--model", model_file, "--source", tmp_path / f"{name}.png", "--sink", tmp_path / f"{name}.jsonl").exit_code == 0
    assert lines(tmp_path / "odd.jsonl")[0]["top"] == lines(tmp_path / "plain.jsonl")[0]["top"]


def test_a_folder_keeps_the_pictures_names(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b", "a"):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), np.full((40, 30, 3), 7, np.uint8))
    assert run("--model", model_file, "--source", tmp_path / "in", "--sink", f"{tmp_path}/out/").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


class _Mjpeg(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        _, data = cv2.imencode(".jpg", np.full((48, 80, 3), 120, np.uint8))
        try:
            for _ in range(200):
                self.wfile.write(
                    b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data.tobytes() + b"\r\n"
                )
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def mjpeg() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/video"
    server.shutdown()
    server.server_close()


def test_an_mjpeg_camera_over_http(model_file: Path, mjpeg: str, tmp_path: Path) -> None:
    result = run("--model", model_file, "--source", mjpeg, "--sink", tmp_path / "e.jsonl", "--max-frames", 5)
    assert result.exit_code == 0, result.output
    assert 1 <= len(lines(tmp_path / "e.jsonl")) <= 5


def test_several_lanes_give_the_same_lines_in_order(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    path = clip(frames=40)
    for lanes in (1, 4):
        sink = open_sink(str(tmp_path / f"{lanes}.jsonl"), None)
        summary = Pipeline(open_source(str(path)), dkcam.load(model_file, lanes=lanes), [sink]).run()
        sink.close()
        assert summary.frames == 40
    one, four = lines(tmp_path / "1.jsonl"), lines(tmp_path / "4.jsonl")
    assert [line["frame"] for line in four] == list(range(40))
    for name in ("top", "explained", "peak", "time_s"):
        assert [line[name] for line in one] == [line[name] for line in four]


def test_an_engine_that_fails_midway_ends_the_run(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = dkcam.load(model_file, lanes=2)
    run_engine, calls = explainer.engine.run, []

    def failing(*words: Any) -> Any:
        calls.append(1)
        if len(calls) > 5:
            raise EngineError("out of memory")
        return run_engine(*words)

    monkeypatch.setattr(explainer.engine, "run", failing)
    with pytest.raises(EngineError, match="out of memory"):
        Pipeline(open_source("demo:frames=300"), explainer, [open_sink("null:", None)]).run()
    assert len(calls) < 40


def test_ctrl_c_finishes_the_video(model_file: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from dkcam.tools.run_command import main; main()",
        "--model",
        str(model_file),
        "--source",
        "demo:frames=5000",
    ]
    process = subprocess.Popen(
        [*command, "--sink", str(tmp_path / "o.mp4"), "--sink", str(tmp_path / "e.jsonl")], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(p.stat().st_size > 20_000 for p in tmp_path.glob(".o.mp4*")):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "stopped by Ctrl-C" in errors
    count = len(lines(tmp_path / "e.jsonl"))
    assert 0 < count < 5000 and len(frames_of(tmp_path / "o.mp4")) == count


def test_a_truncated_video_keeps_what_came_and_fails(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    path = clip(frames=60, height=96, width=160)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run("--model", model_file, "--source", path, "--sink", tmp_path / "e.jsonl", "--sink", tmp_path / "o.mp4")
    refused(result, "of 60 frames", "truncated")
    count = len(lines(tmp_path / "e.partial.jsonl"))
    assert 0 < count < 60 and len(frames_of(tmp_path / "o.partial.mp4")) == count
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "e.partial.jsonl", "o.partial.mp4"]


def test_a_run_that_breaks_off_keeps_older_results(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    path = clip(frames=60, height=96, width=160)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "e.jsonl").write_text("older")
    result = run("--model", model_file, "--source", path, "--sink", tmp_path / "e.jsonl")
    refused(result, "truncated")
    assert (tmp_path / "e.jsonl").read_text() == "older"
    assert len(lines(tmp_path / "e.partial.jsonl")) > 0 and "wrote " + str(tmp_path / "e.partial.jsonl") in result.stdout


def test_nothing_written_is_not_called_written(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    result = run("--model", model_file, "--source", tmp_path / "a.png", "--sink", tmp_path / "e.jsonl")
    refused(result, "cannot be read as a picture")
    assert "wrote" not in result.output and not (tmp_path / "e.jsonl").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.mp4", ["nothing.mp4 does not exist"]),
        ("empty.mp4", ["is empty"]),
        ("text.mp4", ["cannot be opened"]),
        ("text.png", ["cannot be read as a picture"]),
        ("97", ["camera 97 is not there", "connected cameras"]),
        ("v4l2:///dev/video97", ["/dev/video97 does not exist"]),
        ("http://127.0.0.1:9/none", ["cannot be opened: connection refused; check the camera, or start with --wait"]),
        ("ftp://somewhere/x", ["ftp:// is not a known source"]),
        ("videotestsrc ! appsink", ["GStreamer"]),
        ("demo:speed=9", ["is not understood"]),
        ("demo:frames50", ["is not understood"]),
        ("demo:frames=5&frames=6", ["is not understood"]),
        ("n" * 300, ["does not exist"]),
    ],
)
def test_bad_sources(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.mp4").touch()
    for name in ("text.mp4", "text.png"):
        Path(name).write_text("hello")
    if source == "videotestsrc ! appsink" and "GStreamer:                   YES" in cv2.getBuildInformation():
        pytest.skip("this OpenCV has GStreamer")
    refused(run("--model", model_file, "--source", source, "--headless", "--sink", "e.jsonl"), *words)
    assert not Path("e.jsonl").exists()


@pytest.mark.parametrize(
    ("sink", "words"),
    [
        ("/nowhere/at/all/o.mp4", ["/nowhere/at/all is not a folder"]),
        ("/nowhere/o.jsonl", ["/nowhere is not a folder"]),
        ("/proc/frames/", ["/proc/frames cannot be made a folder"]),
        ("n" * 300 + ".mp4", ["cannot be written: File name too long"]),
        ("o.avi", ["expected window:, null:, a .mp4"]),
        ("https://127.0.0.1:8080", ["expected an address of this machine, such as http://127.0.0.1:8080"]),
        ("http://0.0.0.0:8080", ["needs --token"]),
        ("http://192.0.2.1:8080", ["needs --token"]),
    ],
)
def test_bad_sinks(model_file: Path, sink: str, words: list[str]) -> None:
    refused(run("--model", model_file, "--source", "demo:frames=2", "--sink", sink), *words)


def test_a_window_without_a_display_is_one_line(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if os.uname().sysname == "Linux":
        refused(run("--model", model_file, "--source", "demo:frames=2"), "there is no display", "--headless")


def test_sources_and_other_sinks_are_not_overwritten(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    path = clip()
    before = path.read_bytes()
    refused(run("--model", model_file, "--source", path, "--sink", path), "is the source itself")
    assert path.read_bytes() == before
    refused(run("--model", model_file, "--source", path, "--sink", tmp_path / "a.jsonl", "--sink", tmp_path / "a.jsonl"), "given twice")
    again = tmp_path / "b" / ".." / "a.jsonl"
    refused(run("--model", model_file, "--source", path, "--sink", tmp_path / "a.jsonl", "--sink", again), "given twice")
    refused(run("--model", model_file, "--source", path, "--sink", tmp_path), "is the source's own folder")


def test_a_picture_too_wide_for_h264_leaves_no_file(model_file: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((4, 20000, 3), np.uint8))
    refused(
        run("--model", model_file, "--source", tmp_path / "wide.png", "--sink", tmp_path / "o.mp4"),
        "cannot be encoded as H.264 at 20000x4",
        "folder/",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["wide.png"]


def test_pictures_of_one_name_get_numbers(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "a.png", "b.png"):
        cv2.imwrite(str(tmp_path / "in" / name), np.full((40, 30, 3), 7, np.uint8))
    assert run("--model", model_file, "--source", tmp_path / "in", "--sink", f"{tmp_path}/out/").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "a_2.png", "b.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_to_a_full_place_is_one_line(model_file: Path) -> None:
    words = [sys.executable, "-m", "dkcam.tools.run_command", "--model", str(model_file), "--source", "demo:frames=2", "--headless"]
    with Path("/dev/full").open("w") as full:
        code = "from dkcam.tools.run_command import main; main()"
        done = subprocess.run([sys.executable, "-c", code, *words[3:]], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "is full" in done.stderr and "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_truncated_jpeg_is_refused(model_file: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.jpg"), noise)
    data = (tmp_path / "a.jpg").read_bytes()
    assert run("--model", model_file, "--source", tmp_path / "a.jpg", "--headless").exit_code == 0
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    refused(run("--model", model_file, "--source", tmp_path / "a.jpg", "--headless"), "truncated JPEG")


def test_text_renamed_onnx_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("hello")
    refused(run("--model", tmp_path / "m.onnx", "--source", "demo:frames=2", "--headless"), "is not a whole ONNX model")


def test_a_sink_that_fails_midway_ends_the_run(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, size in enumerate([(40, 30), (40, 30)]):
        cv2.imwrite(str(tmp_path / "in" / f"{index}.png"), np.full((*size, 3), 7, np.uint8))
    (tmp_path / "out" / "0.png").mkdir(parents=True)
    refused(run("--model", model_file, "--source", tmp_path / "in", "--sink", f"{tmp_path}/out/"), "0.png cannot be written")
