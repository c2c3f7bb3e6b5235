"""Frames in GPU memory: the frame goes up (or lies there already), the network's input and the overlay are made there.

The CUDA kernels of cpp_ext do the work, with the bytes of ``kernels``; they are there where dkcam was built with CUDA's
compiler. Otherwise frames are prepared and drawn by the processor, and the engine's input goes up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.engines.cuda import Cuda, Memory, Pinned
from dkcam.errors import EngineError, InputError
from dkcam.runtime import kernels
from dkcam.runtime.geometry import Fit
from dkcam.spec import InputSpec

MOST_SHRINK = 126  # of the CUDA kernels, a side
KEPT = 8  # unused frame buffers of one size


@dataclass(frozen=True)
class GpuFrame:
    """A frame uint8 [H, W, 3] BGR in GPU memory.

    pointer: of its first pixel. stride: bytes from row to row. owner: what keeps the memory: the caller's array, or a
    buffer that is used again once this object is gone.
    """

    pointer: int
    stride: int
    height: int
    width: int
    owner: Any

    @property
    def rows(self) -> tuple[int, int, int, int]:
        return self.pointer, self.stride, self.height, self.width


@dataclass
class _Buffer:
    """Room on the GPU with a pinned array of the same shape."""

    pinned: Pinned
    memory: Memory


class _Loan:
    """A buffer; it goes back on its shelf when the last user is done."""

    def __init__(self, buffer: _Buffer, shelf: list[_Buffer]) -> None:
        self.pointer, self.array = buffer.memory.pointer, buffer.pinned.array
        self._buffer, self._shelf = buffer, shelf

    def __del__(self) -> None:
        if len(self._shelf) < KEPT:
            self._shelf.append(self._buffer)


def is_on_gpu(frame: Any) -> bool:
    """Whether an array lies in CUDA memory, as ``__cuda_array_interface__`` or DLPack say (CuPy, torch, Numba, …)."""
    if isinstance(frame, np.ndarray):
        return False
    if hasattr(frame, "__cuda_array_interface__"):
        return True
    return hasattr(frame, "__dlpack__") and int(frame.__dlpack_device__()[0]) == 2  # kDLCUDA


class GpuKernels:
    """The per-frame work on an engine's stream."""

    def __init__(self, cuda: Cuda, native: Any) -> None:
        self._cuda, self._native = cuda, native
        self._shelves: dict[tuple[tuple[int, ...], str], list[_Buffer]] = {}
        self._tables: dict[bytes, _Loan] = {}

    @staticmethod
    def of(cuda: Cuda | None) -> GpuKernels | None:
        """None for engines without a stream, and where dkcam was built without CUDA's compiler."""
        native = kernels.native_module()
        return GpuKernels(cuda, native) if cuda is not None and hasattr(native, "cuda_overlay") else None

    def can_shrink(self, height: int, width: int, fit: Fit) -> bool:
        """Whether the kernels make this input from such a frame: they only shrink."""
        part = fit.part
        sides = ((part.bottom - part.top, part.height), (part.right - part.left, part.width))
        return all(smaller <= larger <= smaller * MOST_SHRINK for larger, smaller in sides)

    @staticmethod
    def can_make(way: InputSpec) -> bool:
        """Whether the kernels make this kind of input: uint8, or planes in the order R, G, B."""
        return way.kind == "rgb8" or way.channels == "rgb"

    def take(self, frame: Any) -> GpuFrame:
        """A frame's place on the GPU: of numpy arrays a copy on its way there, of GPU arrays the array itself.

        A GPU array must not change before the explanation of it is there (and its overlay drawn, where one is).
        """
        return self._upload(frame) if isinstance(frame, np.ndarray) else self._adopt(frame)

    def _upload(self, frame: NDArray[np.uint8]) -> GpuFrame:
        height, width = frame.shape[:2]
        loan = self._filled(frame)
        return GpuFrame(loan.pointer, 3 * width, height, width, loan)

    def _borrow(self, shape: tuple[int, ...], dtype: Any) -> _Loan:
        shelf = self._shelves.setdefault((shape, np.dtype(dtype).str), [])
        try:
            return _Loan(shelf.pop(), shelf)
        except IndexError:
            pinned = Pinned(self._cuda, shape, dtype)
            return _Loan(_Buffer(pinned, Memory(self._cuda, pinned.array.nbytes)), shelf)

    def _filled(self, array: NDArray[Any]) -> _Loan:
        """A buffer with a copy of a host array, on its way up."""
        loan = self._borrow(array.shape, array.dtype)
        loan.array[...] = array
        self._cuda.upload(loan.pointer, loan.array)
        return loan

    def _adopt(self, frame: Any) -> GpuFrame:
        if hasattr(frame, "__cuda_array_interface__"):
            told = frame.__cuda_array_interface__
            shape, kind, strides = tuple(told["shape"]), np.dtype(told["typestr"]), told.get("strides")
            pointer, stream = int(told["data"][0]), told.get("stream")
        else:
            pointer, shape, strides, kind = self._native.dlpack(frame)
            kind, stream = np.dtype(kind), None
        if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or not all(shape):
            raise InputError(f"frame is {kind} {list(shape)} in GPU memory, expected uint8 [H, W, 3] BGR")
        height, width = shape[:2]
        strides = tuple(strides) if strides else (3 * width, 3, 1)
        if strides[1:] != (3, 1) or strides[0] < 3 * width:
            raise InputError(f"frame's strides are {list(strides)} bytes, expected [{3 * width} or more, 3, 1]; make it contiguous")
        if stream is not None and stream != 1:  # 1 is the default stream, which this one waits for anyway
            self._cuda.follow(stream)
        return GpuFrame(pointer, strides[0], height, width, frame)

    def image(self, frame: GpuFrame, fit: Fit, way: InputSpec) -> GpuInput:
        """The network's input, to be made in the engine's own memory."""
        return GpuInput(self._cuda, self._native, frame, fit, way)

    def overlay(
        self, frame: GpuFrame, heatmaps: NDArray[np.float32], fit: Fit, tables: NDArray[np.uint32], *, tint: bool
    ) -> NDArray[np.uint8]:
        """As ``kernels.overlay``, over a frame in GPU memory; only the finished picture comes down. Errors: EngineError."""
        count, width = len(heatmaps), frame.width * (1 if tint else len(heatmaps))
        with self._cuda.current():
            heat = self._filled(np.asarray(heatmaps, np.float32))
            made = self._borrow((frame.height, width, 3), np.uint8)
            out = made.pointer, 3 * width, frame.height, width
            shape = count, *heat.array.shape[1:]
            style = (fit.height, fit.width), fit.scale, fit.offset, tint
            _launch(self._native.cuda_overlay, frame.rows, heat.pointer, shape, self._table(tables), out, *style, self._cuda.stream)
            self._cuda.download(made.array, made.pointer)
            done = self._cuda.mark()
        self._cuda.wait(done)
        return made.array.copy()

    def _table(self, tables: NDArray[np.uint32]) -> int:
        key = tables.tobytes()
        if key not in self._tables:
            if len(self._tables) >= KEPT:
                self._tables.clear()
            self._tables[key] = self._filled(tables)
        return self._tables[key].pointer


