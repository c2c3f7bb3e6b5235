"""float16 up to a boundary: what computes in it, what does not, and how near the scores stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from dkcam.export.passes.half import FLOAT32, LARGEST, half, reason
from dkcam.export.passes.merge_batch_norm import merge_batch_norm
from dkcam.export.writer import array_of
from tests.export.passes.networks import LEVELS, NETWORKS, exported, image, network, opened, run

HALF = ir.DataType.FLOAT16
KINDS = {  # what is float16 in each network
    "plain": {"Conv", "Relu", "MaxPool"},
    "residual": {"Conv", "Relu", "MaxPool", "Add"},
    "silu": {"Conv", "Sigmoid", "Mul", "Add", "Relu"},
    "hardswish": {"Conv", "HardSwish", "Mul", "Add", "Relu", "Clip", "Sigmoid"},
    "tokens": {"Conv", "MatMul", "Add", "Mul", "Erf", "Div", "Reshape", "Transpose", "Split", "Squeeze"},
    "unet": {"Conv", "ConvTranspose", "Relu", "MaxPool", "AveragePool", "Resize", "Concat", "Add"},
}


def features(name: str, model: ir.Model) -> str:
    """The last map before space is pooled, or the segmentation's own scores."""
    pool = [node for node in model.graph if node.op_type == "ReduceMean"]
    value = pool[-1].inputs[0] if pool else model.graph.outputs[0]
    assert value is not None and value.name
    return value.name


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_stay_and_the_boundary_is_float32(name: str) -> None:
    given, model = network(name), network(name)
    merge_batch_norm(model)
    end = features(name, model)
    chosen = half(model, [end])
    assert {node.op_type for node in chosen} == KINDS[name]
    values = {value.name: value for node in model.graph for value in node.outputs}
    assert values[end].dtype == ir.DataType.FLOAT
    expected = run(given, image())["scores"]
    for level in LEVELS:
        apart = np.abs(run(model, image(), level)["scores"] - expected).max() / np.abs(expected).max()
        assert 0 < apart < 3e-3, apart


@pytest.mark.parametrize("name", NETWORKS)
def test_types_meet(name: str) -> None:
    """Every float16 value is read by float16 operators or a Cast, every float32 one by float32 operators."""
    model = network(name)
    chosen = set(half(model, [features(name, model)]))
    for node in model.graph:
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.dtype in (HALF, ir.DataType.FLOAT) and node.op_type not in ("Cast", "Resize"):
                assert (value.dtype == HALF) == (node in chosen), (node, value)


def test_what_loses_too_much_stays_float32() -> None:
    model = network("tokens")
    chosen = half(model, [features("tokens", model)])
    kinds = {node.op_type for node in model.graph if node not in chosen}
    assert {"Softmax", "LayerNormalization", "ReduceMean"} <= kinds and not kinds & {"MatMul", "Conv"}


def test_the_picture_s_way_in_stays_float32() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = NETWORKS["plain"]()

        def forward(self, x: Tensor) -> Tensor:
            return self.body((x * 255 - 120) / 58)

    torch.manual_seed(0)
    model = opened(exported(Inside(), torch.zeros(1, 3, 32, 32)))
    chosen = half(model, [features("plain", model)])
    assert chosen[0].op_type == "Conv" and {"Mul", "Sub", "Div"} <= {node.op_type for node in model.graph if node not in chosen}


def test_nothing_behind_the_boundary_changes() -> None:
    model = network("residual")
    adds = [node for node in model.graph if node.op_type == "Add"]
    end = adds[0].outputs[0].name or ""
    chosen = half(model, [end])
    assert len([node for node in chosen if node.op_type == "Conv"]) == 3
    behind = [node for node in model.graph if node.op_type == "Conv"][3:]
    assert len(behind) == 2 and all(value is not None and value.dtype == ir.DataType.FLOAT for node in behind for value in node.inputs)


def test_a_boundary_upstream_of_another_is_float32_too() -> None:
    model = network("unet")
    pool, conv = (next(node for node in model.graph if node.op_type == kind) for kind in ("MaxPool", "ConvTranspose"))
    names = [pool.outputs[0].name or "", conv.outputs[0].name or ""]
    half(model, names)
    found = {value.name: value for node in model.graph for value in node.outputs}
    assert all(found[name].dtype == ir.DataType.FLOAT and found[name].producer().op_type == "Cast" for name in names)  # type: ignore[union-attr]


def test_an_output_keeps_name_and_type() -> None:
    model = network("plain")
    middle = next(node for node in model.graph if node.op_type == "MaxPool").outputs[0]
    model.graph.outputs.append(middle)
    name = middle.name
    half(model, [features("plain", model)])
    assert model.graph.outputs[1].name == name and model.graph.outputs[1].dtype == ir.DataType.FLOAT
    np.testing.assert_allclose(run(model, image())[name or ""], run_of("plain", name or ""), rtol=0, atol=0.02)


def run_of(network_name: str, value: str) -> np.ndarray:
    model = network(network_name)
    model.graph.outputs.append(next(v for node in model.graph for v in node.outputs if v.name == value))
    return run(model, image())[value]


def test_weights_have_their_names_and_half_their_size() -> None:
    given, model = network("plain"), network("plain")
    merge_batch_norm(given)
    merge_batch_norm(model)
    half(model, [features("plain", model)])
    for name in ("0.0.weight", "0.0.bias", "2.0.weight"):
        wide, narrow = array_of(given.graph.initializers[name]), array_of(model.graph.initializers[name])
        assert wide is not None and narrow is not None and narrow.dtype == np.float16
        np.testing.assert_array_equal(narrow, wide.astype(np.float16))
    assert not [name for name in model.graph.initializers if ".half" in name]


@pytest.mark.parametrize("factor", [1e-7, 1e7], ids=["too small", "too large"])
def test_weights_that_float16_does_not_hold_stay(factor: float) -> None:
    model = network("plain")
    conv = [node for node in model.graph if node.op_type == "Conv"][1]
    weight = conv.inputs[1]
    assert weight is not None and weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(factor), name=weight.name)
    assert reason(conv) == "float16 does not hold its constant" and conv not in half(model, [features("plain", model)])


@pytest.mark.parametrize("reached", [LARGEST / 5, LARGEST / 3])
def test_values_that_nearly_overflow_stay(reached: float) -> None:
    model = network("plain")
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    assert pool.inputs[0] is not None
    chosen = half(model, [features("plain", model)], {pool.inputs[0].name or "": reached})
    assert (pool in chosen) == (reached < LARGEST / 4)
    assert np.isfinite(run(model, image())["scores"]).all()


def test_no_group_without_a_multiplication() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.exp(self.first(x))
            return self.second(torch.exp(torch.relu(y) + y))

    model = opened(exported(Between(), torch.zeros(1, 3, 16, 16)))
    assert [node.op_type for node in half(model, ["scores"])] == ["Conv", "Conv"]


def test_no_multiplication_no_change() -> None:
    model = opened(exported(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), torch.zeros(1, 3, 8, 8)))
    assert half(model, ["scores"]) == [] and not [node for node in model.graph if node.op_type == "Cast"]


def test_every_reason_is_a_sentence_and_every_operator_exists() -> None:
    import onnx

    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    assert set(FLOAT32) <= known and all(len(why) > 20 for why in FLOAT32.values())
