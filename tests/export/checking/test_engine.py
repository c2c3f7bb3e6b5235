"""A file in the engine with its inner values, and the plain network beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dkcam.errors import ParityError
from dkcam.export import network_export
from dkcam.export.checking import engine
from dkcam.export.checking.engine import Ask, File, Outputs, PlainNetwork
from dkcam.export.checking.interpreter import Interpreter, evaluate
from dkcam.export.checking.operators import OPERATORS
from dkcam.export.networks.network import Network
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.options import ExportOptions

Array = NDArray[Any]
IMAGE, CLASSES = np.zeros((1, 3, 8, 8), np.float32), np.array([-1, 0])


class Two:
    """An engine whose map depends on whether inner values are outputs, unless it does not optimise."""

    def __init__(self, apart: float) -> None:
        self.apart = apart
        self.asked: list[bool] = []

    def run(self, data: bytes, name: str) -> Ask:
        inner = len(onnx.load_from_string(data).graph.output) > 2

        def ask(image: Array, classes: Array, names: Sequence[str]) -> Outputs:
            heat = np.ones((1, len(classes), 2, 2), np.float32)
            heat[0, 0, 0, 0] += self.apart * inner
            return {"logits": np.ones((1, 2), np.float32), "heatmap": heat, "inner": np.full((1, 4), float(inner), np.float32)}

        return ask

    def plain(self, data: bytes, *, optimised: bool) -> Ask:
        self.asked.append(optimised)

        def ask(image: Array, classes: Array, names: Sequence[str]) -> Outputs:
            heat = np.full((1, len(classes), 2, 2), 5, np.float32)
            return {"logits": np.full((1, 2), 5, np.float32), "heatmap": heat, "inner": np.full((1, 4), 5, np.float32)}

        return ask


def file_of(two: Two, monkeypatch: pytest.MonkeyPatch) -> File:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["image"], ["inner"]),
            helper.make_node("Abs", ["inner"], ["logits"]),
            helper.make_node("Abs", ["inner"], ["heatmap"]),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("logits", "heatmap")],
    )
    monkeypatch.setattr(engine, "in_onnxruntime", two.plain)
    return File(helper.make_model(graph).SerializeToString(), ["inner"], None, ["logits", "heatmap"], two.run)


def test_inner_values_of_a_file_that_answers_alike_with_them_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Two(1e-7)
    said = file_of(two, monkeypatch).said(IMAGE, CLASSES)
    assert not said.plainly and not two.asked and float(said.seen["inner"][0, 0]) == 1


def test_a_file_that_answers_otherwise_with_inner_values_is_asked_without_optimisations(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Two(1e-3)
    said = file_of(two, monkeypatch).said(IMAGE, CLASSES)
    assert said.plainly and two.asked == [False, False]
    assert float(said.seen["inner"][0, 0]) == 5 and float(said.outputs["heatmap"].max()) == 5
    assert float(np.max(said.outputs["logits"])) == 1  # a score is smooth: it stays what users get


def test_moved_values_are_set_and_gradients_pass_them() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["image", "two"], ["doubled"]),
            helper.make_node("Mul", ["doubled", "doubled"], ["squared"]),
            helper.make_node("ReduceSum", ["squared"], ["score"], keepdims=0),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    moved = torch.tensor([10.0, 20.0, 30.0])
    found = Interpreter(model).evaluate({"image": torch.ones(3)}, ["image", "score"], leaves=["image"], moved={"doubled": moved})
    assert found["score"].item() == 1400
    (gradient,) = torch.autograd.grad(found["score"], found["image"])
    assert gradient.tolist() == [40, 80, 120]  # 2 · 2 · what it was set to, not of the 2 that it was


def squeezing(seed: int = 0) -> Network:
    """A small network with a gate of its own average, as SE blocks have."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.3, (8, 8, 1, 1)),
        "w3": rng.normal(0, 0.5, (5, 8)),
        "b3": np.zeros(5),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["early"]),
        helper.make_node("GlobalAveragePool", ["early"], ["p"]),
        helper.make_node("Conv", ["p", "w2"], ["q"]),
        helper.make_node("Sigmoid", ["q"], ["gate"]),
        helper.make_node("Mul", ["early", "gate"], ["late"]),
        helper.make_node("GlobalAveragePool", ["late"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["out"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return open_model(model, "squeezing.onnx")


def test_the_plain_network_gives_all_that_decides_a_gradient() -> None:
    model = squeezing().model
    layer = next(node.outputs[0].name for node in model.graph if node.op_type == "Relu")
    score = next(node.outputs[0].name for node in model.graph if node.op_type == "Gemm")
    assert layer and score
    image = np.random.default_rng(0).random((1, *model.graph.inputs[0].shape[1:])).astype(np.float32)
    found = PlainNetwork(model, [layer], [score]).values(image)
    kinds = {value.producer().op_type for node in model.graph for value in node.outputs if value.name in found}
    assert kinds == {"Relu", "Conv", "Sigmoid", "Gemm"}  # the layer, what the Sigmoid reads, the gate, the score
    exact = evaluate(ir.to_proto(model), {model.graph.inputs[0].name or "": image}, list(found))
    for name, value in found.items():
        torch.testing.assert_close(value.double(), exact[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [None, "early"])
def test_a_wrong_map_does_not_raise_its_own_limit(layer: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """1e-3 in every heatmap fails, though the engine's loss is asked for then, too."""
    asked: list[int] = []
    values, run = PlainNetwork.values, network_export._run

    def wrong(data: bytes, name: str) -> Ask:
        ask = run(data, name)

        def answer(image: Array, classes: Array, names: Sequence[str]) -> Outputs:
            found = dict(ask(image, classes, names))
            return found | {"heatmap": np.asarray(found["heatmap"]) * np.float32(1.001)}

        return answer

    def counted(self: PlainNetwork, image: Array) -> Any:
        asked.append(1)
        return values(self, image)

    monkeypatch.setattr(PlainNetwork, "values", counted)
    network_export.export_network(squeezing(), ExportOptions(layer=layer))
    assert not asked
    monkeypatch.setattr(network_export, "_run", wrong)
    with pytest.raises(ParityError, match=r"heatmap of '.*' differs from autograd by 1\.0e-03"):
        network_export.export_network(squeezing(), ExportOptions(layer=layer))
    assert asked


def test_what_the_engine_loses_on_the_plain_network_raises_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine with coarse sums, in the plain network as in the file: the file is as good as it can be."""
    run, plain = network_export._run, engine.in_onnxruntime

    options = ExportOptions(input="tensor")

    def coarse(ask: Ask) -> Ask:
        return lambda image, classes, wanted: ask((image * np.float32(1.0008)).astype(np.float32), classes, wanted)

    monkeypatch.setattr(network_export, "_run", lambda data, name: coarse(run(data, name)))
    with pytest.raises(ParityError):
        network_export.export_network(squeezing(), options)
    monkeypatch.setattr(engine, "in_onnxruntime", lambda data, *, optimised: coarse(plain(data, optimised=optimised)))
    found = network_export.export_network(squeezing(), options)
    assert found.parity is not None
    worst = next(row for row in found.parity.by_output() if row.output == "heatmap")
    assert 1e-4 < worst.error <= worst.limit


def test_the_reference_is_held_to_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    found = network_export.export_network(squeezing(), ExportOptions())
    assert found.parity is not None and found.parity.differences is not None and found.parity.differences < 1e-6

    class Doubled(torch.autograd.Function):
        """A Sigmoid whose derivative is wrong."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x.sigmoid())
            return x.sigmoid()

        @staticmethod
        def backward(ctx: Any, *given: torch.Tensor) -> torch.Tensor:
            (y,) = ctx.saved_tensors
            return 2 * given[0] * y * (1 - y)

    monkeypatch.setitem(OPERATORS, "Sigmoid", replace(OPERATORS["Sigmoid"], function=lambda call, x: Doubled.apply(x)))
    with pytest.raises(ParityError, match="autograd, which the file is compared with, differs from finite differences"):
        network_export.export_network(squeezing(), ExportOptions(layer="early"))
