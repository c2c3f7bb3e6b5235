"""Random forms of single operators: sizes, strides, pads, groups, axes, modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from onnx import helper

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One node. ``inputs``: in order, None where left out; real ones in float64.

    runtime: compared with ONNX Runtime in float32, not with the onnx package's reference in float64, which for this operator is wrong, does
    not take such inputs, or computes in float32. smooth: differentiable where the inputs lie.
    """

    kind: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18
    runtime: bool = False
    bound: float = 1e-9  # of the reference, relative: some write a constant in float32
    smooth: bool = True

    def feed(self, dtype: Any = np.float64) -> dict[str, Array]:
        given = {f"x{i}": value for i, value in enumerate(self.inputs) if value is not None}
        return {name: value.astype(dtype) if value.dtype == np.float64 else value for name, value in given.items()}

    def model(self, dtype: Any = np.float64) -> onnx.ModelProto:
        names = [f"x{i}" if value is not None else "" for i, value in enumerate(self.inputs)]
        node = helper.make_node(self.kind, names, [f"y{i}" for i in range(self.outputs)], name="n", **self.attributes)
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self.feed(dtype).items()
        ]
        graph = helper.make_graph([node], "case", inputs, [helper.make_empty_tensor_value_info(name) for name in node.output])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def __str__(self) -> str:
        shapes = [None if value is None else value.tolist() if value.size < 5 else value.shape for value in self.inputs]
        return f"{self.kind} {self.attributes} {shapes} opset {self.opset}"


Family = Callable[[Generator], Iterator[Case]]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    FAMILIES[function.__name__] = function
    return function


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def some(rng: Generator, *shape: int) -> Array:
    return rng.standard_normal(shape)


def positive(rng: Generator, *shape: int) -> Array:
    return rng.random(shape) + 0.5


def size(rng: Generator, low: int = 1, high: int = 6) -> int:
    return int(rng.integers(low, high))


def pick(rng: Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]
