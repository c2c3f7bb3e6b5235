"""Operators that pick numbers by their place or put some in a place, pulled back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from dkcam.export.derivative.cotangent import Cotangent, full
from dkcam.export.derivative.rules.index import LARGEST
from dkcam.export.derivative.sweep import sweep
from dkcam.export.writer import Writer
from tests.export.derivative.harness import EXACT, Array, Operator, plain, refused, runtime
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Draws

INDICES: list[Any] = [2, -1, [0], [4], [1, 2, 3], [4, 0, 2], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 1, -1, 1], [[0, 3], [3, 1]], [[2, 3, 4]]]


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("index", INDICES)
def test_gather(index: Any, computed: bool) -> None:
    draws = Draws(len(str(index)))
    axis = draws.integer(0, 3)
    shape = draws.sizes(4, 1, 4)
    shape[axis] = 5
    inputs = [draws.normal(shape), np.array(index, np.int64)]
    attributes = {"axis": axis - 4 if draws.chance() else axis} if axis or draws.chance() else {}
    check(Operator("Gather", inputs, attributes, computed=[1] * computed), k=draws.choose(2, 3), random=axis + 4 * computed)


@pytest.mark.parametrize("index", [0, [0], [1, 1], [[2, 0]]])
@pytest.mark.parametrize("computed", [False, True])
def test_gather_of_free_sizes(index: Any, computed: bool) -> None:
    inputs = [Draws(1).normal([2, 3, 4, 5]), np.array(index, np.int64)]
    check(Operator("Gather", inputs, {"axis": 1}, free={0: {0: "batch", 2: "H", 3: "W"}}, computed=[1] * computed))


def test_gather_by_small_integers() -> None:
    check(Operator("Gather", [Draws(2).normal([2, 5]), np.array([1, 4], np.int32)], {"axis": 1}, computed=[1]))


def test_what_gather_refuses() -> None:
    x = Draws(3).normal([2, 3, 4])
    refused(Operator("Gather", [x, np.array([0, 1])], {"axis": 2}, free={0: {2: "W"}}), "free dimension W", [2, 3, 2])
    big = Operator("Gather", [np.zeros((LARGEST // 8, 1), np.float32), np.zeros(9, np.int64)], computed=[1])
    refused(big, "would not fit into memory", [9, 1])


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_gather_elements(axis: int, computed: bool) -> None:
    draws = Draws(axis + 5)
    shape = [2, 4, 3]
    picked = list(shape)
    picked[axis] = 5
    index = draws.random.integers(-shape[axis], shape[axis], picked)
    operator = Operator("GatherElements", [draws.normal(shape), index], {"axis": axis}, computed=[1] * computed)
    check(operator, k=draws.choose(2, 3), random=axis + 1)


def test_gather_elements_by_default_and_of_fewer_places() -> None:
    draws = Draws(6)
    check(Operator("GatherElements", [draws.normal([4, 3]), draws.random.integers(0, 4, (2, 3))]))
    check(Operator("GatherElements", [draws.normal([4, 5, 3]), draws.random.integers(0, 5, (2, 6, 2))], {"axis": 1}), random=1)
    same = np.broadcast_to(np.array([3, 1, 1])[:, None], (2, 3, 4)).copy()
    check(Operator("GatherElements", [draws.normal([2, 5, 4]), same], {"axis": 1}), random=1)  # one row of indices for all


def network(nodes: Sequence[ir.Node], inputs: Sequence[ir.Value], opset: int = 18) -> ir.Model:
    graph = ir.Graph(inputs, [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": opset})
    return ir.Model(graph, ir_version=10)


def real(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


@pytest.mark.parametrize("repeat", ["Expand", "Tile"])
@pytest.mark.parametrize("axis", [1, 2])
def test_indices_that_were_repeated_are_one_matrix(repeat: str, axis: int) -> None:
    """torch.gather of whole rows, as detectors pick their queries: [B, n] indices, repeated over channels."""
    draws = Draws(7)
    shape = [2, 6, 4] if axis == 1 else [2, 4, 6]
    places = draws.random.integers(0, 6, (2, 3))
    picked = [2, 3, 4] if axis == 1 else [2, 4, 3]
    x = real("x", "batch", *shape[1:])
    index = ir.Value(name="index", shape=ir.Shape(["batch", 3, 1] if axis == 1 else ["batch", 1, 3]), type=ir.TensorType(ir.DataType.INT64))
    graph = ir.Graph([x, index], [], nodes=[], opset_imports={"": 18})
    forward = Writer(graph, 18, "network")
    by = [1, 1, 4] if axis == 1 else [1, 4, 1]
    repeated = forward.op(repeat, index, forward.ints(*by))
    repeated.shape = ir.Shape(["batch", *picked[1:]])
    y = forward.op("GatherElements", x, repeated, axis=axis)
    writer = Writer(graph, 18, "gradient")
    g = real("g", 3, "batch", *picked[1:])
    graph.inputs.append(g)
    result = writer.op("Identity", full(writer, sweep(writer, {y: Cotangent(g)}, [x])[x].whole(writer), x))
    result.name = "result"
    graph.outputs.append(result)
    assert any(node.op_type == "MatMul" for node in graph)
    plain([node for node in graph if str(node.name).startswith("gradient")])
    feed: dict[str, Array] = {"x": draws.normal(shape), "index": np.expand_dims(places, 3 - axis), "g": draws.normal([3, *picked])}
    expected = np.zeros((3, *shape), np.float32)
    for image in range(2):
        for number, place in enumerate(places[image]):
            at = (slice(None), image, place) if axis == 1 else (slice(None), image, slice(None), place)
            got = (slice(None), image, number) if axis == 1 else (slice(None), image, slice(None), number)
            expected[at] += feed["g"][got]
    model = ir.Model(graph, ir_version=10)
    np.testing.assert_allclose(runtime(ir.to_proto(model), feed, ["result"])["result"], expected, rtol=1e-5)


# indices of several axes


ND: list[tuple[list[int], Any, int]] = [
    ([4, 3, 5], [[0, 1], [3, 2], [0, 1]], 0),
    ([4, 3, 5], [[-1], [1]], 0),
    ([4, 3, 5], [[[1, 2, 3]], [[0, 0, 4]]], 0),
    ([4, 3, 5], [2, 1], 0),
    ([2, 3, 5], [[[1], [2]], [[1], [2]]], 1),
    ([2, 3, 5], [[[1], [2]], [[0], [0]]], 1),
    ([2, 3, 4, 5], [[[1, 3], [2, 0], [2, -1]], [[0, 0], [1, 1], [2, 2]]], 1),
    ([2, 3, 5], [[1], [2]], 1),
]


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize(("shape", "index", "batch"), ND)
def test_gather_nd(shape: list[int], index: Any, batch: int, computed: bool) -> None:
    attributes = {"batch_dims": batch} if batch else {}
    operator = Operator("GatherND", [Draws(8).normal(shape), np.array(index, np.int64)], attributes, computed=[1] * computed)
    check(operator, k=3, random=len(shape) + computed)


@pytest.mark.parametrize("largest", [None, 0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_the_values_of_topk(axis: int | None, largest: int | None) -> None:
    attributes = {**({} if axis is None else {"axis": axis}), **({} if largest is None else {"largest": largest})}
    inputs = [Draws(9).apart([5, 6, 4]), np.array([3])]
    check(Operator("TopK", inputs, attributes, outputs=2), k=3, random=1)


def test_topk_of_a_free_batch() -> None:
    inputs = [Draws(10).apart([2, 9]), np.array([4])]
    check(Operator("TopK", inputs, outputs=2, free={0: {0: "batch"}}))


# numbers put in a place


PUT: list[tuple[list[int], Any]] = [
    ([5, 3, 4], [[1], [3]]),
    ([5, 3, 4], [[1, 2], [3, -1], [0, 0]]),
    ([2, 3], [[[0, 1]], [[1, 2]]]),
]


@pytest.mark.parametrize("reduction", [None, "none", "add"])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize(("shape", "index"), PUT)
def test_scatter_nd(shape: list[int], index: Any, computed: bool, reduction: str | None) -> None:
    draws = Draws(11)
    places = np.array(index, np.int64)
    updates = draws.normal([*places.shape[:-1], *shape[places.shape[-1] :]])
    attributes = {} if reduction is None else {"reduction": reduction}
    operator = Operator("ScatterND", [draws.normal(shape), places, updates], attributes, active=[0, 2], computed=[1] * computed)
    check(operator, k=3, random=1)


@pytest.mark.parametrize("reduction", [None, "add"])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(axis: int, computed: bool, reduction: str | None) -> None:
    draws = Draws(axis + 12)
    shape = [4, 5, 3]
    picked = [2, 3, 2]
    order = np.argsort(draws.random.random((*picked[:-1], shape[axis])), axis=-1)[..., : picked[axis]]
    index = np.moveaxis(np.resize(order, [*np.delete(picked, axis), picked[axis]]), -1, axis)
    attributes = {"axis": axis, **({} if reduction is None else {"reduction": reduction})}
    operator = Operator(
        "ScatterElements", [draws.normal(shape), index, draws.normal(picked)], attributes, active=[0, 2], computed=[1] * computed
    )
    check(operator, k=3, random=1, exact=EXACT)


def test_many_constant_places_are_no_matrix() -> None:
    """Constants that are too large to be folded are known all the same."""
    draws = Draws(14)
    data, places = draws.normal([5000, 1]), draws.random.permutation(5000)[:4200, None]
    updates = draws.normal([4200, 1])
    for kind, by in (("ScatterND", places), ("ScatterElements", places), ("GatherND", places)):
        inputs = [data, by] if kind == "GatherND" else [data, by, updates]
        run = check(Operator(kind, inputs, active=[0] if kind == "GatherND" else [0, 2]), seeds=["full", "even"])
        assert not [node for node in run.written if node.op_type in ("MatMul", "Equal")]


def test_what_scatters_refuse() -> None:
    draws = Draws(13)
    x, two = draws.normal([5, 3]), draws.normal([2, 3])
    refused(Operator("ScatterND", [x, np.array([[1], [2]]), two], {"reduction": "mul"}), "reduction 'mul'")
    refused(Operator("ScatterND", [x, np.array([[1], [1]]), two]), "two numbers in one place")
    twice = np.array([[1, 1, 1], [2, 1, 2]])
    refused(Operator("ScatterElements", [x, twice, two]), "two numbers in one place")
    refused(Operator("ScatterElements", [x, twice, two], {"reduction": "max"}), "reduction 'max'")
