"""Why operators stay float32: what each loses where every one of its steps rounds to float16, as a kernel may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkcam.export.passes.half import FLOAT32, MOST_SUMMED, half, reason
from tests.export.passes.networks import network
from tests.export.passes.test_half import features

Array = NDArray[Any]
ROUNDING = 2.0**-11
rng = np.random.default_rng(0)


def total(x: Array) -> Array:
    """Sums of the last axis, number by number."""
    return np.asarray(np.add.accumulate(x, axis=-1, dtype=x.dtype)[..., -1:])


def mean(x: Array) -> Array:
    return total(x) / x.dtype.type(x.shape[-1])


def softmax(x: Array) -> Array:
    grown = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(grown / total(grown))


def layer_norm(x: Array) -> Array:
    centred = x - mean(x)
    return np.asarray(centred / np.sqrt(mean(centred * centred) + x.dtype.type(1e-5)))


def loss(function: Callable[[Array], Array], x: Array) -> float:
    """The largest error beside the largest value, in roundings; infinite where a number is lost."""
    given = x.astype(np.float16)
    with np.errstate(all="ignore"):
        found, exact = function(given).astype(np.float64), function(given.astype(np.float64))
    return float(np.abs(found - exact).max() / np.abs(exact).max() / ROUNDING) if np.isfinite(found).all() else np.inf


def channel_of(size: float) -> Array:
    x = rng.normal(size=(64, 768))
    x[:, 3] = size
    return x


def positive(count: int) -> Array:
    return np.maximum(rng.normal(size=(64, count)), 0)


LOST: dict[str, tuple[float, Callable[[Array], Array], Array]] = {
    "Softmax": (10, softmax, 2 * rng.normal(size=(64, 197))),
    "LayerNormalization": (10, layer_norm, rng.normal(size=(64, 768))),
    "LayerNormalization, a channel of 300": (2000, layer_norm, channel_of(300)),
    "ReduceMean of 784": (8, mean, positive(784)),
    "ReduceMean of 12544": (300, mean, positive(12544)),
    "Exp": (np.inf, np.exp, np.array([-1.0, 12.0])),
    "Pow": (np.inf, np.square, np.array([1.0, 300.0])),
    "Reciprocal": (np.inf, lambda x: x.dtype.type(1) / x, np.array([1.0, 1e-5])),
    "Softplus": (np.inf, lambda x: np.log(x.dtype.type(1) + np.exp(x)), np.array([1.0, 12.0])),
}
HELD: dict[str, tuple[Callable[[Array], Array], Array]] = {
    "a mean of as many as may be summed": (mean, positive(MOST_SUMMED)),
    "Sigmoid": (lambda x: x.dtype.type(1) / (x.dtype.type(1) + np.exp(-x)), 3 * rng.normal(size=4000)),
    "SiLU": (lambda x: x / (x.dtype.type(1) + np.exp(-x)), 3 * rng.normal(size=4000)),
    "Tanh": (np.tanh, rng.normal(size=4000)),
    "linear Resize": (lambda x: x.dtype.type(0.75) * x[..., 1:] + x.dtype.type(0.25) * x[..., :-1], rng.normal(size=(16, 56))),
}


@pytest.mark.parametrize("name", LOST)
def test_what_stays_float32_loses_much(name: str) -> None:
    least, function, x = LOST[name]
    assert loss(function, x) >= least
    kind = name.split(",")[0].split(" ")[0]
    assert kind in FLOAT32 or kind == "ReduceMean"


@pytest.mark.parametrize("name", HELD)
def test_what_does_not_loses_little(name: str) -> None:
    assert loss(*HELD[name]) < 3


def test_positions_of_grid_sample() -> None:
    grid = rng.uniform(-1, 1, 4000)
    pixels = (grid.astype(np.float16) + np.float16(1)) * np.float16(256) - np.float16(0.5)
    assert 0.1 < np.abs(pixels.astype(np.float64) - ((grid + 1) * 256 - 0.5)).max() < 0.3 and "fifth of a pixel" in FLOAT32["GridSample"]


def test_the_table_is_what_the_pass_goes_by() -> None:
    for name in ("tokens", "silu", "unet"):
        model = network(name)
        kinds = {node for node in model.graph if node.op_type in FLOAT32}
        chosen = set(half(model, [features(name, model)]))
        assert not kinds & chosen and all(reason(node) for node in kinds)
