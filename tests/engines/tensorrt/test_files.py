"""Plans and sidecars: what is loaded, and everything that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dkcam.engines import open_engine
from dkcam.engines.tensorrt.files import Plan, _own_hash, read_engine, sidecar_of, write_engine
from dkcam.engines.tensorrt.library import Gpu, Library
from dkcam.engines.tensorrt.profile import Profile
from dkcam.errors import DkcamError, EngineError, ModelFileError
from dkcam.spec import Provenance
from tests.specs import model_spec

ORIN, H100 = Gpu("Orin", "8.7"), Gpu("NVIDIA H100", "9.0")
LIBRARY = Library(None, "tensorrt", "10.3.0")
SPEC = model_spec(("a", "b"), provenance=Provenance(fidelity={"pearson": 0.99}, precision="fp16"))
PLAN = Plan(b"a plan" * 100, SPEC, "ab" * 32, Profile.of(SPEC))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    write_engine(tmp_path / "m.engine", PLAN, LIBRARY, ORIN)
    return tmp_path / "m.engine"


def test_what_was_written_comes_back(engine: Path) -> None:
    assert engine.read_bytes() == PLAN.data  # TensorRT's own bytes: trtexec loads them
    assert read_engine(engine, LIBRARY, ORIN, onnx_sha256="ab" * 32) == PLAN
    document = json.loads(sidecar_of(engine).read_text())
    assert document["precision"] == "fp16" and document["fidelity"] == {"pearson": 0.99} and document["gpu"]["capability"] == "8.7"


@pytest.mark.parametrize(
    ("library", "gpu", "onnx", "words"),
    [
        (
            Library(None, "tensorrt", "10.13.0"),
            ORIN,
            None,
            r"m.engine was built by tensorrt 10.3.0, this is tensorrt 10.13.0; rebuild: dk-export",
        ),
        (Library(None, "tensorrt_rtx", "10.3.0"), ORIN, None, "this is tensorrt_rtx 10.3.0"),
        (LIBRARY, H100, None, r"was built for Orin \(8.7\), here is NVIDIA H100 \(9.0\); rebuild"),
        (LIBRARY, None, None, "here is no NVIDIA GPU"),
        (LIBRARY, ORIN, "cd" * 32, "was built from another model"),
    ],
)
def test_engines_of_elsewhere_are_not_loaded(engine: Path, library: Library, gpu: Gpu | None, onnx: str | None, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        read_engine(engine, library, gpu, onnx_sha256=onnx)


def test_rtx_plans_are_for_any_gpu(tmp_path: Path) -> None:
    library = Library(None, "tensorrt_rtx", "1.7")
    write_engine(tmp_path / "m.engine", PLAN, library, ORIN)
    assert read_engine(tmp_path / "m.engine", library, H100) == PLAN


def test_changed_bytes_are_not_loaded(engine: Path) -> None:
    engine.write_bytes(PLAN.data[:-1] + b"!")
    with pytest.raises(ModelFileError, match=r"m.engine is not the file that m.engine.json describes .* not loaded; rebuild"):
        read_engine(engine, LIBRARY, ORIN)


def test_a_plan_alone_is_not_loaded(engine: Path) -> None:
    sidecar_of(engine).unlink()
    with pytest.raises(ModelFileError, match=r"has no m.engine.json beside it.*not loaded; rebuild"):
        read_engine(engine, LIBRARY, ORIN)
    for device in ("auto", "tensorrt"):
        with pytest.raises(DkcamError):
            open_engine(engine, device)


def test_an_engine_runs_on_tensorrt_only(engine: Path) -> None:
    with pytest.raises(EngineError, match=r"is a TensorRT engine and cannot run on cpu; give the .onnx"):
        open_engine(engine, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"plan_sha256": 7},
        {"tensorrt": "10.3"},
        {"tensorrt": {"flavour": "tensorrt"}},
        {"gpu": ["Orin"]},
        {"profile": {}},
        {"profile": {"batch": [1, 1], "height": [1, 1, 1], "width": [1, 1, 1], "classes": [1, 1, 1]}},
        {"spec": []},
        {"spec": {"labels": 3}},
        {"spec": {"labels": ["a"], "height": 64, "width": 96, "samples": 4096, "grid": [1024, 1024]}},
        {"spec": {"labels": ["a"], "height": 64, "width": 96, "batch": [1, 10**400]}},
        {"spec": {"labels": ["a"], "height": 64, "width": 96, "mask_ratio": 10**400}},
        {"profile": {"batch": [1, 1, 10**400], "height": [1, 1, 1], "width": [1, 1, 1], "classes": [1, 1, 1]}},
        {"profile": {"batch": [9, 1, 2], "height": [1, 1, 1], "width": [1, 1, 1], "classes": [1, 1, 1]}},
        {"profile": {"batch": [True, True, True], "height": [1, 1, 1], "width": [1, 1, 1], "classes": [1, 1, 1]}},
        {"dla": 10**400},
    ],
)
@pytest.mark.parametrize("hashed", [False, True])
def test_damaged_sidecars_are_one_line(engine: Path, change: dict[str, Any], hashed: bool) -> None:
    """hashed: by someone who computes the description's own hash again."""
    document = {**json.loads(sidecar_of(engine).read_text()), **change}
    if hashed:
        document["description_sha256"] = _own_hash(document)
    sidecar_of(engine).write_text(json.dumps(document))
    with pytest.raises(ModelFileError, match="damaged") as caught:
        read_engine(engine, LIBRARY, ORIN)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"onnx_sha256": "00" * 32}, {"gpu": None}, {"dla": 0}, {"precision": "fp32"}, {"parity": {"logits": 0.0}}, {"more": 1}]
)
def test_a_sidecar_that_was_changed_by_hand_is_not_taken(engine: Path, change: dict[str, Any]) -> None:
    """Values that are well formed, and others than those that were written."""
    document = json.loads(sidecar_of(engine).read_text())
    sidecar_of(engine).write_text(json.dumps({**document, **change}))
    with pytest.raises(ModelFileError, match=r"m.engine.json is damaged \(it was changed after it was written\).*not loaded; rebuild"):
        read_engine(engine, LIBRARY, ORIN)
    sidecar_of(engine).write_text(json.dumps(document))  # another layout is no change
    assert read_engine(engine, LIBRARY, ORIN) == PLAN


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_sidecars_of_other_text(engine: Path, text: str) -> None:
    sidecar_of(engine).write_text(text)
    with pytest.raises(ModelFileError):
        read_engine(engine, LIBRARY, ORIN)


def test_a_build_that_breaks_off_leaves_no_engine_that_loads(tmp_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sidecar is removed first and written last."""
    sidecar = sidecar_of(engine)
    sidecar.unlink()
    sidecar.mkdir()  # cannot be written
    with pytest.raises((EngineError, OSError)):
        write_engine(engine, PLAN, LIBRARY, ORIN)
    sidecar.rmdir()
    with pytest.raises(ModelFileError, match=r"has no m.engine.json"):
        read_engine(engine, LIBRARY, ORIN)
