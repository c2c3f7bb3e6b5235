"""A plan on disk: ``NAME.engine``, TensorRT's own bytes, and ``NAME.engine.json``, which says what they are.

Loading a plan can run code, so nothing is handed to TensorRT before the sidecar says that these very bytes were built
by this TensorRT for this GPU. The sidecar carries a hash of itself: labels or a mean that were changed by hand give wrong answers
without a word. Neither hash keeps out someone who computes it again: load only plans that you built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dkcam.engines.tensorrt.library import Gpu, Library
from dkcam.engines.tensorrt.profile import Profile
from dkcam.errors import EngineError, ModelFileError
from dkcam.fields import LONGEST_SIDE
from dkcam.files import check_target, exists, read_file, write_file
from dkcam.spec import ModelSpec

FORMAT = "dkcam-engine-2"  # 1 had no hash of the description
MOST_SIDECAR = 16 << 20  # bytes
MOST_SIDE = 2 * LONGEST_SIDE  # of a profile: sizes, batches, classes
SUFFIXES = (".engine", ".plan")


@dataclass(frozen=True)
class Plan:
    """data: TensorRT's bytes. spec: of the graph. onnx_sha256: of the file it was built from. profile: its shapes. dla: the
    DLA core it was built for, None for the GPU alone.
    """

    data: bytes
    spec: ModelSpec
    onnx_sha256: str
    profile: Profile
    dla: int | None = None


def sidecar_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def write_engine(path: Path, plan: Plan, library: Library, gpu: Gpu | None, *, private: bool = False) -> None:
    """Write both files; the sidecar goes last, so that a plan without one is never taken for finished. private: for this user alone."""
    document = {
        "format": FORMAT,
        "plan_sha256": hashlib.sha256(plan.data).hexdigest(),
        "onnx_sha256": plan.onnx_sha256,
        "tensorrt": {"flavour": library.flavour, "version": library.version},
        "gpu": asdict(gpu) if gpu and library.flavour == "tensorrt" else None,  # TensorRT-RTX's plans are for any GPU it supports
        "profile": asdict(plan.profile),
        "dla": plan.dla,
        "precision": plan.spec.provenance.precision,
        "parity": dict(plan.spec.provenance.parity),
        "fidelity": dict(plan.spec.provenance.fidelity),
        "spec": json.loads(plan.spec.to_json()),
    }
    document["description_sha256"] = _own_hash(document)
    sidecar = sidecar_of(path)
    check_target(sidecar, {}, EngineError)
    sidecar.unlink(missing_ok=True)
    write_file(path, plan.data, EngineError, private=private)
    write_file(sidecar, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode(), EngineError, private=private)


def _own_hash(document: Mapping[str, Any]) -> str:
    """Of everything but itself, however it is laid out."""
    rest = {name: value for name, value in document.items() if name != "description_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_engine(path: Path, library: Library, gpu: Gpu | None, *, onnx_sha256: str | None = None) -> Plan:
    """A plan that may be loaded here.

    onnx_sha256: of the model it must come from, where that is known. Errors: ModelFileError for missing, damaged or
    changed files, EngineError for a plan of another TensorRT, GPU or model; each says how to rebuild.
    """
    data = read_file(path, "a TensorRT engine of dk-export (model.engine)", ModelFileError)
    again = f"rebuild: dk-export {path.with_suffix('.onnx')} --engine tensorrt"
    sidecar = sidecar_of(path)
    if not exists(sidecar):
        raise ModelFileError(f"{path} has no {sidecar.name} beside it, so nobody knows what it is; it was not loaded; {again}")
    document = _parse(sidecar, again)
    if document["plan_sha256"] != hashlib.sha256(data).hexdigest():
        raise ModelFileError(f"{path} is not the file that {sidecar.name} describes (its bytes changed); it was not loaded; {again}")
    built = document["tensorrt"]
    if built != {"flavour": library.flavour, "version": library.version}:
        here = f"{library.flavour} {library.version}"
        raise EngineError(f"{path} was built by {built['flavour']} {built['version']}, this is {here}; {again}")
    if document["gpu"] and (gpu is None or document["gpu"] != asdict(gpu)):
        here = f"{gpu.name} ({gpu.capability})" if gpu else "no NVIDIA GPU"
        raise EngineError(f"{path} was built for {document['gpu']['name']} ({document['gpu']['capability']}), here is {here}; {again}")
    if onnx_sha256 is not None and document["onnx_sha256"] != onnx_sha256:
        raise EngineError(f"{path} was built from another model (its ONNX file had other bytes); {again}")
    spec = ModelSpec.from_json(json.dumps(document["spec"]), str(sidecar))
    profile = Profile(*(tuple(document["profile"][name]) for name in ("batch", "height", "width", "classes")))
    return Plan(data, spec, document["onnx_sha256"], profile, document.get("dla"))


def _parse(sidecar: Path, again: str) -> Mapping[str, Any]:
    """The document with every field of the right kind."""
    text = read_file(sidecar, "the description of an engine", ModelFileError, most=MOST_SIDECAR)
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"format is {document['format']!r:.40}, expected {FORMAT!r}")
        if document["description_sha256"] != _own_hash(document):
            raise ValueError("it was changed after it was written")
        gpu = document["gpu"]
        kinds = {
            "plan_sha256": isinstance(document["plan_sha256"], str),
            "onnx_sha256": isinstance(document["onnx_sha256"], str),
            "tensorrt": _texts(document["tensorrt"], ("flavour", "version")),
            "gpu": gpu is None or _texts(gpu, ("name", "capability")),
            "dla": document.get("dla") is None or (type(document["dla"]) is int and 0 <= document["dla"] < 64),
            "spec": isinstance(document["spec"], dict),
            "profile": all(_three(document["profile"][name]) for name in ("batch", "height", "width", "classes")),
        }
        wrong = [name for name, good in kinds.items() if not good]
        if wrong:
            raise ValueError(f"{wrong[0]} is not understood")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{sidecar} is damaged ({' '.join(str(error).split())[:100]}); the engine was not loaded; {again}") from error
    return dict(document)


def _texts(value: Any, names: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and set(value) == set(names) and all(isinstance(item, str) for item in value.values())


def _three(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(item) is int and 1 <= item <= MOST_SIDE for item in value)
        and value == sorted(value)
    )
