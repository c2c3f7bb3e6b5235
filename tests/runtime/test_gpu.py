"""Frames in GPU memory: the same explanations and pictures as on the processor. On an emulated GPU; see tests/emulated_gpu.py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

import dkcam
from dkcam.errors import InputError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.runtime import kernels
from dkcam.runtime.gpu import KEPT
from dkcam.runtime.pipeline import Pipeline
from dkcam.runtime.result import Result
from dkcam.runtime.sources import open_source
from tests.conftest import tiny_checkpoint
from tests.emulated_gpu import Stream, install
from tests.marks import some
from tests.standins import square_finder, squares


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    return install(monkeypatch)


def frame(seed: int, height: int = 120, width: int = 150) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def on_gpu(array: np.ndarray, **told: Any) -> SimpleNamespace:
    """As CuPy and torch describe their arrays; the emulated GPU's memory is the processor's."""
    interface = {
        "shape": array.shape,
        "typestr": array.dtype.str,
        "data": (array.ctypes.data, False),
        "version": 3,
        "strides": array.strides,
    }
    return SimpleNamespace(__cuda_array_interface__=interface | told, keep=array)


@pytest.mark.parametrize("resize", some(["stretch", "letterbox", "crop"], ["letterbox"]))
@pytest.mark.parametrize("kind", some(["rgb8", "tensor"], ["rgb8"]))
def test_explanations_and_overlays_are_the_processors(stream: Stream, tmp_path: Path, resize: str, kind: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), input=kind), check=False).data)
    gpu = dkcam.load(path, "tensorrt", explain=(-1, -2), resize=resize)
    cpu = dkcam.load(path, "cpu", explain=(-1, -2), resize=resize)
    for seed in range(2):
        image = frame(seed)
        wanted = cpu(image)
        for given in (gpu(image), gpu(on_gpu(image))):
            np.testing.assert_array_equal(given.heatmap, wanted.heatmap)
            assert given.device == "tensorrt:0" and given.top(2) == wanted.top(2)
            for layout in ("side", "tint"):
                np.testing.assert_array_equal(given.overlay(layout=layout), wanted.overlay(image, layout=layout))
                np.testing.assert_array_equal(given.overlay(image, layout=layout), wanted.overlay(image, layout=layout))
    with pytest.raises(InputError, match=r"overlay\(\) without a frame draws where the frame lies in GPU memory"):
        wanted.overlay()


@pytest.mark.parametrize("resize", some(["stretch", "letterbox", "crop"], ["letterbox"]))
def test_a_detectors_boxes_and_heat_are_the_processors(stream: Stream, tmp_path: Path, resize: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(square_finder(resize=resize, batch=1))
    gpu, cpu = dkcam.load(path, "tensorrt"), dkcam.load(path, "cpu")
    for places in ((("red", 1, 2), ("blue", 3, 7)), ()):
        image = cv2.resize(squares(*places), (320, 192), interpolation=cv2.INTER_NEAREST)
        wanted = cpu(image)
        for given in (gpu(image), gpu(on_gpu(image))):
            assert given.detections == wanted.detections and len(given.detections) == len(places)
            for layout in ("side", "tint"):
                np.testing.assert_array_equal(given.overlay(layout=layout), wanted.overlay(image, layout=layout))


def test_explanations_in_flight_keep_their_own_frames(stream: Stream, model_file: Path) -> None:
    gpu, cpu = dkcam.load(model_file, "tensorrt"), dkcam.load(model_file, "cpu")
    images = [frame(seed) for seed in range(3 * KEPT)]
    prepared = [gpu.prepare(image) for image in images]
    said = [gpu.infer(each) for each in prepared]
    for image, given in zip(images, said, strict=True):
        np.testing.assert_array_equal(given.overlay(), cpu(image).overlay(image))
    del prepared, said, given
    assert len(stream.allocated) < 2 * (KEPT + 10)  # frames' buffers are used again, the rest freed


def test_frames_of_any_size_in_one_batch(stream: Stream, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for kind in ("rgb8", "tensor"):
        options = ExportOptions(size=(64, 96), input=kind, dynamic=("batch",), batch=(1, 4))
        path.write_bytes(export(tiny_checkpoint(), options, check=False).data)
        gpu, cpu = dkcam.load(path, "tensorrt", resize="letterbox"), dkcam.load(path, "cpu", resize="letterbox")
        images = [frame(seed, 120 + 9 * seed, 150 + seed) for seed in range(4)] + [frame(9, 50, 70)]
        for which in ((0, 1), (2, 3, 0), (1,), (3, 2), (0, 4), (0, 1, 2, 3, 2, 1)):  # shapes come again and again
            said = gpu.infer_many([gpu.prepare(images[k]) for k in which])
            for k, given in zip(which, said, strict=True):
                np.testing.assert_allclose(given.heatmap, cpu(images[k]).heatmap, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(given.overlay(images[1]), cpu(images[1]).overlay(images[1]))


def test_frames_smaller_than_the_input_are_prepared_by_the_processor(stream: Stream, model_file: Path) -> None:
    gpu, cpu, small = dkcam.load(model_file, "tensorrt"), dkcam.load(model_file, "cpu"), frame(0, 50, 70)
    np.testing.assert_array_equal(gpu(small).overlay(small), cpu(small).overlay(small))
    with pytest.raises(InputError, match=r"frame is 50x70 in GPU memory, expected 64x96 pixels or more"):
        gpu(on_gpu(small))


def test_rows_with_gaps_are_read_where_they_lie(stream: Stream, model_file: Path) -> None:
    gpu, cpu, large = dkcam.load(model_file, "tensorrt"), dkcam.load(model_file, "cpu"), frame(0, 200, 400)
    part = large[20:150, 30:200]
    np.testing.assert_array_equal(gpu(on_gpu(part)).heatmap, cpu(np.ascontiguousarray(part)).heatmap)


def test_another_streams_work_is_waited_for(stream: Stream, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[int] = []
    monkeypatch.setattr(stream.driver, "cuEventRecord", lambda event, on: followed.append(on) or (0,))
    dkcam.load(model_file, "tensorrt")(on_gpu(frame(0), stream=42))
    assert 42 in followed


@pytest.mark.parametrize(
    ("array", "told", "words"),
    [
        (np.zeros((80, 100, 4), np.uint8), {}, r"frame is uint8 \[80, 100, 4\] in GPU memory, expected uint8 \[H, W, 3\] BGR"),
        (np.zeros((80, 100, 3), np.float32), {}, r"frame is float32 \[80, 100, 3\] in GPU memory"),
        (np.zeros((80, 100, 3), np.uint8), {"strides": (900, 9, 3)}, r"frame's strides are \[900, 9, 3\] bytes"),
    ],
)
def test_other_gpu_arrays_are_refused(stream: Stream, model_file: Path, array: np.ndarray, told: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        dkcam.load(model_file, "tensorrt")(on_gpu(array, **told))


def test_gpu_arrays_need_an_engine_on_the_gpu(model_file: Path) -> None:
    with pytest.raises(InputError, match="frame is in GPU memory, and cpu takes numpy arrays"):
        dkcam.load(model_file, "cpu")(on_gpu(frame(0)))


def test_the_pipeline_draws_on_the_gpu(stream: Stream, model_file: Path, clip: Callable[..., Path]) -> None:
    path = clip(frames=9, height=96, width=128)

    class Keep:
        name, pictures, results = "keep", True, list[Result]()

        def write(self, result: Result) -> bool:
            self.results.append(result)
            return True

    sink, explainer = Keep(), dkcam.load(model_file, "tensorrt")
    assert Pipeline(open_source(str(path)), explainer, [sink]).run().frames == 9  # type: ignore[list-item]
    cpu = dkcam.load(model_file, "cpu")
    for result in sink.results:
        wanted = cpu(result.frame.image).overlay(result.frame.image)
        assert result.picture is not None and result.explanation.device == "tensorrt:0"
        np.testing.assert_array_equal(result.picture[:80], wanted[:80])  # below is the speed, written in


class Managed(ctypes.Structure):
    """DLManagedTensor of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class DlpackOnly:
    def __init__(self, array: np.ndarray) -> None:
        self._array, three = array, ctypes.c_int64 * 3
        self._shape, self._strides = three(*array.shape), three(*array.strides)
        self._tensor = Managed(array.ctypes.data, 2, 0, 3, 1, 8, 1, self._shape, self._strides, 0, None, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **how: Any) -> Any:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self._tensor), b"dltensor", None)


@pytest.mark.skipif(not hasattr(kernels.native_module(), "dlpack"), reason="dkcam was built without CUDA's compiler")
def test_dlpack_arrays_are_read_where_they_lie(stream: Stream, model_file: Path) -> None:
    image = frame(0)
    given = dkcam.load(model_file, "tensorrt")(DlpackOnly(image))
    np.testing.assert_array_equal(given.heatmap, dkcam.load(model_file, "cpu")(image).heatmap)
    with pytest.raises(InputError, match=r"frame is float32 \[4, 5, 3\]|strides"):
        odd = DlpackOnly(np.zeros((4, 5, 3), np.uint8))
        odd._tensor.code, odd._tensor.bits = 2, 32
        dkcam.load(model_file, "tensorrt")(odd)
