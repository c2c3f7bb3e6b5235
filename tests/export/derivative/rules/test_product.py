"""Matrix products, pulled back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from dkcam.export.derivative.cotangent import Cotangent, chosen_rows, full
from dkcam.export.derivative.sweep import sweep
from dkcam.export.writer import Writer, shape_of
from tests.export.derivative.harness import EXACT, ROUNDED, Operator, refused, runtime
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Draws


@pytest.mark.parametrize("number", range(18))
def test_matmul(number: int) -> None:
    """Vectors, matrices, and stacks of them whose batch axes broadcast."""
    draws = Draws(number)
    m, k, n = draws.sizes(3)
    batch = draws.sizes(draws.integer(0, 2), 1, 3)
    a, b = (
        [*[1 if draws.chance(0.3) else size for size in batch[draws.integer(0, len(batch)) if draws.chance(0.3) else 0 :]], *matrix]
        for matrix in ([m, k], [k, n])
    )
    kind = draws.choose("matrices", "matrices", "row", "column", "both")
    if kind in ("row", "both"):
        a = [k]
    if kind in ("column", "both"):
        b = [k]
    active = [[0], [1], [0, 1]][number % 3]
    check(Operator("MatMul", [draws.normal(a), draws.normal(b)], active=active), k=draws.choose(2, 3), random=number, exact=ROUNDED)


@pytest.mark.parametrize("random", range(4))
def test_vectors_in_a_stack(random: int) -> None:
    """Sums over batch axes that the vector does not have, also where the cotangent is even along them."""
    draws = Draws(9)
    check(Operator("MatMul", [draws.normal([4]), draws.normal([2, 3, 4, 5])], active=[0, 1]), random=random, exact=ROUNDED)
    check(Operator("MatMul", [draws.normal([2, 3, 5, 4]), draws.normal([4])], active=[0, 1]), random=random, exact=ROUNDED)


def test_matmul_of_free_sizes() -> None:
    draws = Draws(1)
    check(Operator("MatMul", [draws.normal([2, 7, 4]), draws.normal([4, 3])], free={0: {0: "batch", 1: "H*W"}}), exact=ROUNDED)
    pair = [draws.normal([2, 5, 7, 4]), draws.normal([2, 5, 4, 7])]
    check(Operator("MatMul", pair, active=[0, 1], free={0: {0: "batch", 2: "H*W"}, 1: {0: "batch", 3: "H*W"}}))
    shared = [draws.normal([1, 7, 4]), draws.normal([2, 4, 3])]  # summed over a free batch
    check(Operator("MatMul", shared, active=[0, 1], free={1: {0: "batch"}}))


def test_what_does_not_vary_along_a_sum_stays_outside_of_it() -> None:
    """g even along the columns of y = a b: all that is multiplied is free of K; and so for the rows and b."""
    draws = Draws(2)
    pair = [draws.normal([2, 3, 4]), draws.normal([2, 4, 5])]
    for random in range(4):
        run = check(Operator("MatMul", pair, active=[0, 1]), seeds=["even", "lazy pair"], random=random)
        left, right = (run.cotangents["even"][name] for name in ("x0", "x1"))
        assert shape_of(left.g) == [2 if random % 2 else "K", 2, 3, 1]  # K is known in every other draw
        assert left.d is not None and shape_of(left.d) == [2, 1, 4]
        assert right.d is None


@pytest.mark.parametrize("number", range(16))
def test_gemm(number: int) -> None:
    draws = Draws(number)
    m, k, n = draws.sizes(3)
    a, b = draws.normal([m, k]), draws.normal([k, n])
    attributes: dict[str, Any] = {}
    if draws.chance():
        a, attributes["transA"] = a.T.copy(), 1
    if draws.chance():
        b, attributes["transB"] = b.T.copy(), 1
    if draws.chance():
        attributes["alpha"] = 0.5
    if draws.chance():
        attributes["beta"] = -2.0
    c = draws.choose(None, [n], [1, n], [m, 1], [m, n], [], [1])
    inputs = [a, b, None if c is None else draws.normal(c)]
    active = draws.some(3 if c is not None else 2)
    check(Operator("Gemm", inputs, attributes, active=sorted(active)), k=draws.choose(2, 3), random=number, exact=ROUNDED)


@pytest.mark.parametrize("turned", [0, 1])
def test_gemm_of_a_free_batch(turned: int) -> None:
    draws = Draws(3)
    weights = draws.normal([5, 4] if turned else [4, 5])
    check(Operator("Gemm", [draws.normal([2, 4]), weights, draws.normal([5])], {"transB": turned}, free={0: {0: "batch"}}), exact=ROUNDED)


@pytest.mark.parametrize(("kind", "attributes"), [("Gemm", {}), ("Gemm", {"transB": 1, "alpha": 0.5}), ("MatMul", {})])
def test_a_seed_of_chosen_classes_picks_rows(kind: str, attributes: dict[str, Any]) -> None:
    """No product is written: a Gather of the weights' rows, with what multiplies it outside."""
    draws = Draws(4)
    weights = draws.normal([6, 4] if "transB" in attributes else [4, 6])
    operator = Operator(kind, [draws.normal([2, 4]), weights], attributes)
    model = operator.model()
    index = ir.Value(name="index", shape=ir.Shape([3, 2]), type=ir.TensorType(ir.DataType.INT64))
    model.graph.inputs.append(index)
    writer = Writer(model.graph, 18)
    seed = writer.op("OneHot", index, writer.ints(6), writer.constant(np.array([0, 1], np.float32)), axis=-1)
    assert chosen_rows(seed) is index
    (x,), (y,) = model.graph.inputs[:1], model.graph.outputs
    arrived = sweep(writer, {y: Cotangent(seed, writer.number(3.0))}, [x])[x]
    assert not [node for node in model.graph if node.op_type == kind and "gradient" in str(node.name)]
    result = writer.op("Identity", full(writer, arrived.whole(writer), x))
    result.name = "result"
    model.graph.outputs.append(result)
    chosen = np.array([[5, 0], [1, 1], [2, 4]])
    feed = {"x0": np.zeros((2, 4), np.float32), "index": chosen}
    rows = weights if "transB" in attributes else weights.T
    expected = rows[chosen] * 3 * attributes.get("alpha", 1)
    np.testing.assert_allclose(runtime(ir.to_proto(model), feed, ["result"])["result"], expected, rtol=1e-6)
    assert sum(node.op_type in ("MatMul", "Gemm") for node in model.graph) == 1  # the network's own


