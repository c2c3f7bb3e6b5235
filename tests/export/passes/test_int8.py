"""8 bits up to a boundary: what is rounded, by what rules, and how near the scores stay."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from dkcam.agreement import pearson
from dkcam.export.passes.int8 import int8, multiplications, wanted
from dkcam.export.passes.int8_plan import behind_activation
from dkcam.export.passes.merge_batch_norm import merge_batch_norm
from dkcam.export.passes.rows import products_as_rows
from dkcam.export.precision.calibrate import calibrate
from dkcam.export.precision.numerics import Int8, Range
from dkcam.export.writer import array_of
from tests.export.passes.networks import LEVELS, NETWORKS, exported, file_of, image, network, opened, run
from tests.export.passes.test_half import features


def prepared(name: str, target: str) -> tuple[ir.Model, str]:
    model = network(name)
    end = features(name, model)
    merge_batch_norm(model, [end])
    if target == "cpu":
        products_as_rows(model, [end])
    return model, end


@cache
def ranges(name: str, target: str) -> Mapping[str, Range]:
    model, end = prepared(name, target)
    return calibrate(model, wanted(model, [end], target), [{"image": image(seed)} for seed in range(6)])


def lowered(name: str, target: str, kept: frozenset[str] = frozenset()) -> ir.Model:
    model, end = prepared(name, target)
    int8(model, [end], Int8(target, ranges(name, target), kept))
    return model


@pytest.mark.parametrize("target", ["cpu", "gpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_and_features_stay_near(name: str, target: str) -> None:
    exact, model = network(name), lowered(name, target)
    end = features(name, exact)
    for graph in (exact, model):
        if graph.graph.outputs[0].name != end:
            graph.graph.outputs.append(next(value for node in graph.graph for value in node.outputs if value.name == end))
    expected = run(exact, image(99))
    for level in LEVELS:
        found = run(model, image(99), level)
        for key, value in expected.items():
            assert pearson(found[key], value) > 0.998, (key, level)
    assert np.abs(found[end] - expected[end]).max() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_two_flavours_keep_their_rules(name: str) -> None:
    for target, kind, largest in (("cpu", np.uint8, 63), ("gpu", np.int8, 127)):
        model = lowered(name, target)
        pairs = [node for node in model.graph if node.op_type == "QuantizeLinear"]
        zeros = [array_of(node.inputs[2]) for node in pairs]
        assert pairs and {zero.dtype.type for zero in zeros if zero is not None} == {kind}
        assert target == "cpu" or not any(zero.any() for zero in zeros if zero is not None)
        whole = [
            array for key, value in model.graph.initializers.items() if key.endswith(".whole") and (array := array_of(value)) is not None
        ]
        weights = [array for array in whole if array.dtype == np.int8]
        assert weights and all(int(np.abs(array.astype(int)).max()) == largest for array in weights)
        assert (target == "cpu") == any(array.dtype == np.int32 for array in whole)


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_multiplies_8_bits(name: str, tmp_path: object) -> None:
    """Every operator that the plan has in int8 becomes one of the runtime's own."""
    model, end = prepared(name, "cpu")
    count = len(multiplications(model, [end], "cpu"))
    path = f"{tmp_path}/optimised.onnx"
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath, settings.log_severity_level = path, 4
    onnxruntime.InferenceSession(file_of(lowered(name, "cpu")), settings, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("QLinearConv") + kinds.count("QGemm") == count > 0


def test_a_residual_block() -> None:
    """cpu: sums in 8 bits. gpu: the convolution's own result goes into the sum, and only what convolutions read is rounded."""
    for target, rounded in (("cpu", ["Relu", "Conv", "Relu"]), ("gpu", ["Relu", "Relu"])):
        model = lowered("residual", target)
        block = [node for node in model.graph if (node.name or "").startswith("/2/")]
        kinds = [
            node.op_type for node in block if any(reader.op_type == "QuantizeLinear" for use in node.outputs for reader in use.consumers())
        ]
        assert kinds == rounded


def test_only_values_before_the_boundary_are_rounded() -> None:
    model = network("residual")
    merge_batch_norm(model)
    end = next(node for node in model.graph if node.op_type == "Add").outputs[0].name or ""
    names = wanted(model, [end], "gpu")
    int8(model, [end], Int8("gpu", calibrate(model, names, [{"image": image()}])))
    convs = [node for node in model.graph if node.op_type == "Conv"]
    low = [node.inputs[1].producer() is not None for node in convs if node.inputs[1] is not None]
    assert low == [True, True, True, False, False]
    final = next(value for node in model.graph for value in node.outputs if value.name == end)
    assert final.producer().op_type == "Add" and not [n for n in final.consumers() if n.op_type == "QuantizeLinear"]  # type: ignore[union-attr]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_boundary_on_the_way_to_another_is_not_rounded(target: str) -> None:
    model, end = prepared("residual", target)
    middle = "/2/Relu_output_0"
    int8(model, [middle, end], Int8(target, ranges("residual", target)))
    values = {value.name: value for node in model.graph for value in node.outputs}
    assert values[middle].producer().op_type == "Relu"  # type: ignore[union-attr]
    read = [node.op_type for node in values[middle].consumers()]
    assert sorted(read) == ["Add", "QuantizeLinear"]  # the next convolution rounds it for itself


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_what_is_kept_is_float32(target: str) -> None:
    model, end = prepared("residual", target)
    names = list(multiplications(model, [end], target))
    assert names == ["0.0", "2.first.0", "2.second.0", "3.first.0", "3.second.0"]
    model = lowered("residual", target, frozenset({"0.0", "3.first.0"}))
    stored = set(model.graph.initializers)
    assert {"0.0.weight", "3.first.0.weight"} <= stored and sum(name.endswith("weight.whole") for name in stored) == 3
    everything = lowered("residual", target, frozenset(names))
    assert not [node for node in everything.graph if node.op_type == "QuantizeLinear"]
    np.testing.assert_array_equal(run(everything, image())["scores"], run(prepared("residual", target)[0], image())["scores"])


def test_a_rounded_value_keeps_its_name() -> None:
    """What a heatmap is taken from is what the network goes on with."""
    model = lowered("residual", "cpu")
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    names = {value.name for node in model.graph for value in node.outputs}
    assert pool.inputs[0] is not None and pool.inputs[0].name == "/0/0.2/Relu_output_0" and "/0/0.2/Relu_output_0.exact" in names
    low, high = ranges("residual", "cpu")["/0/0.2/Relu_output_0"]
    model.graph.outputs.append(pool.inputs[0])
    values = run(model, image())["/0/0.2/Relu_output_0"]
    steps = values / ((high - low) / 255)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_max_pooling_keeps_its_input_s_range() -> None:
    assert [name for name in wanted(*_with_end("residual"), "cpu") if "Pool" in name] == []


def _with_end(name: str) -> tuple[ir.Model, list[str]]:
    model, end = prepared(name, "cpu")
    return model, [end]


@pytest.mark.parametrize(("act", "nodes"), [(nn.SiLU, 2), (nn.GELU, 5), (nn.Hardswish, 1), (nn.ReLU, 1), (nn.Mish, 3), (nn.Identity, 0)])
def test_activations_end_where_they_end(act: type[nn.Module], nodes: int) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), act()

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.first(x))
            return self.second(y) + y

    model = opened(exported(Both(), torch.zeros(1, 3, 8, 8)))
    convs = [node for node in model.graph if node.op_type == "Conv"]
    last, inside = behind_activation(convs[0].outputs[0])
    assert convs[1].inputs[0] is last and len(inside) == nodes


