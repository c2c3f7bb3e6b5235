"""Running a plan on an NVIDIA GPU: pinned buffers, one stream, and a CUDA graph after the first runs."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.engines.cache import cache_folder
from dkcam.engines.cuda import Cuda, Memory, Pinned
from dkcam.engines.engine import EngineOptions, GpuImage, Outputs, check_inputs
from dkcam.engines.onnx_file import read_spec
from dkcam.engines.tensorrt.build import first_error, make_logger
from dkcam.engines.tensorrt.files import Plan, read_engine, sidecar_of
from dkcam.engines.tensorrt.library import Gpu, Library, find_gpu, load_tensorrt
from dkcam.engines.tensorrt.make import make_engine
from dkcam.engines.tensorrt.runtime_cache import open_context
from dkcam.errors import DkcamError, EngineError, InputError
from dkcam.files import Claim, Replacement, exists, make_folder

KEPT_SHAPES = 8  # sets of input shapes that stay ready, each with a context and buffers of its own
WARM_RUNS = 2  # before a CUDA graph is captured: TensorRT sets itself up in the first one

log = logging.getLogger("dkcam")


@dataclass
class Buffer:
    """A tensor of the engine: on the GPU, and as a pinned host array."""

    memory: Memory
    pinned: Pinned


@dataclass
class Bound:
    """What runs one set of input shapes. graph: replays the run, once it was captured; None before, and where it cannot be."""

    context: Any
    inputs: Mapping[str, Buffer]
    outputs: Mapping[str, Buffer]
    runs: int = 0
    graph: Callable[[], None] | None = field(default=None, repr=False)


class TensorRt:
    """An engine on the first GPU. ``run`` gives fresh arrays at every call; its pinned and device buffers are reused."""

    lanes = 1

    def __init__(self, plan: Plan, source: str, library: Library) -> None:
        self.spec, self.sha256, self.profile = plan.spec, plan.onnx_sha256, plan.profile
        self.device = f"{library.flavour}:0"
        self.cuda = Cuda()
        self._trt, self._lock = library.module, threading.Lock()
        self._bound: dict[Any, Bound] = {}  # by input shapes, the latest last
        self._library, self._plan = library, plan.data
        with self.cuda.current():
            self._logger = make_logger(self._trt)
            self._runtime = self._trt.Runtime(self._logger)
            if plan.dla is not None:
                self._runtime.DLA_core = plan.dla
            self._engine = self._runtime.deserialize_cuda_engine(plan.data)
            self._spare: Any = None  # a context that has no shapes yet
            if self._engine is not None:
                self._spare, self._keep_runtime_cache = open_context(library, self._engine, plan.data)
            if self._spare is None:
                raise EngineError(f"{library.flavour} cannot run {source}: {first_error(self._logger, 'no reason given')}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]

    def run(self, image: NDArray[Any] | GpuImage, classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None = None) -> Outputs:
        """See ``Engine.run``; calls from several threads wait for one another."""
        check_inputs(self.spec, image, classes, key_mask)
        given: dict[str, NDArray[Any] | GpuImage] = {"image": image, "classes": classes}
        if key_mask is not None:
            given["key_mask"] = key_mask
        self._check_profile(given)
        with self._lock:
            with self.cuda.current():
                bound = self._bind({name: given[name] for name in self._inputs})
                for name, buffer in bound.inputs.items():
                    self._fill(buffer, given[name])
                self._launch(bound)
                done = self.cuda.mark()
            self.cuda.wait(done)
            return {name: buffer.pinned.array.copy() for name, buffer in bound.outputs.items()}

    def _check_profile(self, given: Mapping[str, NDArray[Any] | GpuImage]) -> None:
        for name, (least, _, most) in self.profile.shapes(self.spec).items():
            if name in given and not all(a <= n <= b for a, n, b in zip(least, given[name].shape, most, strict=True)):
                raise InputError(
                    f"{name} is {list(given[name].shape)}, this engine was built for {list(least)} to {list(most)}; rebuild it for that"
                )

    def _bind(self, given: Mapping[str, NDArray[Any] | GpuImage]) -> Bound:
        """What runs these shapes; made when they come for the first time, and kept while few others come."""
        shapes = tuple((name, tuple(value.shape)) for name, value in given.items())
        bound = self._bound.pop(shapes, None) or self._made(given)
        self._bound[shapes] = bound
        return bound

    def _made(self, given: Mapping[str, NDArray[Any] | GpuImage]) -> Bound:
        while len(self._bound) >= KEPT_SHAPES:
            self._bound.pop(next(iter(self._bound)))
        context, self._spare = self._spare, None
        if context is None:
            context, _ = open_context(self._library, self._engine, self._plan)
        if context is None:
            raise EngineError(f"{self._library.flavour} has no room for another shape: {first_error(self._logger, 'no reason given')}")
        for name, value in given.items():
            context.set_input_shape(name, tuple(value.shape))
        inputs = {name: self._buffer(context, name, tuple(value.shape), value.dtype) for name, value in given.items()}
        outputs = {}
        for name in self._outputs:
            dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
            outputs[name] = self._buffer(context, name, tuple(context.get_tensor_shape(name)), dtype)
        return Bound(context, inputs, outputs)

    def _buffer(self, context: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Buffer:
        pinned = Pinned(self.cuda, shape, dtype)
        memory = Memory(self.cuda, pinned.array.nbytes)
        context.set_tensor_address(name, memory.pointer)
        return Buffer(memory, pinned)

    def _fill(self, buffer: Buffer, value: NDArray[Any] | GpuImage) -> None:
        if isinstance(value, np.ndarray):
            buffer.pinned.array[...] = value
            self.cuda.upload(buffer.memory.pointer, buffer.pinned.array)
        else:
            value.write(buffer.memory.pointer)

    def _launch(self, bound: Bound) -> None:
        if bound.graph is not None:
            bound.graph()
            return
        self._enqueue(bound)
        bound.runs += 1
        if bound.runs == WARM_RUNS:
            self._keep_runtime_cache()
            try:
                bound.graph = self.cuda.capture(lambda: self._enqueue(bound))
            except EngineError as error:
                log.info("no CUDA graph for this engine (%s); it runs without", error)

    def _enqueue(self, bound: Bound) -> None:
        if not bound.context.execute_async_v3(self.cuda.stream):
            raise EngineError(f"TensorRT failed while running the model: {first_error(self._logger, 'no reason given')}")
        for buffer in bound.outputs.values():
            self.cuda.download(buffer.pinned.array, buffer.memory.pointer)

    def close(self) -> None:
        with self._lock, self.cuda.current():
            self._bound.clear()
            self._spare = self._engine = self._runtime = None


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
    if folder is not None and _can_hold_files(folder):
        path = folder / f"{digest[:32]}-{library.flavour}-{library.version}-sm{gpu.capability.replace('.', '')}.engine"
        claim = Claim(path, EngineError, wait=True)  # a build takes minutes: a second run waits for it and takes what came out
        try:
            plan = _cached(path, data, source, library, gpu) or make_engine(data, source, path, report=options.report, private=True)
        finally:
            claim.release()
        return TensorRt(plan, source, library)
    with TemporaryDirectory() as own:
        return TensorRt(make_engine(data, source, Path(own) / "model.engine", report=options.report), source, library)


def _cached(path: Path, data: bytes, source: str, library: Library, gpu: Gpu) -> Plan | None:
    """What was built of these bytes, or None. An entry that is not that is deleted, with a word: it is to blame, not the model."""
    sidecar = sidecar_of(path)
    if not exists(path) and not exists(sidecar):
        log.info("building a TensorRT engine, which is kept as %s", path)
        return None
    try:
        plan = read_engine(path, library, gpu, onnx_sha256=hashlib.sha256(data).hexdigest())
        if plan.spec == read_spec(data, source):
            return plan
        why = f"{sidecar.name} describes another graph"
    except DkcamError as error:
        why = str(error).split("; rebuild")[0]
    log.warning("%s, an entry of the cache, is deleted and built anew: %s", path, why)
    for file in (sidecar, path):
        file.unlink(missing_ok=True)
    return None


def _can_hold_files(folder: Path) -> bool:
    try:
        make_folder(folder)
        Replacement(folder / "probe", EngineError).discard()
    except (OSError, EngineError) as error:
        log.warning("the engine cannot be kept for the next run: %s", error)
        return False
    return True


def _need(gpu: Gpu | None) -> Gpu:
    if gpu is None:
        raise EngineError("TensorRT engines run on an NVIDIA GPU, and the driver shows none here")
    return gpu
