"""Running a plan: pinned buffers, one stream, pycuda for device memory. Needs an NVIDIA GPU."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.engines.cache import cache_folder
from dkcam.engines.engine import EngineOptions, Outputs, check_inputs
from dkcam.engines.tensorrt.build import first_error, make_logger
from dkcam.engines.tensorrt.files import Plan, read_engine
from dkcam.engines.tensorrt.library import Gpu, Library, find_gpu, load_tensorrt
from dkcam.engines.tensorrt.make import make_engine
from dkcam.errors import DkcamError, EngineError, InputError


class TensorRt:
    """An engine on the first GPU. ``run`` gives fresh arrays at every call; its device and pinned buffers are reused."""

    lanes = 1

    def __init__(self, plan: Plan, source: str, library: Library) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            raise EngineError("running TensorRT engines needs pycuda; pip install 'dkcam[tensorrt]'") from error
        self.spec, self.sha256, self.profile = plan.spec, plan.onnx_sha256, plan.profile
        self.device = f"{library.flavour}:0"
        self._trt, self._cuda, self._lock = library.module, cuda, threading.Lock()
        self._inputs: dict[str, tuple[Any, Any]] = {}
        self._outputs: dict[str, tuple[Any, Any]] = {}
        cuda.init()
        self._primary = cuda.Device(0).retain_primary_context()
        self._primary.push()
        try:
            self._logger = make_logger(self._trt)
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan.data)
            context = self._engine.create_execution_context() if self._engine is not None else None
            if context is None:
                raise EngineError(f"{library.flavour} cannot run {source}: {first_error(self._logger, 'no reason given')}")
            self._context, self._stream = context, cuda.Stream()
        finally:
            cuda.Context.pop()

    def run(self, image: NDArray[Any], classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None = None) -> Outputs:
        """See ``Engine.run``; calls from several threads wait for one another."""
        check_inputs(self.spec, image, classes, key_mask)
        given: dict[str, NDArray[Any]] = {"image": image, "classes": classes}
        if key_mask is not None:
            given["key_mask"] = key_mask
        self._check_profile(given)
        with self._lock:
            self._primary.push()
            try:
                return self._run(given)
            except self._cuda.Error as error:
                raise EngineError(f"the GPU failed while running the model: {' '.join(str(error).split())[:200]}") from error
            finally:
                self._cuda.Context.pop()

    def _check_profile(self, given: dict[str, NDArray[Any]]) -> None:
        for name, (least, _, most) in self.profile.shapes(self.spec).items():
            if name in given and not all(a <= n <= b for a, n, b in zip(least, given[name].shape, most, strict=True)):
                raise InputError(
                    f"{name} is {list(given[name].shape)}, this engine was built for {list(least)} to {list(most)}; rebuild it for that"
                )

    def _run(self, given: dict[str, NDArray[Any]]) -> Outputs:
        context, stream = self._context, self._stream
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        for name in inputs:
            host, device = self._buffers(self._inputs, name, given[name].shape, given[name].dtype)
            host[...] = given[name]
            context.set_input_shape(name, given[name].shape)
            context.set_tensor_address(name, int(device))
            self._cuda.memcpy_htod_async(device, host, stream)
        outputs = [name for name in names if name not in inputs]
        for name in outputs:
            dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
            _, device = self._buffers(self._outputs, name, tuple(context.get_tensor_shape(name)), dtype)
            context.set_tensor_address(name, int(device))
        if not context.execute_async_v3(stream.handle):
            raise EngineError(f"TensorRT failed while running the model: {first_error(self._logger, 'no reason given')}")
        for name in outputs:
            host, device = self._outputs[name]
            self._cuda.memcpy_dtoh_async(host, device, stream)
        stream.synchronize()
        return {name: self._outputs[name][0].copy() for name in outputs}

    def _buffers(self, kept: dict[str, tuple[Any, Any]], name: str, shape: tuple[int, ...], dtype: Any) -> tuple[Any, Any]:
        """A pinned array and device memory of this shape, made anew only when the shape changes."""
        if name not in kept or kept[name][0].shape != shape:
            host = self._cuda.pagelocked_empty(shape, dtype)
            kept[name] = (host, self._cuda.mem_alloc(max(host.nbytes, 1)))
        return kept[name]

    def close(self) -> None:
        self._primary.push()
        try:
            self._inputs.clear()
            self._outputs.clear()
            self._context = self._engine = self._runtime = self._stream = None
        finally:
            self._cuda.Context.pop()


def open_file(path: Path) -> TensorRt:
    """An engine file that ``dk-export --engine`` wrote for this machine. Errors: as ``read_engine``."""
    library, gpu = load_tensorrt(), find_gpu()
    plan = read_engine(path, library, gpu)
    _need(gpu)
    return TensorRt(plan, str(path), library)


def open_model(data: bytes, source: str, options: EngineOptions) -> TensorRt:
    """An ONNX file's bytes, through an engine that is kept in the cache and rebuilt when anything about it changed."""
    gpu = _need(find_gpu())
    library = load_tensorrt()
    digest = hashlib.sha256(data).hexdigest()
    folder = cache_folder() if options.cache else None
    if folder is None:
        raise EngineError("TensorRT engines take long to build and need a cache folder; set DKCAM_CACHE")
    path = folder / f"{digest[:32]}-{library.flavour}-{library.version}-sm{gpu.capability.replace('.', '')}.engine"
    try:
        return TensorRt(read_engine(path, library, gpu, onnx_sha256=digest), source, library)
    except DkcamError:
        folder.mkdir(parents=True, exist_ok=True)
        return TensorRt(make_engine(data, source, path), source, library)


def _need(gpu: Gpu | None) -> Gpu:
    if gpu is None:
        raise EngineError("TensorRT engines run on an NVIDIA GPU, and the driver shows none here")
    return gpu
