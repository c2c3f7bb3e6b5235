"""ONNX Runtime's providers: a device that was asked for runs, or says why not."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dkcam.engines import open_engine
from dkcam.engines.engine import EngineOptions
from dkcam.engines.onnxruntime_engine import OnnxRuntime
from dkcam.engines.onnxruntime_providers import choose
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


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider' is not in available:UserWarning")
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


def test_bound_inputs_give_the_same_and_are_kept(model_file: Path) -> None:
    """The way of the GPU providers, on the processor: device memory kept from run to run."""
    engine = OnnxRuntime("cpu", model_file.read_bytes(), "m.onnx", EngineOptions(cache=False))
    rng, kept = np.random.default_rng(0), []
    for classes in ([-1], [-1], [0, 3], [-1]):
        feed = {"image": rng.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8), "classes": np.array(classes, np.int64)}
        given, wanted = engine._run_bound(feed), engine._session.run(None, feed)
        for one, other in zip(given, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
        kept.append((given, wanted, engine._values.image.data_ptr()))
    assert len({pointer for *_, pointer in kept}) == 1
    for given, wanted, _ in kept:
        for one, other in zip(given, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_provider_options_reach_onnxruntime(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    seen: list[object] = []
    inner = onnxruntime.InferenceSession

    def session(*values: object, **named: object) -> object:
        seen.append(named["providers"])
        return inner(*values, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxRuntime("cpu", model_file.read_bytes(), "m.onnx", EngineOptions(cache=False, provider_options={"use_arena": "0"}))
    assert seen == [[("CPUExecutionProvider", {"use_arena": "0"})]]


class Plugin(ModuleType):
    """A plug-in package, as onnxruntime-ep-openvino and onnxruntime-ep-nv-tensorrt-rtx are."""

    def get_library_path(self) -> str:
        return "/nowhere/libplugin.so"

    def get_ep_name(self) -> str:
        return "OpenVINOExecutionProvider"


def test_plug_ins_are_registered_and_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", Plugin("onnxruntime_ep_openvino"))
    devices = [SimpleNamespace(ep_name="CPUExecutionProvider")]
    registered, added = [], []

    def register(name: str, path: str) -> None:
        registered.append(path)
        devices.append(SimpleNamespace(ep_name="OpenVINOExecutionProvider"))

    runtime = SimpleNamespace(
        get_available_providers=lambda: ["CPUExecutionProvider"],
        get_ep_devices=lambda: devices,
        register_execution_provider_library=register,
    )
    settings = SimpleNamespace(add_provider_for_devices=lambda chosen, options: added.append((chosen, options)))
    for _ in range(2):  # a library can be registered once
        assert choose(runtime, settings, "openvino", {"device_type": "CPU"}) is None
    assert registered == ["/nowhere/libplugin.so"] and added[0] == ([devices[1]], {"device_type": "CPU"})


def test_plug_ins_say_what_is_wrong(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"this onnxruntime has no NvTensorRTRTX.*; pip install onnxruntime-ep-nv-tensorrt-rtx"):
        OnnxRuntime("onnxruntime-tensorrt-rtx", model_file.read_bytes(), "m.onnx", EngineOptions())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", Plugin("onnxruntime_ep_openvino"))
    with pytest.raises(EngineError, match=r"onnxruntime_ep_openvino does not load: .*libplugin.so"):
        OnnxRuntime("openvino", model_file.read_bytes(), "m.onnx", EngineOptions())
    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", lambda name, path: None)
    with pytest.raises(EngineError, match="is installed, but finds no device of its kind on this machine"):
        OnnxRuntime("openvino", model_file.read_bytes(), "m.onnx", EngineOptions())
