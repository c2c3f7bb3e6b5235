"""ONNX Runtime's providers: a device that was asked for runs, or says why not."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from dkcam.engines import open_engine
from dkcam.engines.engine import EngineOptions
from dkcam.engines.onnxruntime_engine import OnnxRuntime
from dkcam.engines.tensorrt.library import find_gpu
from dkcam.errors import EngineError


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr("importlib.metadata.distributions", lambda: [SimpleNamespace(metadata={"Name": name}) for name in names])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["onnxruntime"], "pip uninstall onnxruntime and pip install onnxruntime-gpu"),
        (["onnxruntime", "onnxruntime-gpu"], "onnxruntime and onnxruntime-gpu are installed side by side and overwrite each other"),
        (["onnxruntime-gpu"], "its libraries do not load here"),
        ([], "; pip install onnxruntime-gpu"),
    ],
)
def test_a_missing_provider_says_what_to_install(model_file: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], words: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    installed(monkeypatch, "numpy", *names)
    with pytest.raises(EngineError, match=words):
        OnnxRuntime("cuda", model_file.read_bytes(), "m.onnx", EngineOptions())


def test_a_silent_fall_back_is_an_error(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r"CUDAExecutionProvider could not start and onnxruntime fell back to CPUExecutionProvider"):
        OnnxRuntime("cuda", model_file.read_bytes(), "m.onnx", EngineOptions())


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_auto_logs_what_it_skipped_and_why(model_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dkcam"):
        assert open_engine(model_file).device == "cpu"
    text = caplog.text
    assert "skipped tensorrt: " in text and "skipped cuda: the driver shows no NVIDIA GPU here" in text and "running on cpu" in text
    for device in ("tensorrt", "cuda"):
        with pytest.raises(EngineError, match="NVIDIA GPU"):
            open_engine(model_file, device)