@dataclass(frozen=True)
class GpuInput:
    """One frame as a graph's ``image``, with a batch of one; see ``GpuImage``."""

    cuda: Cuda
    native: Any
    frame: GpuFrame
    fit: Fit
    way: InputSpec

    @property
    def shape(self) -> tuple[int, ...]:
        size = self.fit.height, self.fit.width
        return (1, *size, 3) if self.way.kind == "rgb8" else (1, 3, *size)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.way.kind == "rgb8" else np.float32)

    def write(self, pointer: int) -> None:
        """Put the work on the stream. Errors: EngineError."""
        part, fit, frame, way = self.fit.part, self.fit, self.frame, self.way
        source = frame.pointer + part.top * frame.stride + 3 * part.left, frame.stride, part.bottom - part.top, part.right - part.left
        whole, pixels = (part.height, part.width) == (fit.height, fit.width), fit.height * fit.width
        first = part.to_top * fit.width + part.to_left
        if way.kind == "rgb8":
            if not whole:
                self.cuda.fill(pointer, way.fill, 3 * pixels, 8)
            out = pointer + 3 * first, 3 * fit.width, part.height, part.width
            _launch(self.native.cuda_shrink, source, out, self.cuda.stream)
            return
        mean, std = way.of_unit
        if not whole:
            for c in range(3):
                grey = (np.float32(way.fill) / np.float32(255) - np.float32(mean[c])) / np.float32(std[c])
                self.cuda.fill(pointer + 4 * c * pixels, int(np.float32(grey).view(np.uint32)), pixels, 32)
        size, strides = (part.height, part.width), (pixels, fit.width)
        _launch(self.native.cuda_shrink_normalised, source, pointer + 4 * first, strides, size, mean, std, self.cuda.stream)


@dataclass(frozen=True)
class GpuBatch:
    """Several frames as one graph's ``image``; see ``GpuImage``."""

    images: tuple[GpuInput, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.images), *self.images[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.images[0].dtype

    def write(self, pointer: int) -> None:
        """Put the work on the stream, a frame behind the other. Errors: EngineError."""
        size = math.prod(self.images[0].shape) * self.dtype.itemsize
        for number, image in enumerate(self.images):
            image.write(pointer + number * size)


def _launch(kernel: Any, *values: Any) -> None:
    try:
        kernel(*values)
    except RuntimeError as error:
        raise EngineError(f"the GPU refused a kernel of dkcam ({error}); was dkcam built with a CUDA newer than the driver?") from error
