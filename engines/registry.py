"""Which engine runs a file: one table of devices, tried in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dkcam.engines.engine import Engine, EngineOptions
from dkcam.engines.onnxruntime_engine import OnnxRuntime
from dkcam.engines.tensorrt.files import SUFFIXES as ENGINE_SUFFIXES
from dkcam.engines.tensorrt.library import find_gpu
from dkcam.errors import EngineError, ModelFileError
from dkcam.files import exists, read_file

log = logging.getLogger("dkcam")


@dataclass(frozen=True)
class Backend:
    """open: (file's bytes, its name, options) → engine; raises EngineError when this machine cannot run it."""

    open: Callable[[bytes, str, EngineOptions], Engine]
    on_request: bool = False


def _tensorrt(data: bytes, source: str, options: EngineOptions) -> Engine:
    from dkcam.engines.tensorrt.engine import open_model

    return open_model(data, source, options)


def _on_gpu(kind: str, data: bytes, source: str, options: EngineOptions) -> Engine:
    if find_gpu() is None:
        raise EngineError("the driver shows no NVIDIA GPU here")
    return OnnxRuntime(kind, data, source, options)


# "auto" tries them in this order, leaving out those that are only run when asked for
BACKENDS: dict[str, Backend] = {
    "tensorrt": Backend(_tensorrt),
    "cuda": Backend(partial(_on_gpu, "cuda")),
    "cpu": Backend(partial(OnnxRuntime, "cpu")),
    "openvino": Backend(partial(OnnxRuntime, "openvino"), on_request=True),
    "onnxruntime-tensorrt": Backend(partial(_on_gpu, "onnxruntime-tensorrt"), on_request=True),
    "onnxruntime-tensorrt-rtx": Backend(partial(_on_gpu, "onnxruntime-tensorrt-rtx"), on_request=True),
}
DEVICES = ("auto", *BACKENDS)


def open_engine(path: str | Path, device: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Open an exported model, or a TensorRT engine built from one, on a device.

    device: "auto" takes the first backend of the table that runs here and logs why others were skipped; a name
    takes that one or fails. Errors: ModelFileError for the file, EngineError for the device.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".safetensors") and exists(path):
        raise ModelFileError(f"{path} is a checkpoint; export it first: dk-export {path}")
    if path.suffix in ENGINE_SUFFIXES:
        if device not in ("auto", "tensorrt"):
            raise EngineError(f"{path} is a TensorRT engine and cannot run on {device}; give the .onnx file")
        from dkcam.engines.tensorrt.engine import open_file

        return open_file(path)
    data = read_file(path, "a model exported with dk-export (model.onnx)", ModelFileError)
    return open_bytes(data, str(path), device, options or EngineOptions())


def open_bytes(data: bytes, source: str, device: str = "auto", options: EngineOptions | None = None) -> Engine:
    """As ``open_engine``, for a file's bytes; ``source`` names it in errors. Without options nothing is kept on disk."""
    options = options or EngineOptions(cache=False)
    if device != "auto":
        if device not in BACKENDS:
            raise EngineError(f"device {device!r} is not available; expected one of {', '.join(DEVICES)}")
        return BACKENDS[device].open(data, source, options)
    reasons = []
    for name, backend in BACKENDS.items():
        if backend.on_request:
            continue
        try:
            engine = backend.open(data, source, options)
        except EngineError as error:
            reasons.append(f"{name}: {error}")
            log.info("skipped %s: %s", name, error)
            continue
        log.info("running on %s", engine.device)
        return engine
    raise EngineError(f"no device can run {source} ({'; '.join(reasons)})")
