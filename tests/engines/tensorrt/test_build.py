"""TensorRT engines of every kind of graph, built without a GPU by TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dkcam.engines.onnx_file import read_spec
from dkcam.engines.tensorrt import Library, Profile, build_plan, load_tensorrt, make_engine
from dkcam.engines.tensorrt.library import FLAVOURS
from dkcam.errors import EngineError, ModelFileError
from dkcam.export.checkpoint_graph import write_graph
from dkcam.export.exporter import make_spec
from dkcam.export.options import ExportOptions
from tests.conftest import tiny_checkpoint
from tests.export.precision.test_graphs import numerics_of
from tests.marks import some
from tests.standins import balance, square_finder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install tensorrt-rtx-cu13)")

KINDS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {},
    "int8 gpu": {},
    "dynamic batch": {"dynamic": ("batch",), "batch": (1, 8)},
    "dynamic size": {"dynamic": ("size",)},
    "masks": {"samples": 3},
    "masks, everything free": {"samples": 2, "dynamic": ("batch", "size"), "batch": (1, 4)},
    "layer3": {"layer": "layer3"},
    **{method: {"method": method} for method in ("gradcam++", "xgradcam", "layercam", "hirescam")},
}


@pytest.mark.parametrize("kind", some(KINDS, list(KINDS)[:4]))
def test_engines_build(kind: str) -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96), **KINDS[kind]))
    low = numerics_of(checkpoint, spec, kind) if kind in ("fp16", "int8 gpu") else None
    steps: list[tuple[str, int, int]] = []
    data = write_graph(checkpoint, spec, low)
    plan = build_plan(load_tensorrt(), data, "the graph", spec, Profile.of(spec), lambda *step: steps.append(step))
    assert len(plan) > 100_000
    assert steps and all(name.startswith("TensorRT: ") for name, _, _ in steps)


@pytest.mark.parametrize(
    ("data", "classes"),
    [
        (square_finder(), ((1,), (1,), (16,))),
        (square_finder(count=4, per_image=True), ((1, 4), (1, 4), (8, 4))),
        (balance(), ((1,), (1,), (2,))),
    ],
    ids=["detector", "detector, a list for each picture", "regressor"],
)
def test_engines_of_other_tasks_build(data: bytes, classes: tuple[tuple[int, ...], ...]) -> None:
    spec = read_spec(data, "the stand-in")
    profile = Profile.of(spec)
    assert profile.shapes(spec)["classes"] == classes
    assert len(build_plan(load_tensorrt(), data, "the stand-in", spec, profile)) > 100_000


def test_an_operator_tensorrt_lacks_is_one_line(tmp_path: Path) -> None:
    import onnx

    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96)))
    model = onnx.load_from_string(write_graph(checkpoint, spec))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Unheard"
    (tmp_path / "m.engine").write_bytes(b"older")
    with pytest.raises(EngineError, match=r"does not take m.onnx: .*Unheard") as caught:
        make_engine(model.SerializeToString(), "m.onnx", tmp_path / "m.engine")
    assert "\n" not in str(caught.value)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.engine", b"older")]


def test_a_build_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TensorRT answers a lack of memory with None and a message in its log."""
    library = load_tensorrt()

    class Builder:
        def __init__(self, logger: Any) -> None:
            self._builder, self._logger = library.module.Builder(logger), logger

        def __getattr__(self, name: str) -> Any:
            return getattr(self._builder, name)

        def build_serialized_network(self, network: Any, config: Any) -> None:
            self._logger.log(library.module.ILogger.Severity.ERROR, "[defaultAllocator] out of memory:\n  requested 9 GiB")
            return None

    class Module:
        def __getattr__(self, name: str) -> Any:
            return Builder if name == "Builder" else getattr(library.module, name)

    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96)))
    broken = Library(Module(), library.flavour, library.version)
    with pytest.raises(EngineError, match=r"could not build m.onnx: \[defaultAllocator\] out of memory: requested 9 GiB$"):
        build_plan(broken, write_graph(checkpoint, spec), "m.onnx", spec, Profile.of(spec))


def test_a_cpu_flavoured_int8_file_is_sent_back() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(96, 128), precision="int8"))
    data = write_graph(checkpoint, spec, numerics_of(checkpoint, spec, "int8 cpu"))
    with pytest.raises(EngineError, match=r"int8 file for CPUs.*--target gpu"):
        make_engine(data, "m.onnx", Path("m.engine"))


def test_profiles_cover_what_the_graph_leaves_free() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96), samples=2, dynamic=("batch", "size"), batch=(1, 8)))
    profile = Profile.of(spec, (1, 4, 8))
    assert profile == Profile((1, 4, 8), (32, 64, 128), (32, 96, 192), (1, 1, 5))
    assert profile.shapes(spec)["image"] == ((1, 32, 32, 3), (4, 64, 96, 3), (8, 128, 192, 3))
    assert profile.shapes(spec)["key_mask"] == ((2, 1, 1), (2, 6, 6), (2, 24, 24))
    with pytest.raises(EngineError, match=r"--batch 1:4:9: expected MIN:OPT:MAX within 1:8"):
        Profile.of(spec, (1, 4, 9))


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x08"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError):
        read_spec(data, "m.onnx")


def test_without_tensorrt_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for flavour in FLAVOURS:
        monkeypatch.setitem(sys.modules, flavour, None)
    with pytest.raises(EngineError, match=r"JetPack.*pip install tensorrt-rtx-cu13"):
        load_tensorrt()


def test_dla_needs_a_core() -> None:
    spec = make_spec(tiny_checkpoint(), ExportOptions(size=(64, 96)))
    with pytest.raises(EngineError, match="--dla 0: this machine has no DLA cores; leave --dla out"):
        build_plan(load_tensorrt(), write_graph(tiny_checkpoint(), spec), "the graph", spec, Profile.of(spec), dla=0)
