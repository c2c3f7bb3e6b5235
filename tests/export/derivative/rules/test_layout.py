"""Operators that move, repeat, cut or join numbers, pulled back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dkcam.export.writer import shape_of
from tests.export.derivative.harness import Operator, refused
from tests.export.derivative.harness import check_and_parse as check
from tests.export.derivative.rules.draws import Array, Draws

FREE = {0: {0: "batch", 2: "H", 3: "W"}}


@pytest.mark.parametrize("number", range(8))
def test_transpose(number: int) -> None:
    draws = Draws(number)
    rank = draws.integer(1, 5)
    attributes = {"perm": draws.some(rank, rank)} if number else {}
    check(Operator("Transpose", [draws.normal(draws.sizes(rank))], attributes), k=draws.choose(2, 3), random=number)


def test_transpose_of_free_sizes() -> None:
    check(Operator("Transpose", [Draws(1).normal([2, 3, 4, 5])], {"perm": [0, 2, 3, 1]}, free=FREE))


RESHAPES: list[tuple[list[int], list[int], dict[str, Any]]] = [
    ([2, 6, 4, 5], [2, 3, 2, 20], {}),
    ([2, 6, 4, 5], [0, 0, -1], {}),
    ([2, 6, 4, 5], [-1], {}),
    ([2, 6, 1, 1], [2, 6], {}),
    ([2, 6], [2, 6, 1, 1], {}),
    ([2, 12], [1, 2, 3, 1, 4], {}),
    ([1, 4, 6], [4, 3, 2], {}),
    ([4, 6], [3, 8], {}),
    ([6, 4, 5], [4, 6, 5], {}),
    ([2, 3, 4], [2, 3, 4], {"allowzero": 1}),
    ([1], [], {}),
]


@pytest.mark.parametrize(("shape", "to", "attributes"), RESHAPES)
def test_reshape(shape: list[int], to: list[int], attributes: dict[str, Any]) -> None:
    for random in range(2):
        check(Operator("Reshape", [Draws(2).normal(shape), np.array(to, np.int64)], attributes), k=3, random=random + len(to))


@pytest.mark.parametrize("to", [[0, 12, -1], [0, -1], [0, 3, 4, -1], [-1, 12, 4, 5], [0, 12, 1, -1], [-1], [0, 0, 0, 0, 1]])
def test_reshape_of_free_sizes(to: list[int]) -> None:
    check(Operator("Reshape", [Draws(3).normal([2, 12, 4, 5]), np.array(to, np.int64)], free=FREE), k=3, random=len(to))
    if to[0] == 0 or to == [-1, 12, 4, 5]:
        check(Operator("Reshape", [Draws(3).normal([2, 12, 4, 5]), np.array(to, np.int64)], free={0: {0: "batch"}}))


def test_reshape_keeps_lazy_what_is_lazy() -> None:
    """[K, B, 12, 1, 1] of [B, 12, 4, 5] stays so small through a reshape to heads and one to tokens."""
    for to, lazy in (([2, 3, 4, 20], [2, 12, 1, 1]), ([2, 12, 20], [2, 12, 1, 1])):
        run = check(Operator("Reshape", [Draws(4).normal([2, 12, 4, 5]), np.array(to)]), seeds=["even"])
        sizes = shape_of(run.cotangents["even"]["x0"].g)[1:]
        assert sizes == (lazy if len(to) == 3 else [2, 1, 1, 1]) or sizes == lazy


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 4, -1])
def test_flatten(axis: int | None) -> None:
    attributes = {} if axis is None else {"axis": axis}
    check(Operator("Flatten", [Draws(5).normal([2, 3, 4, 5])], attributes), k=3)
    if axis in (None, 1):
        check(Operator("Flatten", [Draws(5).normal([2, 3, 4, 5])], attributes, free={0: {0: "batch"}}))


@pytest.mark.parametrize("axes", [None, [1], [-1, 1], [3, 1]])
def test_squeeze(axes: list[int] | None) -> None:
    given = None if axes is None else np.array(axes, np.int64)
    for random in range(2):
        check(Operator("Squeeze", [Draws(6).normal([2, 1, 4, 1]), given]), random=random)


@pytest.mark.parametrize("axes", [[0], [1, 3], [-1], [2, 0, -2]])
def test_unsqueeze(axes: list[int]) -> None:
    for random in range(2):
        check(Operator("Unsqueeze", [Draws(7).normal([2, 3, 4]), np.array(axes, np.int64)]), random=random)


@pytest.mark.parametrize(("shape", "to"), [([2, 1, 4], [2, 3, 4]), ([1], [2, 3]), ([3, 1], [2, 1, 4]), ([2, 3], [1, 1]), ([], [2, 3])])
def test_expand(shape: list[int], to: list[int]) -> None:
    for random in range(2):
        check(Operator("Expand", [Draws(8).normal(shape), np.array(to, np.int64)]), random=random)


@pytest.mark.parametrize("repeats", [[1, 1, 1], [2, 1, 3], [1, 4, 1], [2, 3, 2]])
def test_tile(repeats: list[int]) -> None:
    for shape in ([2, 3, 4], [1, 3, 1]):
        check(Operator("Tile", [Draws(9).normal(shape), np.array(repeats, np.int64)]), k=3)
    if repeats[0] == 1:
        check(Operator("Tile", [Draws(9).normal([2, 3, 4]), np.array(repeats, np.int64)], free={0: {0: "batch"}}))


# joined and cut


@pytest.mark.parametrize("number", range(6))
def test_concat(number: int) -> None:
    draws = Draws(number)
    shape = draws.sizes(draws.integer(1, 4))
    axis, count = draws.integer(0, len(shape) - 1), draws.integer(1, 4)
    inputs = []
    for _ in range(count):
        shape[axis] = draws.integer(1, 4)
        inputs.append(draws.normal(shape))
    given = axis - len(shape) if draws.chance() else axis
    check(Operator("Concat", inputs, {"axis": given}, active=sorted(draws.some(count))), k=draws.choose(2, 3), random=number)


def test_concat_along_a_free_size() -> None:
    """Class token and patches: each part is counted from the side whose sizes are known."""
    draws = Draws(10)
    token, patches, last = draws.normal([2, 1, 4]), draws.normal([2, 7, 4]), draws.normal([2, 2, 4])
    free: dict[int, dict[int, str]] = {0: {0: "batch"}, 1: {0: "batch", 1: "H*W"}, 2: {0: "batch"}}
    check(Operator("Concat", [token, patches, last], {"axis": 1}, active=[0, 1, 2], free=free), random=1)
    check(Operator("Concat", [token, patches, last], {"axis": 1}, active=[0, 1, 2], free=free), random=2)
    two = Operator("Concat", [patches, patches], {"axis": 1}, active=[0, 1], free={0: {1: "H"}, 1: {1: "W"}})
    refused(two, "more than one free dimension", [2, 14, 4])


@pytest.mark.parametrize("used", [[0, 1, 2, 3], [0], [2], [3], [1, 2], [0, 3], [0, 2], [1, 3]])
def test_split(used: list[int]) -> None:
    draws = Draws(11)
    x, sizes = draws.normal([2, 9, 3]), np.array([2, 1, 5, 1])
    check(Operator("Split", [x, sizes], {"axis": [1, -2][len(used) % 2]}, outputs=4, used=used), k=3, random=used[0])


@pytest.mark.parametrize(("size", "count"), [(6, 3), (7, 3), (8, 1)])
def test_split_by_number(size: int, count: int) -> None:
    """The last part is the smaller one."""
    x = Draws(12).normal([size, 2])
    check(Operator("Split", [x], {"num_outputs": count}, outputs=count))
    check(Operator("Split", [x], {"num_outputs": count}, outputs=count, used=[count - 1], free={0: {1: "W"}}))


FAR, NEAR = 2**63 - 1, -(2**63)
SLICES: list[tuple[list[int], list[int], list[int] | None, list[int] | None]] = [
    ([1], [3], None, None),
    ([1, 0], [FAR, -1], [1, 2], None),
    ([0], [FAR], [1], [2]),
    ([1], [6], [-2], [3]),
    ([-1], [NEAR], [1], [-1]),
    ([5], [0], [1], [-2]),
    ([-2, -3], [NEAR, FAR], [2, 1], [-3, 1]),
    ([0], [FAR], [2], [1]),
    ([-100], [100], [1], [1]),
    ([3, 0], [4, 1], [1, 2], [1, 1]),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    given: list[Array | None] = [None if one is None else np.array(one, np.int64) for one in (starts, ends, axes, steps)]
    for random in [len(starts), 5]:
        check(Operator("Slice", [Draws(13).normal([4, 7, 5]), *given]), k=3, random=random)


@pytest.mark.parametrize("bounds", [(1, FAR), (0, -1), (1, -2), (0, FAR), (2, 2**31 - 1)])
def test_slice_of_a_free_size(bounds: tuple[int, int]) -> None:
    given = [np.array([bound]) for bound in bounds] + [np.array([1])]
    shape = [7 - bounds[0] + min(bounds[1], 0)]
    operator = Operator("Slice", [Draws(14).normal([2, 7, 3]), *given], free={0: {0: "batch", 1: "H*W"}})
    for random in range(2):
        check(operator, random=random)
    assert shape[0] > 0


def test_slices_that_are_refused() -> None:
    x, free = Draws(15).normal([2, 7]), {0: {1: "W"}}
    for start, end, stride in ((0, 3, 1), (-2, FAR, 1), (0, FAR, 2)):
        operator = Operator("Slice", [x, *(np.array([one]) for one in (start, end, 1, stride))], free=free)
        refused(operator, "not counted from both ends", [2, len(range(7)[start : min(end, 7) : stride])])


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[0, 1, 2, 0, 3, 1], [0, 0, 0, 0, 2, 0], [0, 0, 1, 0, 0, 0]])
def test_pad(mode: str, pads: list[int]) -> None:
    operator = Operator("Pad", [Draws(16).normal([2, 5, 4]), np.array(pads), np.array(0.3, np.float32)], {"mode": mode}, opset=19)
    check(operator, k=3, random=sum(pads))


def test_pad_by_default_and_of_some_axes() -> None:
    x = Draws(17).normal([2, 5, 4])
    check(Operator("Pad", [x, np.array([0, 1, 0, 0, 0, 2])]))
    check(Operator("Pad", [x, np.array([1, 2, 3, 0]), None, np.array([-1, 1])]))
    check(Operator("Pad", [x, np.array([1, 2, 3, 0]), None, np.array([2, 1])], {"mode": "reflect"}))


@pytest.mark.parametrize("pads", [[0, -1, 0, 0, 0, 0], [0, -1, 2, 0, 2, -1], [0, -2, 0, 0, -1, -2]])
def test_pads_that_cut(pads: list[int]) -> None:
    check(Operator("Pad", [Draws(18).normal([2, 5, 4]), np.array(pads)]), random=1)


@pytest.mark.parametrize(("mode", "most"), [("edge", 9), ("reflect", 2), ("wrap", 3)])
def test_the_longest_pads(mode: str, most: int) -> None:
    """As long as the input allows; longer ones, and negative ones, mean something else to each runtime."""
    x = Draws(19).normal([2, 3])
    check(Operator("Pad", [x, np.array([0, most, 0, most])], {"mode": mode}, opset=19), seeds=["full", "even"])
    if mode != "edge":
        refused(Operator("Pad", [x, np.array([0, 0, 0, most + 1])], {"mode": mode}, opset=19), "more than one way", [2, 4 + most])
    refused(Operator("Pad", [x, np.array([0, -1, 0, 0])], {"mode": mode}, opset=19), "pads below 0", [2, 2])


@pytest.mark.parametrize("pads", [[0, 0, 1, 2, 0, 0, 3, 1], [0, 0, -1, 0, 0, 0, 0, -2], [0, 0, 1, 0, 0, 0, 0, 0]])
def test_pad_of_free_sizes(pads: list[int]) -> None:
    check(Operator("Pad", [Draws(20).normal([2, 3, 4, 5]), np.array(pads)], free=FREE), random=1)
    if min(pads) == 0:
        bordered = [size + pads[axis] + pads[axis + 4] for axis, size in enumerate([2, 3, 4, 5])]
        operator = Operator("Pad", [Draws(20).normal([2, 3, 4, 5]), np.array(pads)], {"mode": "edge"}, free=FREE)
        refused(operator, "'edge' of a free dimension", bordered)


# along an axis


@pytest.mark.parametrize("upper", [0, 1, None])
@pytest.mark.parametrize("k", [None, -1, 0, 2])
def test_trilu(upper: int | None, k: int | None) -> None:
    attributes = {} if upper is None else {"upper": upper}
    check(Operator("Trilu", [Draws(21).normal([2, 4, 5]), None if k is None else np.array(k)], attributes))


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [1, -1])
def test_cumsum(exclusive: int, reverse: int, axis: int) -> None:
    attributes = {"exclusive": exclusive, "reverse": reverse} if exclusive or reverse else {}
    check(Operator("CumSum", [Draws(22).normal([2, 3, 4]), np.array(axis)], attributes), random=axis + 1)


def test_what_is_computed_is_refused() -> None:
    x = Draws(23).normal([2, 3])
    refused(Operator("Tile", [x, np.array([1, 2])], computed=[1], declared=[["a", "b"]]), "repeats are computed", [2, 6])
    refused(Operator("Slice", [x, np.array([0]), np.array([1])], computed=[1], declared=[["a", 3]]), "bounds are computed", [1, 3])
    refused(Operator("Pad", [x, np.array([0, 1, 0, 0])], computed=[1], declared=[["a", "b"]]), "pads are computed", [2, 4])
    refused(Operator("CumSum", [x, np.array(1)], computed=[1]), "axis is computed")
    refused(Operator("Trilu", [x, np.array(1)], computed=[1]), "diagonal is computed")
    refused(Operator("Unsqueeze", [x, np.array([1])], computed=[1], declared=[[2, 1, 3]]), "axes are computed", [2, 1, 3])