def test_only_a_one_hot_seed_is_known_as_one() -> None:
    draws = Draws(5)
    model = Operator("MatMul", [draws.normal([2, 4]), draws.normal([4, 6])]).model()
    writer = Writer(model.graph, 18)
    index = ir.Value(name="index", shape=ir.Shape([3, 2]), type=ir.TensorType(ir.DataType.INT64))
    for values, axis in (([1, 0], -1), ([0, 2], -1), ([0, 1], 1)):
        assert chosen_rows(writer.op("OneHot", index, writer.ints(6), writer.constant(np.array(values, np.float32)), axis=axis)) is None
    assert chosen_rows(model.graph.inputs[0]) is None


EQUATIONS = [
    "bij,bjk->bik",
    "bij, ijk -> bk",
    "ij->ji",
    "ij->i",
    "ij,j->",
    "i,j->ij",
    "bhqd,bhkd->bhqk",
    "bchw,bkc->bkhw",
    "ijk,ijl,ml->kim",
    "...ij,...jk->...ik",
    "...i,...i->...",
    "ij,jk",
    "...ij,jk",
    "b...,b->b...",
]


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("random", [0, 1])
def test_einsum(equation: str, random: int) -> None:
    draws = Draws(len(equation) + random)
    terms = equation.partition("->")[0].replace(" ", "").split(",")
    sizes = {letter: draws.integer(1, 4) for letter in "bcdhijklmqkw"}
    wide = draws.sizes(draws.integer(0, 2), 1, 3)  # what an ellipsis stands for
    inputs = []
    for term in terms:
        dots = [1 if draws.chance(0.3) else size for size in wide] if "..." in term else []
        front, _, back = term.partition("...")
        inputs.append(draws.normal([*(sizes[c] for c in front), *dots, *(sizes[c] for c in back)]))
    wanted = range(len(terms)) if random else [draws.integer(0, len(terms) - 1)]
    check(Operator("Einsum", inputs, {"equation": equation}, active=wanted), k=draws.choose(2, 3), random=random)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("...ij,...jk->...ik", ([1, 2, 3], [4, 3, 2])),
        ("...ij,...jk->...ik", ([4, 2, 3], [1, 3, 2])),
        ("...i,...i->...", ([3, 1, 2], [1, 4, 2])),
        ("i...,...->i...", ([2, 3, 1], [1, 5])),
        ("...a,...,a...->...", ([1, 3], [4], [3, 1])),
    ],
)
def test_einsum_that_broadcasts(equation: str, shapes: tuple[list[int], ...]) -> None:
    draws = Draws(10)
    operator = Operator("Einsum", [draws.normal(shape) for shape in shapes], {"equation": equation}, active=range(len(shapes)))
    for random in range(2):
        check(operator, random=random, exact=ROUNDED)


def test_einsum_of_a_free_batch() -> None:
    draws = Draws(6)
    pair = [draws.normal([2, 3, 5]), draws.normal([5, 4])]
    check(Operator("Einsum", pair, {"equation": "bij,jk->bik"}, free={0: {0: "batch"}}), exact=EXACT)


def test_einsum_with_a_diagonal_is_refused() -> None:
    refused(Operator("Einsum", [Draws(7).normal([3, 3])], {"equation": "ii->i"}), "diagonal", [3])


def test_products_behind_a_network_in_float16() -> None:
    draws = Draws(8)
    pair = [draws.normal([2, 3, 4]), draws.normal([4, 5])]
    check(Operator("MatMul", pair, active=[0, 1], half=True), exact=ROUNDED)
