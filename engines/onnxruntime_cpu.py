"""ONNX Runtime on the CPU. The optimised graph is kept on disk, tied to the file's hash and the runtime's version."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.engines.engine import Outputs, check_inputs
from dkcam.errors import EngineError, ModelFileError
from dkcam.spec import SPEC_KEY, ModelSpec

CACHE_VARIABLE = "DKCAM_CACHE"
KEPT = 32  # optimised graphs in the cache; the oldest go first


def cache_folder() -> Path:
    """$DKCAM_CACHE, else $XDG_CACHE_HOME/dkcam, else ~/.cache/dkcam."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dkcam"


class OnnxRuntimeCpu:
    """An engine on the CPU provider.

    data: the ONNX file's bytes. source: its name in errors. threads: inside one operator, 0 for one per core.
    cache: keep the optimised graph on disk; a cache that cannot be written is left out silently, it only saves time.
    """

    def __init__(self, data: bytes, source: str, *, threads: int = 0, cache: bool = True) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError("onnxruntime is not installed; pip install 'dkcam[cpu]' (or 'dkcam[gpu]' on an NVIDIA machine)") from error
        self.device = "cpu"
        self.sha256 = hashlib.sha256(data).hexdigest()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        # waiting threads would otherwise spin, and take the core from the thread that reads the next frame
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # small blocks handed out one by one: a thread that lost its core for a moment does not keep the others waiting
        options.add_session_config_entry("session.dynamic_block_base", "4")
        kept = self._cached_path(onnxruntime.__version__) if cache else None
        session = self._open(onnxruntime, options, kept.read_bytes(), source, quiet=True) if kept and kept.is_file() else None
        if session is None:
            temporary = None
            if kept is not None:
                temporary = kept.with_name(f".{kept.name}.{os.getpid()}")
                try:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    temporary.write_bytes(b"")
                    options.optimized_model_filepath = str(temporary)
                except OSError:
                    temporary = None
            session = self._open(onnxruntime, options, data, source, quiet=False)
            if temporary is not None and kept is not None:
                _keep(temporary, kept)
        assert session is not None
        self._session = session
        text = session.get_modelmeta().custom_metadata_map.get(SPEC_KEY)
        if text is None:
            raise ModelFileError(
                f"{source} is an ONNX file without {SPEC_KEY}: dk-export did not write it; export your checkpoint with dk-export model.pt"
            )
        self.spec = ModelSpec.from_json(text, source)
        self._check_interface(source)
        self._names = [output.name for output in session.get_outputs()]
        self._inputs = {value.name for value in session.get_inputs()}

    def _cached_path(self, version: str) -> Path:
        # the optimiser's choices depend on the processor's instruction set as well
        kind = f"{version}-{platform.machine()}-{_processor()}"
        return cache_folder() / f"{self.sha256[:32]}-{kind}.onnx"

    @staticmethod
    def _open(onnxruntime: Any, options: Any, data: bytes, source: str, *, quiet: bool) -> Any:
        try:
            return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
            if quiet:
                return None
            first = str(error).strip().splitlines()[0][:160]
            raise ModelFileError(f"{source} is not a whole ONNX model ({first}); export it again with dk-export") from error

    def _check_interface(self, source: str) -> None:
        have = {value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        missing = [name for name in ("image", *self.spec.outputs) if name not in have]
        if missing:
            raise ModelFileError(f"{source} lacks {missing[0]}, which its {SPEC_KEY} names; export it again with dk-export")

    def run(self, image: NDArray[Any], classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None = None) -> Outputs:
        """See ``Engine.run``. The arrays are fresh at every call."""
        check_inputs(self.spec, image, classes, key_mask)
        feed: dict[str, NDArray[Any]] = {"image": image}
        if "classes" in self._inputs:
            feed["classes"] = classes
        if key_mask is not None:
            feed["key_mask"] = key_mask
        try:
            return dict(zip(self._names, self._session.run(None, feed), strict=True))
        except Exception as error:
            first = str(error).strip().splitlines()[0][:200]
            raise EngineError(f"onnxruntime failed while running the model: {first}") from error

    def close(self) -> None:
        self._session = None


def _processor() -> str:
    """A short hash of the processor's name and features."""
    try:
        text = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        lines = [line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))]
        text = "\n".join(lines)
    except OSError:
        text = platform.processor()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _keep(temporary: Path, kept: Path) -> None:
    """Move a finished file into the cache and drop the oldest entries."""
    try:
        if temporary.stat().st_size:
            temporary.replace(kept)
        files = sorted(kept.parent.glob("*.onnx"), key=lambda p: p.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        temporary.unlink(missing_ok=True)
