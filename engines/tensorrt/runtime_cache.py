"""TensorRT-RTX compiles an engine's kernels for the GPU when it is first run; its runtime cache keeps them on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dkcam.engines.cache import cache_folder
from dkcam.engines.tensorrt.library import Library
from dkcam.errors import DkcamError, EngineError
from dkcam.files import write_file


def open_context(library: Library, engine: Any, plan: bytes) -> tuple[Any, Callable[[], None]]:
    """An execution context (None where TensorRT refuses), and what to call after a run to keep what it compiled.

    Plain TensorRT compiles at build time and has nothing to keep. A cache that is damaged, or of another GPU or driver,
    is refused by TensorRT-RTX itself and written anew.
    """
    folder = cache_folder()
    if library.flavour != "tensorrt_rtx" or folder is None:
        return engine.create_execution_context(), lambda: None
    path = folder / f"{hashlib.sha256(plan).hexdigest()[:32]}-{library.version}.runtime"
    config = engine.create_runtime_config()
    cache = config.create_runtime_cache()
    found = _read(path)
    known = bool(found) and bool(cache.deserialize(found))
    config.set_runtime_cache(cache)
    return engine.create_execution_context(config), (lambda: None) if known else (lambda: _keep(cache, path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _keep(cache: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, bytes(cache.serialize()), EngineError)
    except (OSError, DkcamError):
        pass  # it only saves time
