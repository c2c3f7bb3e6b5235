"""Quantisation, pulled back: straight through."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import UnsupportedOperator
from dkcam.export.derivative.sweep import sweep
from dkcam.export.writer import Writer
from tests.export.derivative.harness import runtime
from tests.export.derivative.rules.draws import Array, Draws


def gradient(scales: tuple[float, float], weights: Array) -> ir.Model:
    """x → quantised → y = x̂ W, W quantised in the file; the gradient of y at x."""
    x = ir.Value(name="x", shape=ir.Shape([2, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    g = ir.Value(name="g", shape=ir.Shape([3, 2, 5]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x, g], [], nodes=[], opset_imports={"": 18})
    network = Writer(graph, 18, "network")
    zero = network.constant(0, np.int8)
    whole = network.op("QuantizeLinear", x, network.number(scales[0]), zero)
    real = network.op("DequantizeLinear", whole, network.number(scales[1]), zero)
    kept = ir.Value(name="w", shape=ir.Shape(weights.shape), type=ir.TensorType(ir.DataType.INT8), const_value=ir.tensor(weights, name="w"))
    graph.register_initializer(kept)
    unfolded = ir.node("DequantizeLinear", [kept, network.constant(np.full(5, 0.5), np.float32)], attributes={"axis": 1}, num_outputs=1)
    (w,) = unfolded.outputs
    w.name, w.shape, w.type = "real w", ir.Shape(weights.shape), x.type
    graph.append(unfolded)
    y = network.op("MatMul", real, w)
    writer = Writer(graph, 18, "gradient")
    found = sweep(writer, {y: Cotangent(g)}, [x])[x].whole(writer)
    result = writer.op("Identity", found)
    result.name = "result"
    graph.outputs.append(result)
    return ir.Model(graph, ir_version=10)


def test_straight_through() -> None:
    draws = Draws(1)
    weights = draws.random.integers(-9, 9, (4, 5)).astype(np.int8)
    feed = {"x": draws.normal([2, 4]), "g": draws.normal([3, 2, 5])}
    model = gradient((0.25, 0.25), weights)
    found = runtime(ir.to_proto(model), feed, ["result"])["result"]
    np.testing.assert_allclose(found, feed["g"] @ (weights.T * np.float32(0.5)), rtol=1e-5)


def test_another_scale_on_the_way_back_is_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="its scale differs"):
        gradient((0.25, 0.5), np.ones((4, 5), np.int8))
