"""Reading a map at computed places, pulled back to the map and to the places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F

from dkcam.export.derivative.rule import UnsupportedOperator
from tests.export.derivative.harness import Operator, check, swept

PLACED = 2e-6  # places are computed with constants of float32


@pytest.mark.parametrize("number", range(16))
def test_the_map_and_the_places(number: int) -> None:
    random = np.random.default_rng(number)
    edge, corners = ("zeros", "border")[number % 2], bool(number // 2 % 2)
    kind = "nearest" if number % 5 == 4 else "linear"
    batch, height, width = int(random.integers(1, 3)), int(random.choice([2, 4, 5])), int(random.choice([2, 3, 8]))
    x = random.standard_normal((batch, 3, height, width))
    grid = random.uniform(-1.4, 1.4, (batch, 3, 4, 2)).astype(np.float32)
    attributes = {
        "mode": kind if number % 4 < 2 else kind.replace("linear", "bilinear"),
        "padding_mode": edge,
        "align_corners": int(corners),
    }
    opset = 20 if attributes["mode"] == "linear" else 18
    active = (0,) if kind == "nearest" else (0, 1)
    free = {0: {0: "B"}, 1: {0: "B"}} if number % 3 == 0 else {}
    check(
        Operator("GridSample", [x, grid], attributes, active=active, opset=opset, free={k: v for k, v in free.items() if k in active}),
        lambda x, grid: F.grid_sample(x, grid, {"linear": "bilinear"}.get(kind, kind), edge, corners),
        k=2 + number % 2,
        random=number,
        exact=PLACED,
    )


@pytest.mark.parametrize("opset", [18, 20])
def test_without_attributes(opset: int) -> None:
    """Operator set 20 renamed the default."""
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((1, 2, 3, 4)), random.uniform(-1, 1, (1, 2, 2, 2))]
    check(
        Operator("GridSample", inputs, active=(0, 1), opset=opset),
        lambda x, grid: F.grid_sample(x, grid, align_corners=False),
        exact=PLACED,
    )


@pytest.mark.parametrize(
    ("attributes", "shape", "why"),
    [
        ({"mode": "bicubic"}, (1, 2, 4, 4), "linear and nearest"),
        ({"padding_mode": "reflection"}, (1, 2, 4, 4), "linear and nearest"),
        ({}, (1, 1, 4096, 4096), "without a scatter"),
    ],
)
def test_what_is_refused(attributes: dict[str, Any], shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(UnsupportedOperator, match=why):
        swept(Operator("GridSample", [np.zeros(shape), np.zeros((1, 2, 2, 2))], attributes), [(1, shape[1], 2, 2)], seeds=["full"])


def test_a_free_size_is_refused() -> None:
    operator = Operator("GridSample", [np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 2, 2))], free={0: {2: "H"}})
    with pytest.raises(UnsupportedOperator, match="sizes are known"):
        swept(operator, [(1, 2, 2, 2)], seeds=["full"])
