"""Which engine runs a file: one table of devices, tried in order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dkcam.engines.engine import Engine, EngineOptions
from dkcam.engines.onnxruntime_cpu import OnnxRuntimeCpu
from dkcam.errors import EngineError, ModelFileError
from dkcam.files import exists, read_file

log = logging.getLogger("dkcam")


@dataclass(frozen=True)
class Backend:
    """open: (file's bytes, its name, options) → engine; raises EngineError when this machine cannot run it."""

    open: Callable[[bytes, str, EngineOptions], Engine]


BACKENDS: dict[str, Backend] = {"cpu": Backend(OnnxRuntimeCpu)}
DEVICES = ("auto", *BACKENDS)


def open_engine(path: str | Path, device: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Open an exported model on a device.

    device: "auto" takes the first backend of the table that runs here and logs why others were skipped; a name
    takes that one or fails. Errors: ModelFileError for the file, EngineError for the device.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".safetensors") and exists(path):
        raise ModelFileError(f"{path} is a checkpoint; export it first: dk-export {path}")
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
        try:
            engine = backend.open(data, source, options)
        except EngineError as error:
            reasons.append(f"{name}: {error}")
            log.info("skipped %s: %s", name, error)
            continue
        log.info("running on %s", engine.device)
        return engine
    raise EngineError(f"no device can run {source} ({'; '.join(reasons)})")
