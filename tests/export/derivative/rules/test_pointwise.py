"""Operators that act on each number by itself, pulled back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.export.derivative.harness import HALF, ROUNDED, Operator, refused, runtime, swept
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Draws

SMOOTH: dict[str, tuple[float, float]] = {
    "Identity": (-2, 2),
    "Neg": (-2, 2),
    "Exp": (-2, 2),
    "Log": (0.5, 3),
    "Sqrt": (0.5, 3),
    "Reciprocal": (0.5, 3),
    "Sin": (-3, 3),
    "Cos": (-3, 3),
    "Tan": (-1, 1),
    "Asin": (-0.9, 0.9),
    "Acos": (-0.9, 0.9),
    "Atan": (-3, 3),
    "Sinh": (-2, 2),
    "Cosh": (-2, 2),
    "Tanh": (-2, 2),
    "Asinh": (-3, 3),
    "Acosh": (1.2, 4),
    "Atanh": (-0.9, 0.9),
    "Sigmoid": (-4, 4),
    "Softplus": (-4, 4),
    "Softsign": (-3, 3),
    "Mish": (-4, 4),
    "Abs": (-2, 2),
    "Relu": (-2, 2),
}
ROUND: list[tuple[str, int, dict[str, Any]]] = [  # with constants that have no exact float32, or attributes
    ("Erf", 18, {}),
    ("LeakyRelu", 18, {}),
    ("LeakyRelu", 18, {"alpha": 0.3}),
    ("LeakyRelu", 18, {"alpha": -0.3}),
    ("LeakyRelu", 18, {"alpha": 1.7}),
    ("ThresholdedRelu", 18, {}),
    ("ThresholdedRelu", 18, {"alpha": -0.6}),
    ("Elu", 18, {}),
    ("Elu", 18, {"alpha": 0.4}),
    ("Celu", 18, {}),
    ("Celu", 18, {"alpha": 0.4}),
    ("Selu", 18, {}),
    ("Selu", 18, {"alpha": 1.2, "gamma": 0.7}),
    ("Shrink", 18, {}),
    ("Shrink", 18, {"lambd": 1.1, "bias": 0.3}),
    ("HardSigmoid", 18, {}),
    ("HardSigmoid", 18, {"alpha": 0.7, "beta": 0.1}),
    ("HardSwish", 18, {}),
    ("Gelu", 20, {}),
    ("Gelu", 20, {"approximate": "tanh"}),
    ("Swish", 24, {}),
    ("Swish", 24, {"alpha": 0.7}),
    ("Cast", 18, {"to": 1}),
]


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_smooth_operator(kind: str) -> None:
    draws = Draws(len(kind))
    check(Operator(kind, [draws.between(*SMOOTH[kind], draws.sizes(draws.integer(2, 4)))]), k=draws.choose(2, 3))


@pytest.mark.parametrize(("kind", "opset", "attributes"), ROUND)
def test_an_operator_with_constants(kind: str, opset: int, attributes: dict[str, Any]) -> None:
    draws = Draws(opset)
    check(Operator(kind, [draws.between(-4, 4, [2, 3, 5, 4])], attributes, opset=opset), exact=ROUNDED)


@pytest.mark.parametrize("kind", ["Sigmoid", "Relu", "HardSwish", "Erf"])
def test_of_free_sizes(kind: str) -> None:
    check(Operator(kind, [Draws(1).normal([2, 3, 4, 5])], free={0: {0: "batch", 2: "H", 3: "W"}}), exact=ROUNDED)


@pytest.mark.parametrize("kind", ["Sigmoid", "Exp", "LeakyRelu", "Elu"])
def test_behind_a_network_in_float16(kind: str) -> None:
    check(Operator(kind, [Draws(2).normal([2, 3, 4])], half=True), exact=HALF, single=HALF)


def test_cast_to_another_type_and_back() -> None:
    check(Operator("Cast", [Draws(3).normal([2, 5])], {"to": 10}), single=HALF)


def test_the_type_that_cast_like_takes_has_no_gradient() -> None:
    draws = Draws(4)
    x, like = draws.normal([2, 3]), draws.normal([4])
    check(Operator("CastLike", [x, like]))
    with pytest.raises(AssertionError, match="no gradient reaches x1"):
        swept(Operator("CastLike", [x, like], active=[1]), [[2, 3]], seeds=["full"])


@pytest.mark.parametrize("bounds", [(-0.5, 0.7), (None, 0.7), (-0.5, None), (None, None), (0.0, 6.0), (0.7, -0.5)])
def test_clip(bounds: tuple[float | None, float | None]) -> None:
    draws = Draws(5)
    inputs = [draws.normal([2, 3, 4, 5]), *(None if bound is None else np.array(bound, np.float32) for bound in bounds)]
    operator = Operator("Clip", inputs)
    check(operator)
    check(Operator("Clip", inputs, computed=[1, 2]), exact=ROUNDED)


KINKS: dict[str, tuple[dict[str, Any], list[float], list[float]]] = {
    "Relu": ({}, [0], [0]),
    "Abs": ({}, [0], [0]),
    "LeakyRelu": ({"alpha": 0.25}, [0], [0.25]),
    "Elu": ({"alpha": 2.0}, [0], [2]),
    "HardSigmoid": ({"alpha": 0.25, "beta": 0.5}, [-2, 2], [0, 0]),
    "HardSwish": ({}, [-3, 3, -4, 4], [0, 1, 0, 1]),
    "ThresholdedRelu": ({"alpha": 1.0}, [1], [0]),
    "Shrink": ({"lambd": 0.5}, [-0.5, 0.5], [0, 0]),
}


@pytest.mark.parametrize("kind", KINKS)
def test_at_a_kink(kind: str) -> None:
    attributes, at, slopes = KINKS[kind]
    operator = Operator(kind, [np.array([at], np.float32)], attributes)
    np.testing.assert_allclose(slope_of(operator, [1, len(at)]), [slopes], atol=1e-6)
    check(operator, exact=ROUNDED)


def test_clip_is_flat_at_its_bounds() -> None:
    bounds = [np.array(-1, np.float32), np.array(1, np.float32)]
    operator = Operator("Clip", [np.array([[-1, 1, 0.5, -2, 2]], np.float32), *bounds])
    assert slope_of(operator, [1, 5]).tolist() == [[0, 0, 1, 0, 0]]
    check(operator)


def slope_of(operator: Operator, shape: list[int]) -> Any:
    """dy/dx of a pointwise operator, by ONNX Runtime."""
    run = swept(operator, [shape], seeds=["full"], k=1)
    feed = {**run.feed, "y0.full.g": np.ones([1, *shape], np.float32)}
    return runtime(ir.to_proto(run.model), feed, ["x0.full"])["x0.full"][0]


def test_prelu() -> None:
    draws = Draws(6)
    for slope in ([4, 1, 1], [1], [2, 4, 3, 5]):
        check(Operator("PRelu", [draws.normal([2, 4, 3, 5]), draws.normal(slope)]))


@pytest.mark.parametrize("shape", [[2, 4, 3, 5], [3, 4], [2, 4, 6]])
@pytest.mark.parametrize("computed", [(), (1, 4)])
def test_batch_normalization(shape: list[int], computed: tuple[int, ...]) -> None:
    draws = Draws(7)
    scale, bias, mean = (draws.normal([4]) for _ in range(3))
    inputs = [draws.normal(shape), scale, bias, mean, draws.positive([4])]
    check(Operator("BatchNormalization", inputs, {"epsilon": 0.1}, computed=computed), exact=ROUNDED)
    if not computed:
        check(Operator("BatchNormalization", inputs), exact=ROUNDED)


def test_dropout_is_off() -> None:
    x, ratio = Draws(8).normal([2, 3]), np.array(0.5, np.float32)
    check(Operator("Dropout", [x, ratio]))
    check(Operator("Dropout", [x, ratio, np.array(False)]))


def test_what_is_refused() -> None:
    draws = Draws(9)
    x = draws.normal([2, 3])
    refused(Operator("Dropout", [x, np.array(0.5, np.float32), np.array(True)]), "drops at random")
    refused(Operator("PRelu", [x, draws.normal([3])], active=[0, 1]), "depend on the picture")
    statistics = [draws.positive([3]) for _ in range(4)]
    training = Operator("BatchNormalization", [x, *statistics], {"training_mode": 1}, outputs=3, used=[0])
    refused(training, "statistics are those of the batch")
