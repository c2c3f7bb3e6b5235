"""Merged batch-norms: fewer nodes, the same numbers; what is asked for stays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dkcam.export.passes.merge_batch_norm import merge_batch_norm
from tests.export.passes.networks import LEVELS, NETWORKS, exported, image, network, opened, run, sound

COUNTS = {"plain": 3, "residual": 5, "silu": 7, "hardswish": 7, "tokens": 0, "unet": 4}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_scores_are_the_same(name: str) -> None:
    given, merged = network(name), network(name)
    assert merge_batch_norm(merged) == COUNTS[name]
    assert not any(node.op_type == "BatchNormalization" for node in merged.graph)
    expected = run(given, image())["scores"]
    for level in LEVELS:
        np.testing.assert_allclose(run(merged, image(), level)["scores"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["conv", "grouped bias", "transposed", "linear", "linear without bias"])
def test_every_form(kind: str, groups: int) -> None:
    torch.manual_seed(1)
    module: nn.Module = {
        "conv": nn.Conv2d(4, 6, (3, 2), (1, 2), (1, 0), groups=groups, bias=False),
        "grouped bias": nn.Conv2d(4, 6, 3, dilation=2, groups=groups),
        "transposed": nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=groups),
        "linear": nn.Linear(4, 6),
        "linear without bias": nn.Linear(4, 6, bias=False),
    }[kind]
    norm: nn.Module = nn.BatchNorm1d(6, eps=0.01) if "linear" in kind else nn.BatchNorm2d(6, eps=0.01)
    x = torch.randn(3, 4) if "linear" in kind else torch.randn(3, 4, 9, 8)
    data = exported(sound(nn.Sequential(module, norm)), x)
    expected, merged = run(opened(data), x.numpy())["scores"], opened(data)
    assert merge_batch_norm(merged) == 1 and len(list(merged.graph)) == 1
    np.testing.assert_allclose(run(merged, x.numpy())["scores"], expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_numbers_are_computed_in_float64_and_rounded_once() -> None:
    model = network("plain")
    tensors = {name: value.const_value.numpy().astype(np.float64) for name, value in model.graph.initializers.items() if value.const_value}
    merge_batch_norm(model)
    factor = tensors["0.1.weight"] / np.sqrt(tensors["0.1.running_var"] + 1e-5)
    found = next(iter(model.graph)).inputs[1]
    assert found is not None and found.const_value is not None and found.name == "0.0.weight"
    np.testing.assert_array_equal(found.const_value.numpy(), (tensors["0.0.weight"] * factor[:, None, None, None]).astype(np.float32))


def test_a_value_that_is_wanted_stays() -> None:
    given, merged = network("residual"), network("residual")
    convs = [node.outputs[0] for node in merged.graph if node.op_type == "Conv"]
    wanted = [convs[1].name or "", convs[2].name or ""]
    norms = [node.outputs[0].name for node in merged.graph if node.op_type == "BatchNormalization"]
    assert merge_batch_norm(merged, keep=[wanted[0]]) == 4
    left = [node for node in merged.graph if node.op_type == "BatchNormalization"]
    assert [node.inputs[0].name for node in left if node.inputs[0] is not None] == [wanted[0]]
    names = {value.name for node in merged.graph for value in node.outputs}
    assert set(norms) <= names and wanted[1] not in names  # a merged value has the batch-norm's name
    for model in (given, merged):
        model.graph.outputs.extend(value for node in model.graph for value in node.outputs if value.name in (wanted[0], norms[3]))
    expected, found = run(given, image()), run(merged, image())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max())


@pytest.mark.parametrize("why", ["output", "two readers", "training"])
def test_what_must_stay_stays(why: str) -> None:
    model = network("plain")
    conv, norm = list(model.graph)[:2]
    if why == "output":
        model.graph.outputs.append(conv.outputs[0])
    elif why == "two readers":
        pool = next(node for node in model.graph if node.op_type == "MaxPool")
        pool.prepend(both := ir.node("Add", [pool.inputs[0], conv.outputs[0]]))
        pool.replace_input_with(0, both.outputs[0])
    else:
        norm.attributes.add(ir.AttrInt64("training_mode", 1))
    assert merge_batch_norm(model) == 2 and conv.outputs[0] in norm.inputs


def test_weights_that_two_operators_share_are_not_changed_for_the_other() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.norm(self.conv(x)))

    x = torch.randn(1, 3, 8, 8)
    data = exported(sound(Shared()), x)
    model = opened(data)
    assert merge_batch_norm(model) == 1
    expected = run(opened(data), x.numpy())["scores"]
    np.testing.assert_allclose(run(model, x.numpy())["scores"], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
