"""The first GPU's memory and one stream of work on it, through NVIDIA's own bindings of the driver (cuda-bindings).

Work is only put on the stream; ``wait`` waits for it. Everything on the stream runs in order, so a buffer may be used
again as soon as the work that reads it was put there.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import EngineError, install


class Memory:
    """Bytes on the GPU, freed with this object. pointer: the device address. size: in bytes."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda, self.size = cuda, size
        self.pointer = int(cuda.call("cuMemAlloc", max(size, 1)))

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self._cuda.quietly("cuMemFree", self.pointer)


class Pinned:
    """A host array the GPU copies from and to by itself: ``array``, of this shape and dtype, as long as this object lives."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: Any) -> None:
        kind = np.dtype(dtype)
        size = max(prod(shape) * kind.itemsize, 1)
        self._cuda, self._pointer = cuda, int(cuda.call("cuMemHostAlloc", size, 0))
        block = (ctypes.c_uint8 * size).from_address(self._pointer)
        self.array: NDArray[Any] = np.frombuffer(block, np.uint8)[: prod(shape) * kind.itemsize].view(kind).reshape(shape)

    def __del__(self) -> None:
        if hasattr(self, "_pointer"):
            self._cuda.quietly("cuMemFreeHost", self._pointer)


class Cuda:
    """The first GPU (CUDA_VISIBLE_DEVICES counts): its primary context, which other libraries share, and a stream of its own.

    Several threads may use it. stream: the CUstream's number. Errors: EngineError where there is no GPU or no
    cuda-bindings, and where the GPU fails.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise EngineError(f"running TensorRT engines needs cuda-bindings; {install('tensorrt')}") from error
        self._driver, self._lock = driver, threading.RLock()
        try:
            self._check(driver.cuInit(0))
        except RuntimeError as error:  # there is no driver to load
            raise EngineError("there is no NVIDIA driver on this machine") from error
        self._device = self._check(driver.cuDeviceGet(0))
        self._context = self._check(driver.cuDevicePrimaryCtxRetain(self._device))
        self._stream = self.call("cuStreamCreate", 0)  # 0: waits for the default stream, where torch and CuPy work
        self.stream = int(self._stream)

    def _check(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if int(error):
            _, text = self._driver.cuGetErrorString(error)
            words = text.decode() if isinstance(text, bytes) else str(error)
            raise EngineError(f"the GPU failed: {words}")
        return values[0] if values else None

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context, for this thread, and the stream, for this thread alone."""
        with self._lock:
            self._check(self._driver.cuCtxPushCurrent(self._context))
            try:
                yield
            finally:
                self._driver.cuCtxPopCurrent()

    def call(self, name: str, *values: Any) -> Any:
        """A function of the driver, in the context."""
        with self.current():
            return self._check(getattr(self._driver, name)(*values))

    def quietly(self, name: str, *values: Any) -> None:
        """As ``call``, for what is freed: when the process ends the driver may be gone already."""
        with suppress(EngineError, RuntimeError, AttributeError, TypeError):
            self.call(name, *values)

    def upload(self, memory: int, host: NDArray[Any]) -> None:
        """Put a copy to the GPU on the stream; ``host`` is contiguous and stays as it is until that is done."""
        self.call("cuMemcpyHtoDAsync", memory, host.ctypes.data, host.nbytes, self._stream)

    def download(self, host: NDArray[Any], memory: int) -> None:
        """Put a copy from the GPU on the stream."""
        self.call("cuMemcpyDtoHAsync", host.ctypes.data, memory, host.nbytes, self._stream)

    def fill(self, memory: int, value: int, count: int, bits: int) -> None:
        """Put ``count`` values of 8 or 32 bits on the GPU."""
        self.call(f"cuMemsetD{bits}Async", memory, value, count, self._stream)

    def mark(self) -> Any:
        """An event after the work that is on the stream now, for ``wait``."""
        with self.current():
            event = self.call("cuEventCreate", 2)  # 2: CU_EVENT_DISABLE_TIMING
            self.call("cuEventRecord", event, self._stream)
            return event

    def wait(self, event: Any) -> None:
        """Until the work before the mark is done; other threads go on meanwhile. Errors: EngineError where it failed."""
        self._check(self._driver.cuCtxPushCurrent(self._context))
        try:
            self._check(self._driver.cuEventSynchronize(event))
        finally:
            self._driver.cuEventDestroy(event)
            self._driver.cuCtxPopCurrent()

    def follow(self, stream: int) -> None:
        """Let this stream wait for what is on another one now."""
        with self.current():
            event = self.call("cuEventCreate", 2)
            self.call("cuEventRecord", event, self._driver.CUstream(stream))
            self.call("cuStreamWaitEvent", self._stream, event, 0)
            self.call("cuEventDestroy", event)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What ``work`` puts on the stream, as a CUDA graph: calling the result puts all of it there at once."""
        with self.current():
            self.call("cuStreamBeginCapture", self._stream, self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            try:
                work()
            finally:
                graph = self.call("cuStreamEndCapture", self._stream)
            ready = self.call("cuGraphInstantiate", graph, 0)
            self.call("cuGraphDestroy", graph)
        return _Graph(self, ready)


class _Graph:
    """A captured graph; called, it goes on the stream. Freed with the object."""

    def __init__(self, cuda: Cuda, ready: Any) -> None:
        self._cuda, self._ready = cuda, ready

    def __call__(self) -> None:
        self._cuda.call("cuGraphLaunch", self._ready, self._cuda._stream)

    def __del__(self) -> None:
        self._cuda.quietly("cuGraphExecDestroy", self._ready)
