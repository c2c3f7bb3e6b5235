"""Cotangents at one place of an axis: what a transformer's class token alone is read for costs one token's work."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch

from dkcam.export.checking.interpreter import evaluate
from dkcam.export.derivative.cotangent import Cotangent, full
from dkcam.export.derivative.places import canonical, place_of
from dkcam.export.derivative.sweep import sweep
from dkcam.export.writer import Writer, array_of, shape_of
from tests.export.derivative.harness import Array, runtime
from tests.export.derivative.rules.draws import Draws

TOKENS, CHANNELS, HEADS = 7, 6, 2
Network = Callable[[Writer, ir.Value, Draws], ir.Value]


def dense(writer: Writer, x: ir.Value, draws: Draws, out: int) -> ir.Value:
    size = shape_of(x)[-1]
    assert isinstance(size, int)
    product = writer.op("MatMul", x, writer.constant(draws.normal([size, out])))
    return writer.op("Add", writer.constant(draws.normal([out])), product)


def norm(writer: Writer, x: ir.Value, draws: Draws) -> ir.Value:
    scale, bias = (writer.constant(draws.normal([CHANNELS])) for _ in range(2))
    return writer.op("LayerNormalization", x, scale, bias, epsilon=0.1)


def gelu(writer: Writer, x: ir.Value) -> ir.Value:
    inner = writer.op("Erf", writer.op("Div", x, writer.number(math.sqrt(2))))
    return writer.op("Mul", writer.op("Mul", x, writer.op("Add", inner, writer.number(1))), writer.number(0.5))


def mlp(writer: Writer, x: ir.Value, draws: Draws) -> ir.Value:
    return writer.op("Add", x, dense(writer, gelu(writer, dense(writer, norm(writer, x, draws), draws, 12)), draws, CHANNELS))


def attention(writer: Writer, x: ir.Value, draws: Draws) -> ir.Value:
    inner = norm(writer, x, draws)
    heads = []
    for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)):
        split = writer.reshape(dense(writer, inner, draws, CHANNELS), -1, [TOKENS, HEADS, CHANNELS // HEADS])
        heads.append(writer.transpose(split, *order))
    scores = writer.op("Softmax", writer.op("MatMul", writer.op("Mul", heads[0], writer.number(0.5)), heads[1]), axis=-1)
    mixed = writer.reshape(writer.transpose(writer.op("MatMul", scores, heads[2]), 0, 2, 1, 3), -1, [TOKENS, CHANNELS])
    return writer.op("Add", x, dense(writer, mixed, draws, CHANNELS))


def gates(writer: Writer, x: ir.Value, draws: Draws) -> ir.Value:
    """Of two inputs each, with and without tokens; a scale for each token; root mean squares by hand."""
    other = writer.op("Sigmoid", dense(writer, x, draws, CHANNELS))
    gated = writer.op("Mul", writer.op("Mul", x, other), writer.constant(draws.normal([TOKENS, 1])))
    squares = writer.op("ReduceMean", writer.op("Pow", gated, writer.number(2)), writer.ints(-1))
    scaled = writer.op("Div", gated, writer.op("Sqrt", writer.op("Add", squares, writer.number(0.1))))
    mean = writer.op("ReduceMean", scaled, writer.ints(1))  # [B, 1, C]
    best = writer.op("Max", scaled, writer.op("Sub", mean, x))
    return writer.op("Where", writer.op("Greater", x, mean), best, writer.op("Mul", scaled, mean))


def convolved(writer: Writer, x: ir.Value, draws: Draws) -> ir.Value:
    """Batch-norm of tokens as channels: its parameters are not aligned with its input from the end."""
    numbers = [writer.constant(draws.positive([TOKENS])) for _ in range(4)]
    return writer.op("BatchNormalization", writer.op("PRelu", x, writer.constant(draws.positive([CHANNELS]))), *numbers)


NETWORKS: dict[str, list[Network]] = {
    "mlp": [mlp],
    "attention": [attention],
    "block": [attention, mlp],
    "two blocks": [attention, mlp, attention, mlp],
    "gates": [gates],
    "batch-norm": [convolved, mlp],
}


def tokens_read(name: str, read: str, k: int = 3) -> tuple[ir.Model, dict[str, Array], list[ir.Node], ir.Value]:
    """x [B, TOKENS, C] → network → norm → one token → [B, 5] scores, and the gradient of K mixes of them at x."""
    draws = Draws(len(name))
    x = ir.Value(name="x", shape=ir.Shape(["B", TOKENS, CHANNELS]), type=ir.TensorType(ir.DataType.FLOAT))
    g = ir.Value(name="g", shape=ir.Shape([k, "B", 5]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x, g], [], nodes=[], opset_imports={"": 18})
    network = Writer(graph, 18, "network")
    value = x
    for layer in NETWORKS[name]:
        value = layer(network, value, draws)
    value = norm(network, value, draws)
    if read == "gather":
        token = network.op("Gather", value, network.constant(2, np.int64), axis=1)
    else:
        token = network.squeeze(network.slice(value, 1, 2, 3), 1)
    scores = dense(network, token, draws, 5)
    scores.name = "scores"
    before = set(graph)
    writer = Writer(graph, 18, "gradient")
    result = writer.op("Identity", full(writer, sweep(writer, {scores: Cotangent(g)}, [x])[x].whole(writer), x))
    result.name = "result"
    graph.outputs.extend([result, scores])
    feed = {"x": draws.normal([2, TOKENS, CHANNELS]), "g": draws.normal([k, 2, 5])}
    return ir.Model(graph, ir_version=10), feed, [node for node in graph if node not in before], x


@pytest.mark.parametrize("read", ["gather", "slice"])
@pytest.mark.parametrize("name", NETWORKS)
def test_of_one_token(name: str, read: str) -> None:
    model, feed, _, _ = tokens_read(name, read)
    x = torch.from_numpy(feed["x"].astype(np.float64)).requires_grad_()
    wide = {"x": x, "g": torch.from_numpy(feed["g"].astype(np.float64))}
    found = evaluate(model, wide, ["scores", "result"], leaves=[])
    rows = [torch.autograd.grad(found["scores"], x, row, retain_graph=True)[0] for row in wide["g"]]
    expected = torch.stack(rows).numpy()
    scale = np.abs(expected).max()
    assert np.abs(found["result"].detach().numpy() - expected).max() <= 2e-7 * scale
    for level in range(4):
        assert np.abs(runtime(ir.to_proto(model), feed, ["result"], level)["result"] - expected).max() <= 1e-4 * scale


def test_no_product_with_k_has_all_tokens_before_they_are_mixed() -> None:
    _, _, written, _ = tokens_read("mlp", "gather")
    products = [shape_of(node.outputs[0]) for node in written if node.op_type == "MatMul"]
    assert [3, "B", 1, 12] in products
    assert all(TOKENS not in shape for shape in products)


def test_keys_and_values_of_one_query_stay_pairs() -> None:
    """Softmax and both products of attention for one query: nothing has K and queries × keys."""
    _, _, written, _ = tokens_read("attention", "gather")
    shapes = [shape_of(node.outputs[0]) for node in written]
    assert not [shape for shape in shapes if shape[-2:] == [TOKENS, TOKENS] and shape[0] == 3]


def pair(numbers: Array) -> Cotangent:
    g = ir.Value(name="g", shape=ir.Shape([3, 2, 1, 1]), type=ir.TensorType(ir.DataType.FLOAT))
    d = ir.Value(name="d", shape=ir.Shape(numbers.shape), type=ir.TensorType(ir.DataType.FLOAT), const_value=ir.tensor(numbers))
    return Cotangent(g, d)


def test_where_a_place_is() -> None:
    row = np.zeros((4, 3), np.float32)
    row[2] = [1, 0, 2]
    place = place_of(pair(row))
    assert place is not None
    assert place.at == ((-2, 2, 4),)
    assert place.row.tolist() == [[1, 0, 2]]
    row[2] = [0, 0, 2]
    place = place_of(pair(row))
    assert place is not None
    assert (place.at, place.row.tolist()) == (((-2, 2, 4), (-1, 2, 3)), [[2]])
    place = place_of(pair(np.array([[0], [3]], np.float32)))
    assert place is not None
    assert (place.at, place.row.tolist()) == (((-2, 1, 2),), [[3]])
    for none in (np.ones((4, 1), np.float32), np.zeros((4, 1), np.float32), np.ones((1, 1), np.float32)):
        assert place_of(pair(none)) is None
    assert place_of(Cotangent(pair(row).g)) is None


def test_equal_places_are_one_value() -> None:
    """A place times a scale is the place, and the scale goes to g."""
    graph = ir.Graph([pair(np.ones(1, np.float32)).g], [], nodes=[], opset_imports={"": 18})
    writer = Writer(graph, 18)
    one = np.array([[0], [1], [0], [0]], np.float32)
    first, second, third = (canonical(writer, pair(one * scale)) for scale in (1, 0.25, 2))
    assert first.d is second.d is third.d
    assert first.g.producer() is None
    for scaled, by in ((second, 0.25), (third, 2)):
        node = scaled.g.producer()
        assert node is not None
        factor = array_of(node.inputs[1])
        assert factor is not None
        assert factor.tolist() == [[by]]


def test_values_at_a_place() -> None:
    place = place_of(pair(np.array([[0], [1], [0], [0]], np.float32)))
    assert place is not None
    for shape, expected in (([2, 4, 3], [2, 1, 3]), ([4, 3], [1, 3]), ([3], [3]), ([2, 1, 3], [2, 1, 3])):
        value = ir.Value(name="value", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        writer = Writer(ir.Graph([value], [], nodes=[], opset_imports={"": 18}), 18)
        assert shape_of(place.slice(writer, value)) == expected
