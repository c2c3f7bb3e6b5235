"""TensorRT-RTX compiles an engine's kernels for the GPU when it is first run; its runtime cache keeps them on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from dkcam.engines.cache import Entry, cache_folder
from dkcam.engines.tensorrt.library import Library


def open_context(library: Library, engine: Any, plan: bytes) -> tuple[Any, Callable[[], None]]:
    """An execution context (None where TensorRT refuses), and what to call after a run to keep what it compiled.

    Plain TensorRT compiles at build time and has nothing to keep. A cache that is damaged, or of another GPU or driver,
    is refused by TensorRT-RTX itself and written anew.
    """
    folder = cache_folder()
    if library.flavour != "tensorrt_rtx" or folder is None:
        return engine.create_execution_context(), lambda: None
    digest = hashlib.sha256(plan).hexdigest()
    entry = Entry(folder / f"{digest[:32]}-{library.version}.runtime", f"{digest} {library.version}")
    config = engine.create_runtime_config()
    cache = config.create_runtime_cache()
    content = entry.read()
    known = bool(content) and bool(cache.deserialize(content))
    config.set_runtime_cache(cache)
    return engine.create_execution_context(config), (lambda: None) if known else (lambda: entry.write(bytes(cache.serialize())))
