"""examples/embedding runs as the page says, and gives what the library gives."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import dkcam
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.runtime import kernels
from dkcam.runtime.geometry import Fit
from tests.conftest import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "embedding"
DEBIAN = "/usr/lib/python3/dist-packages"


def test_the_opencv_loop(model_file: Path, clip: Callable[..., Path], tmp_path: Path) -> None:
    words = [sys.executable, EXAMPLES / "opencv_loop.py", clip(), tmp_path / "out.mp4", model_file]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    count = 0
    while capture.read()[0]:
        count += 1
    assert count == 12 and "heat at (" in said


def test_the_gstreamer_appsink(model_file: Path) -> None:
    """With the interpreter's own GStreamer bindings, or Debian's."""
    check = f"import sys; sys.path.append({DEBIAN!r}); import gi; gi.require_version('GstApp', '1.0'); from gi.repository import GstApp"
    if subprocess.run([sys.executable, "-c", check], capture_output=True).returncode:
        pytest.skip("GStreamer's Python bindings (python3-gst-1.0) are not installed")
    script = f"import runpy, sys; sys.path.append({DEBIAN!r}); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    pipeline = "videotestsrc num-buffers=12 pattern=ball ! video/x-raw,width=639,height=360,framerate=25/1"
    words = [sys.executable, "-c", script, EXAMPLES / "gstreamer_appsink.py", pipeline, model_file]
    said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert len(said) >= 1 and all(" s  " in line for line in said)


def test_the_asyncio_service(model_file: Path) -> None:
    words = [sys.executable, EXAMPLES / "asyncio_service.py", "0", model_file]
    service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        port = int(service.stdout.readline().rsplit(":", 1)[1])
        explainer = dkcam.load(model_file)

        def ask(seed: int) -> tuple[str, str]:
            image = np.random.default_rng(seed).integers(0, 256, (90, 160, 3), dtype=np.uint8)
            data = cv2.imencode(".png", image)[1].tobytes()
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client, client.makefile("rb") as answers:
                client.sendall(len(data).to_bytes(4, "big") + data)
                return json.loads(answers.readline())["top"][0][0], explainer(image).top()[0].label

        with ThreadPoolExecutor(4) as pool:
            assert all(given == expected for given, expected in pool.map(ask, range(8)))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client, client.makefile("rb") as answers:
            client.sendall((5).to_bytes(4, "big") + b"hello")
            assert "error" in json.loads(answers.readline())
            client.sendall(b"\xff\xff\xff\xff")
            assert answers.readline() == b""
    finally:
        service.terminate()
        service.communicate()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["opencv_loop.py"], "usage: python opencv_loop.py VIDEO OUT.mp4 [MODEL]"),
        (["opencv_loop.py", "none.mp4", "o.mp4"], "error: none.mp4 cannot be opened; expected a video"),
        (["opencv_loop.py", "none.mp4", "o.mp4", "none.onnx"], "error: none.onnx does not exist"),
        (["asyncio_service.py", "here"], "usage: python asyncio_service.py [PORT] [MODEL]"),
        (["asyncio_service.py", "0", "none.onnx"], "error: none.onnx does not exist"),
        (["gstreamer_appsink.py", "videotestsrc", "none.onnx"], "error: "),  # of the model, or of missing bindings
        (["../shortcut.py"], "usage: shortcut.py"),
    ],
)
def test_examples_say_how_they_are_used(tmp_path: Path, words: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, EXAMPLES / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(not kernels.is_native(), reason="dkcam was built without a C++ compiler")
@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("c++"), reason="needs cmake and a C++ compiler")
def test_the_cpp_program(tmp_path: Path) -> None:
    """Built by the two commands in its first lines."""
    lines = (EXAMPLES / "overlay.cpp").read_text().splitlines()
    commands = [line[2:].strip() for line in lines if line.startswith("//   ")]
    assert len(commands) == 2
    build = commands[0].replace("-B build", f"-B {tmp_path}/build").replace("--build build", f"--build {tmp_path}/build")
    link = commands[1].replace("build/lib", f"{tmp_path}/build/lib").replace("-o overlay", f"-o {tmp_path}/overlay -Wall -Wextra -Werror")
    for command in (build, link):
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rng = np.random.default_rng(0)
    frame, heat = rng.integers(0, 256, (270, 480, 3), dtype=np.uint8), rng.random((1, 3, 5), dtype=np.float32)
    cv2.imwrite(str(tmp_path / "frame.ppm"), frame)
    (tmp_path / "heat.f32").write_bytes(heat.tobytes())
    words = [tmp_path / "overlay", "frame.ppm", "heat.f32", "3x5", "96x160", "out.ppm"]
    subprocess.run(words, check=True, cwd=tmp_path)
    opacity = 0.6 * np.arange(256) / 255
    add, keep = np.floor(255 * opacity + 0.5).astype(np.uint32), np.floor(255 * (1 - opacity) + 0.5).astype(np.uint32)
    expected = kernels.overlay(frame, heat, Fit(270, 480, 96, 160), (keep << 24 | add << 16)[None], tint=False)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.ppm")), expected)
    refused = subprocess.run(
        [tmp_path / "overlay", "heat.f32", "heat.f32", "3x5", "96x160", "o"], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 1 and refused.stderr == "error: heat.f32 is no 8-bit PPM (P6)\n"


@pytest.mark.parametrize("samples", [0, 4])
def test_one_explainer_in_several_threads(tmp_path: Path, samples: int) -> None:
    path = tmp_path / "model.onnx"
    options = ExportOptions(size=(64, 96), samples=samples, mask_ratio=0.4 if samples else 0.0)
    path.write_bytes(export(tiny_checkpoint(), options, check=False).data)
    explainer = dkcam.load(path, device="cpu")
    images = [np.random.default_rng(seed).integers(0, 256, (40 + 7 * seed, 90, 3), dtype=np.uint8) for seed in range(12)]
    alone = [explainer(image) for image in images]
    start = threading.Barrier(6)

    def work(first: int) -> list[tuple[int, dkcam.runtime.explanation.Explanation]]:
        start.wait()
        return [(k % 12, explainer(images[k % 12])) for k in range(first, first + 24)]

    with ThreadPoolExecutor(6) as pool:
        found = [each for part in pool.map(work, range(6)) for each in part]
    for which, said in found:
        np.testing.assert_allclose(said.heatmap, alone[which].heatmap, rtol=1e-5, atol=1e-6)
        assert said.fit == alone[which].fit and said.top(1)[0].index == alone[which].top(1)[0].index
