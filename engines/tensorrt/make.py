"""From an exported ONNX file to an engine on disk, checked before the slow part begins."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dkcam.engines.onnx_file import read_spec
from dkcam.engines.progress import Report, silent
from dkcam.engines.tensorrt.build import build_plan
from dkcam.engines.tensorrt.files import Plan, write_engine
from dkcam.engines.tensorrt.library import find_gpu, load_tensorrt
from dkcam.engines.tensorrt.profile import Profile
from dkcam.errors import EngineError


def make_engine(
    data: bytes,
    source: str,
    path: Path,
    batch: tuple[int, int, int] | None = None,
    report: Report = silent,
    dla: int | None = None,
    *,
    private: bool = False,
) -> Plan:
    """Build ``path`` and its sidecar from an ONNX file's bytes; ``source`` names it in errors.

    batch: least, usual and most pictures for graphs with a free batch. dla: see ``build_plan``. private: files for this user alone.
    Errors: ModelFileError for the file, EngineError
    where TensorRT is missing, refuses the graph or runs out of memory; the files that were there stay.
    """
    library, gpu, spec = load_tensorrt(), find_gpu(), read_spec(data, source)
    if spec.provenance.target == "cpu":
        raise EngineError(f"{source} is an int8 file for CPUs, whose activations TensorRT refuses; export it with --target gpu")
    if library.flavour == "tensorrt" and gpu is None:
        raise EngineError("TensorRT builds for the GPU it runs on, and there is none here; build on the target machine")
    profile = Profile.of(spec, batch)
    built = build_plan(library, data, source, spec, profile, report, dla)
    plan = Plan(built, spec, hashlib.sha256(data).hexdigest(), profile, dla)
    write_engine(path, plan, library, gpu, private=private)
    return plan
