"""A GPU for tests on machines without one: memory is the processor's, and work on the stream waits until someone waits for it.

So a result that is read, or a buffer that is filled again, too early shows. TensorRT is stood in for by ONNX Runtime. What
only a GPU can show (the driver's and TensorRT's own behaviour) is in tests/gpu.
"""

from __future__ import annotations

import ctypes
import enum
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dkcam.engines.engine import EngineOptions
from dkcam.engines.onnxruntime_engine import OnnxRuntime
from dkcam.engines.tensorrt.library import Gpu, Library
from dkcam.runtime import kernels
from tests.cpp_ext.emulated import COMPILER, emulated

STREAM = 7
Work = Callable[[], Any]


class Stream:
    """work: put here and not run yet. recorded: of a capture, else None."""

    def __init__(self) -> None:
        self.work: list[Work] = []
        self.recorded: list[Work] | None = None
        self.graphs = 0
        self._running = threading.RLock()
        self.allocated: dict[int, Any] = {}
        self.driver: ModuleType = driver(self)

    def put(self, work: Work) -> None:
        (self.work if self.recorded is None else self.recorded).append(work)

    def run(self) -> None:
        assert self.recorded is None, "a wait inside a capture"
        with self._running:  # two threads may wait, and the work of one is in order
            while self.work:
                self.work.pop(0)()


def driver(stream: Stream) -> ModuleType:
    """The functions of ``cuda.bindings.driver`` that dkcam calls; each returns (error, values…)."""

    def alloc(size: int, flags: int = 0) -> tuple[int, int]:
        assert stream.recorded is None, "an allocation inside a capture"
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, 0xAA, size)
        stream.allocated[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def free(pointer: int) -> tuple[int]:
        stream.run()  # as CUDA does
        del stream.allocated[pointer]
        return (0,)

    def copy(to: int, of: int, size: int, on: int) -> tuple[int]:
        assert on == STREAM
        stream.put(lambda: ctypes.memmove(to, of, size))
        return (0,)

    def fill(kind: Any) -> Callable[..., tuple[int]]:
        def run(to: int, value: int, count: int, on: int) -> tuple[int]:
            stream.put(lambda: ctypes.memmove(to, np.full(count, value, kind).tobytes(), count * np.dtype(kind).itemsize))
            return (0,)

        return run

    def begin(on: int, mode: Any) -> tuple[int]:
        stream.run()
        stream.recorded = []
        return (0,)

    def end(on: int) -> tuple[int, list[Work]]:
        recorded, stream.recorded = stream.recorded or [], None
        return 0, recorded

    def launch(graph: list[Work], on: int) -> tuple[int]:
        stream.graphs += 1
        stream.work.extend(graph)
        return (0,)

    def wait(event: int) -> tuple[int]:
        stream.run()
        return (0,)

    module = ModuleType("cuda.bindings.driver")
    nothing = ("cuInit", "cuCtxPushCurrent", "cuEventRecord", "cuEventDestroy", "cuStreamWaitEvent", "cuGraphDestroy")
    for name in nothing:
        setattr(module, name, lambda *values: (0,))
    for name, value in {"cuDeviceGet": 0, "cuDevicePrimaryCtxRetain": 1, "cuStreamCreate": STREAM, "cuEventCreate": 3}.items():
        setattr(module, name, lambda *values, value=value: (0, value))
    module.__dict__.update(
        cuCtxPopCurrent=lambda: (0, 1),
        cuMemAlloc=alloc,
        cuMemHostAlloc=alloc,
        cuMemFree=free,
        cuMemFreeHost=free,
        cuMemcpyHtoDAsync=copy,
        cuMemcpyDtoHAsync=copy,
        cuMemsetD8Async=fill(np.uint8),
        cuMemsetD32Async=fill(np.uint32),
        cuEventSynchronize=wait,
        cuStreamBeginCapture=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiate=lambda graph, flags: (0, graph),
        cuGraphLaunch=launch,
        cuGetErrorString=lambda error: (0, b"out of memory" if error == 2 else b"unknown error"),
        CUstream=int,
        CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1),
    )
    return module


class Kernels:
    """``_native`` with the CUDA kernels, which run when the stream does."""

    def __init__(self, stream: Stream, native: Any) -> None:
        self._stream, self._native, self._gpu = stream, native, emulated()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda_"):
            return getattr(self._native, name)
        kernel = getattr(self._gpu, name)

        def put(*values: Any) -> None:
            assert values[-1] == STREAM
            self._stream.put(lambda: kernel(*values))

        return put


class Mode(enum.Enum):
    INPUT, OUTPUT = 0, 1


class Context:
    """An execution context of TensorRT, on ONNX Runtime."""

    def __init__(self, engine: TensorRtEngine) -> None:
        self._engine, self._shapes, self._places = engine, dict[str, tuple[int, ...]](), dict[str, int]()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self._shapes[name] = shape

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self._places[name] = pointer

    def _inputs(self, read: bool) -> dict[str, np.ndarray]:
        found = {}
        for name, shape in self._shapes.items():
            found[name] = np.zeros(shape, self._engine.dtypes[name])
            if read:
                ctypes.memmove(found[name].ctypes.data, self._places[name], found[name].nbytes)
        return found

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._engine.session.run([name], self._inputs(read=False))[0].shape

    def execute_async_v3(self, on: int) -> bool:
        assert on == STREAM

        def run() -> None:
            outputs = self._engine.session.run(self._engine.outputs, self._inputs(read=True))
            for name, value in zip(self._engine.outputs, outputs, strict=True):
                ctypes.memmove(self._places[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)

        self._engine.stream.put(run)
        return True


class TensorRtEngine:
    """An ICudaEngine whose "plan" is the ONNX file."""

    def __init__(self, plan: bytes, stream: Stream) -> None:
        self.session, self.stream = OnnxRuntime("cpu", plan, "plan", EngineOptions(cache=False))._session, stream
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
        self.dtypes = {value.name: kinds[value.type] for value in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.dtypes)

    def get_tensor_name(self, index: int) -> str:
        return list(self.dtypes)[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name in self.inputs else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.dtypes[name]

    def create_execution_context(self) -> Context:
        return Context(self)


class ILogger:
    Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING")


def tensorrt(stream: Stream) -> Library:
    module = ModuleType("tensorrt")
    module.__dict__.update(
        ILogger=ILogger,
        TensorIOMode=Mode,
        nptype=lambda kind: kind,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: TensorRtEngine(plan, stream)),
    )
    return Library(module, "tensorrt", "10.13.0")


def install(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Put the emulation in place of driver, TensorRT and CUDA kernels; plans are ONNX files then."""
    if not kernels.is_native() or not COMPILER:
        pytest.skip("needs g++")
    stream = Stream()
    bindings = ModuleType("cuda.bindings")
    bindings.__dict__["driver"] = stream.driver
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setattr(kernels, "_native", Kernels(stream, kernels.native_module()))
    for module in ("engine", "make"):
        monkeypatch.setattr(f"dkcam.engines.tensorrt.{module}.find_gpu", lambda: Gpu("Emulated", "8.7"))
        monkeypatch.setattr(f"dkcam.engines.tensorrt.{module}.load_tensorrt", lambda: tensorrt(stream))
    monkeypatch.setattr("dkcam.engines.tensorrt.make.build_plan", lambda library, data, *rest: data)
    return stream
