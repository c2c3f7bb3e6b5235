"""Normalisations and softmax, pulled back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.export.derivative.harness import HALF, ROUNDED, Operator, refused
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Draws


@pytest.mark.parametrize("number", range(10))
def test_layer_normalization(number: int) -> None:
    draws = Draws(number)
    shape = draws.sizes(draws.integer(2, 4), 1, 5)
    shape[-1] = draws.integer(2, 6)
    axis = draws.integer(1, len(shape) - 1)
    own = shape[axis:]
    inputs = [draws.normal(shape), draws.normal(own), draws.normal(own) if draws.chance() else None]
    attributes: dict[str, Any] = {"axis": axis - len(shape) if draws.chance() else axis, "epsilon": 0.1}
    check(Operator("LayerNormalization", inputs, attributes), k=draws.choose(2, 3), random=number)


def test_layer_normalization_by_default() -> None:
    draws = Draws(1)
    inputs = [draws.normal([2, 7, 5]), draws.normal([5]), draws.normal([5])]
    check(Operator("LayerNormalization", inputs))
    check(Operator("LayerNormalization", inputs, free={0: {0: "batch", 1: "H*W"}}))
    check(Operator("LayerNormalization", inputs, half=True), exact=HALF, single=HALF)


@pytest.mark.parametrize("used", [[0], [1], [2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("axis", [1, -1])
def test_the_mean_and_deviation_of_layer_normalization(used: list[int], axis: int) -> None:
    draws = Draws(axis + 1)
    own = [4, 5] if axis == 1 else [5]
    inputs = [draws.normal([2, 4, 5]), draws.normal(own), draws.normal(own)]
    check(Operator("LayerNormalization", inputs, {"axis": axis}, outputs=3, used=used), exact=ROUNDED)


@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_normalization(axis: int) -> None:
    draws = Draws(axis + 5)
    own = [3, 4, 5][axis if axis < 0 else axis - 1 :] if axis < 0 else [3, 4, 5]
    inputs = [draws.normal([2, 3, 4, 5]), draws.normal(own)]
    check(Operator("RMSNormalization", inputs, {"axis": axis, "epsilon": 0.1}, opset=23))


@pytest.mark.parametrize("shape", [[2, 3, 4, 5], [1, 3, 7], [2, 3, 2, 3, 4]])
def test_instance_normalization(shape: list[int]) -> None:
    draws = Draws(len(shape))
    inputs = [draws.normal(shape), draws.normal([3]), draws.normal([3])]
    check(Operator("InstanceNormalization", inputs, {"epsilon": 0.1}), k=3)
    if len(shape) == 4:
        check(Operator("InstanceNormalization", inputs, free={0: {0: "batch", 2: "H", 3: "W"}}))


@pytest.mark.parametrize(("opset", "scales"), [(18, 3), (21, 6)])
@pytest.mark.parametrize("shape", [[2, 6, 4, 5], [1, 6, 7], [2, 6]])
def test_group_normalization(opset: int, scales: int, shape: list[int]) -> None:
    """A scale for each group before opset 21, for each channel after."""
    draws = Draws(opset + len(shape))
    inputs = [draws.normal(shape), draws.normal([scales]), draws.normal([scales])]
    check(Operator("GroupNormalization", inputs, {"num_groups": 3, "epsilon": 0.1}, opset=opset, declared=[shape]), single=3e-4)
    if len(shape) == 4:
        free = {0: {0: "batch", 2: "H", 3: "W"}}
        declared: list[list[int | str]] = [["batch", 6, "H", "W"]]
        check(Operator("GroupNormalization", inputs, {"num_groups": 3}, opset=opset, free=free, declared=declared))


def test_a_scale_of_the_wrong_opset_is_refused() -> None:
    draws = Draws(2)
    inputs = [draws.normal([2, 6, 4]), draws.normal([6]), draws.normal([6])]
    refused(Operator("GroupNormalization", inputs, {"num_groups": 3}, declared=[[2, 6, 4]]), r"opset 18 says is \[3\]")


def test_scales_that_depend_on_the_picture_are_refused() -> None:
    draws = Draws(3)
    inputs = [draws.normal([2, 3, 4]), draws.normal([4]), draws.normal([4])]
    refused(Operator("LayerNormalization", inputs, active=[0, 1]), "scale or bias depends on the picture")


@pytest.mark.parametrize("attributes", [{}, {"axes": [1]}, {"axes": [-1, 1]}])
def test_mean_variance_normalization(attributes: dict[str, Any]) -> None:
    shape = [2, 3, 4, 5]
    check(Operator("MeanVarianceNormalization", [Draws(4).normal(shape)], attributes, declared=[shape]), exact=1e-8)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_lp_normalization(p: int, axis: int) -> None:
    check(Operator("LpNormalization", [Draws(5).normal([3, 4, 5])], {"p": p, "axis": axis}), k=3)


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [None, -1, 1, 0, -2])
def test_softmax(kind: str, axis: int | None) -> None:
    draws = Draws(6)
    attributes = {} if axis is None else {"axis": axis}
    check(Operator(kind, [draws.normal([3, 4, 5])], attributes), k=draws.choose(2, 3), random=1)
    if axis in (-1, 1):
        check(Operator(kind, [draws.normal([2, 5, 7])], attributes, free={0: {0: "batch", 2: "H*W"}}), random=2)


def test_hardmax_is_refused() -> None:
    refused(Operator("Hardmax", [Draws(7).normal([2, 3])]), "it is a step")