def test_what_has_nothing_to_gain_stays() -> None:
    """Squeeze and excitation's convolutions of one position, transposed convolutions, classifiers."""
    model, end = prepared("silu", "cpu")
    assert list(multiplications(model, [end], "cpu")) == ["0.0", "1.up.0", "1.deep.0", "1.down.0", "2.up.0", "2.deep.0", "2.down.0"]
    model = network("plain")
    assert list(multiplications(model, ["scores"], "gpu")) == ["0.0", "2.0", "3.0"]
    model = network("unet")
    assert list(multiplications(model, ["scores"], "gpu")) == ["left.0", "low.0", "right.0", "last"]


def test_multiplications_are_counted() -> None:
    model, end = prepared("plain", "gpu")
    assert multiplications(model, [end], "gpu") == {"0.0": 27 * 16 * 32 * 32, "2.0": 144 * 32 * 8 * 8, "3.0": 288 * 32 * 8 * 8}


def test_tokens_as_rows_are_the_same() -> None:
    given, model = network("tokens"), network("tokens")
    assert products_as_rows(model, [features("tokens", model)]) == 4
    assert [node.op_type for node in model.graph].count("Gemm") == 5
    names = {value.name for node in given.graph for value in node.outputs if node.op_type == "Add"}
    assert names <= {value.name for node in model.graph for value in node.outputs}
    for level in LEVELS:
        np.testing.assert_allclose(run(model, image(), level)["scores"], run(given, image(), level)["scores"], rtol=0, atol=1e-6)


def test_the_same_bytes_every_time() -> None:
    for target in ("cpu", "gpu"):
        assert file_of(lowered("silu", target)) == file_of(lowered("silu", target))
