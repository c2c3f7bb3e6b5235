"""TensorRT's parser takes what the rules write, with known and with free sizes; it needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from tests.export.derivative.harness import Operator, swept

parse = pytest.importorskip("tests.export.test_tensorrt_parser").parse

X = np.zeros((2, 4, 8, 12))
HALF_SIZE, SAME_SIZE, DOUBLE = (2, 4, 4, 6), (2, 4, 8, 12), (2, 4, 16, 24)
FREE = {0: {0: "B", 2: "H", 3: "W"}}
POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}

CASES: dict[str, tuple[str, Sequence[Any], dict[str, Any], tuple[int, ...], bool]] = {
    "conv": ("Conv", [X, np.zeros((4, 4, 3, 3))], {"pads": [1, 1, 1, 1]}, SAME_SIZE, True),
    "conv, groups": ("Conv", [X, np.zeros((4, 2, 3, 3))], {"pads": [1, 1, 1, 1], "group": 2}, SAME_SIZE, True),
    "conv, depth-wise": ("Conv", [X, np.zeros((4, 1, 3, 3))], {"pads": [1, 1, 1, 1], "group": 4}, SAME_SIZE, True),
    "conv, strides": ("Conv", [X, np.zeros((4, 4, 3, 3))], {"pads": [1, 1, 1, 1], "strides": [2, 2]}, HALF_SIZE, True),
    "conv, one by one, strides": ("Conv", [X, np.zeros((4, 4, 1, 1))], {"strides": [2, 2]}, HALF_SIZE, True),
    "conv, dilations": ("Conv", [X, np.zeros((4, 4, 3, 3))], {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, SAME_SIZE, True),
    "conv of a line": ("Conv", [np.zeros((2, 4, 8)), np.zeros((4, 4, 3))], {"pads": [1, 1], "strides": [2]}, (2, 4, 4), False),
    "conv of a volume": ("Conv", [np.zeros((2, 4, 4, 4, 4)), np.zeros((4, 4, 3, 3, 3))], {"pads": [1] * 6}, (2, 4, 4, 4, 4), False),
    "transposed conv": ("ConvTranspose", [X, np.zeros((4, 4, 2, 2))], {"strides": [2, 2]}, DOUBLE, True),
    "maximum": ("MaxPool", [X], POOL, HALF_SIZE, True),
    "maximum, tiles": ("MaxPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}, HALF_SIZE, True),
    "maximum, wide": ("MaxPool", [X], {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}, SAME_SIZE, True),
    "mean": ("AveragePool", [X], POOL, HALF_SIZE, True),
    "mean, tiles": ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}, HALF_SIZE, True),
    "mean, same size": ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, SAME_SIZE, True),
    "mean of everything": ("GlobalAveragePool", [X], {}, (2, 4, 1, 1), True),
    "maximum of everything": ("GlobalMaxPool", [X], {}, (2, 4, 1, 1), True),
    "norm": ("LpPool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}, HALF_SIZE, False),
    "neighbouring channels": ("LRN", [X], {"size": 3}, SAME_SIZE, True),
    "nearest": (
        "Resize",
        [X, None, np.array([1.0, 1, 2, 2])],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        DOUBLE,
        True,
    ),
    "linear": ("Resize", [X, None, np.array([1.0, 1, 2, 2])], {"mode": "linear"}, DOUBLE, False),
    "channels last": ("Resize", [X, None, np.array([1.0, 2, 2, 1])], {"mode": "linear"}, (2, 8, 16, 12), False),
    "depth to space": ("DepthToSpace", [X], {"blocksize": 2}, (2, 1, 16, 24), True),
    "depth to space, torch's": ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}, (2, 1, 16, 24), True),
    "space to depth": ("SpaceToDepth", [X], {"blocksize": 2}, (2, 16, 4, 6), True),
    "places": ("GridSample", [X, np.zeros((2, 3, 3, 2))], {"align_corners": 0}, (2, 4, 3, 3), False),
}


@pytest.mark.parametrize("name", CASES)
def test_the_parser_takes(name: str) -> None:
    kind, inputs, attributes, shape, free = CASES[name]
    active = (0, 1) if kind == "GridSample" else (0,)
    for sizes in ({}, FREE) if free else ({},):
        run = swept(Operator(kind, inputs, attributes, free=sizes, active=active), [shape])
        parse(ir.to_proto(run.model).SerializeToString())
