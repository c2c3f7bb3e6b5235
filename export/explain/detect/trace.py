"""Where the numbers of an output come from: element by element, back through all that only moves them.

A detector's output is put together from its levels by Concat, Reshape, Transpose and Slice. Followed back, each number leads to one
number of one value that the network computes: so the levels, each box's cell and its raw score are found without knowing the layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.writer import FLOATS, Dimension, UnknownShape, array_of, shape_of

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Elements that come from one value. order: which of the elements asked for. index: where in ``value``, flat, in one picture.
    squash: "Sigmoid", "Softmax" or "", what lies between.
    """

    value: ir.Value
    order: Index
    index: Index
    squash: str = ""


def trace(value: ir.Value, index: Index, *, squashes: bool = True) -> list[Piece]:
    """Pieces that elements ``index`` (flat, in one picture) of ``value`` [B, …] come from; together they hold each element once.

    squashes: step behind one Sigmoid or Softmax as well. What cannot be followed ends where it is.
    """
    waiting = [Piece(value, np.arange(index.size), index.ravel().astype(np.int64))]
    found: dict[tuple[ir.Value, str], list[Piece]] = {}
    while waiting:
        piece = waiting.pop()
        before = _step(piece, squashes)
        if before is None:
            found.setdefault((piece.value, piece.squash), []).append(piece)
        else:
            waiting += [one for one in before if one.order.size]
    return [_joined(pieces) for pieces in found.values()]


def per_picture(value: ir.Value) -> tuple[int, ...] | None:
    """A value's dimensions after the batch's; None where one is free or unknown."""
    try:
        shape = shape_of(value)
    except UnknownShape:
        return None
    known = tuple(d for d in shape[1:] if isinstance(d, int))
    return known if shape and len(known) == len(shape) - 1 else None


def _joined(pieces: list[Piece]) -> Piece:
    order = np.concatenate([piece.order for piece in pieces])
    index = np.concatenate([piece.index for piece in pieces])
    by = np.argsort(order, kind="stable")
    return Piece(pieces[0].value, order[by], index[by], pieces[0].squash)


def _step(piece: Piece, squashes: bool) -> list[Piece] | None:
    """One node further back; None where numbers are computed."""
    node = piece.value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return None
    if node.op_type in ("Sigmoid", "Softmax"):
        if not squashes or piece.squash:
            return None
        return [Piece(node.inputs[0], piece.order, piece.index, node.op_type)]
    move = MOVES.get(node.op_type)
    shapes = [per_picture(v) for v in (piece.value, *(v for v in node.inputs if v is not None and v.dtype in FLOATS))]
    if move is None or any(shape is None for shape in shapes) or not _same_batch(node, piece.value):
        return None
    found = move(node, piece.value, piece.index)
    if found is None:
        return None
    return [Piece(source, piece.order[mask], index, piece.squash) for source, mask, index in found]


def _same_batch(node: ir.Node, value: ir.Value) -> bool:
    first: list[Dimension] = [shape_of(v)[0] for v in (value, *(v for v in node.inputs if v is not None and v.dtype in FLOATS))]
    return all(d == first[0] for d in first)


Found = list[tuple[ir.Value, NDArray[np.bool_], Index]]
Move = Callable[[ir.Node, ir.Value, Index], "Found | None"]
"""(node, output, elements of it) → (input, which of the elements, where in the input)."""


def _source(node: ir.Node) -> tuple[ir.Value, tuple[int, ...]]:
    source = node.inputs[0]
    assert source is not None
    shape = per_picture(source)
    assert shape is not None
    return source, shape


def _all(source: ir.Value, index: Index) -> Found:
    return [(source, np.ones(index.size, bool), index)]


def _same(node: ir.Node, value: ir.Value, index: Index) -> Found | None:
    source, _ = _source(node)
    return _all(source, index) if source.dtype in FLOATS else None


def _transpose(node: ir.Node, value: ir.Value, index: Index) -> Found | None:
    source, shape = _source(node)
    order = _ints(node, "perm") or list(range(len(shape), -1, -1))
    if order[0] != 0:
        return None
    places = np.unravel_index(index, per_picture(value) or ())
    before = [places[0]] * len(shape)
    for place, axis in zip(places, order[1:], strict=True):
        before[axis - 1] = place
    return _all(source, np.ravel_multi_index(before, shape).astype(np.int64))


def _concat(node: ir.Node, value: ir.Value, index: Index) -> Found | None:
    shape = per_picture(value) or ()
    axis = _axis(node, len(shape) + 1, 0)
    if len(node.inputs) == 1:
        return _same(node, value, index)
    if axis == 0:
        return None
    places = list(np.unravel_index(index, shape))
    at, start, found = places[axis - 1], 0, []
    for source in node.inputs:
        assert source is not None
        inner = per_picture(source) or ()
        mask = (at >= start) & (at < start + inner[axis - 1])
        own = [place[mask] for place in places]
        own[axis - 1] = own[axis - 1] - start
        found.append((source, mask, np.ravel_multi_index(own, inner).astype(np.int64)))
        start += inner[axis - 1]
    return found


def _split(node: ir.Node, value: ir.Value, index: Index) -> Found | None:
    source, shape = _source(node)
    axis = _axis(node, len(shape) + 1, 0)
    start = 0
    for output in node.outputs:
        if output is value:
            break
        inner = per_picture(output)
        if axis == 0 or inner is None:
            return None
        start += inner[axis - 1]
    return None if axis == 0 else _picked(source, shape, value, index, axis, lambda place: place + start)


def _slice(node: ir.Node, value: ir.Value, index: Index) -> Found | None:
    source, shape = _source(node)
    given = [array_of(v) for v in node.inputs[1:]]
    if any(array is None for array in given):
        return None
    starts, ends, *rest = ([int(i) for i in array.ravel()] for array in given if array is not None)
    axes = [a % (len(shape) + 1) for a in rest[0]] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    if 0 in axes:
        return None
    places = list(np.unravel_index(index, per_picture(value) or ()))
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first, _, stride = slice(start, None if end <= -(2**31) else end, step).indices(shape[axis - 1])
        places[axis - 1] = first + places[axis - 1] * stride
    return _all(source, np.ravel_multi_index(places, shape).astype(np.int64))


def _gather(node: ir.Node, value: ir.Value, index: Index) -> Found | None:
    source, shape = _source(node)
    chosen, axis = array_of(node.inputs[1]), _axis(node, len(shape) + 1, 0)
    if chosen is None or axis == 0 or chosen.ndim > 1:
        return None
    chosen = np.where(chosen < 0, chosen + shape[axis - 1], chosen)
    places = list(np.unravel_index(index, per_picture(value) or ())) if chosen.ndim else list(np.unravel_index(index, _kept(shape, axis)))
    if chosen.ndim:
        places[axis - 1] = chosen[places[axis - 1]]
    else:
        places.insert(axis - 1, np.full(index.size, int(chosen)))
    return _all(source, np.ravel_multi_index(places, shape).astype(np.int64))


def _kept(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[: axis - 1] + shape[axis:]


def _picked(source: ir.Value, shape: tuple[int, ...], value: ir.Value, index: Index, axis: int, move: Callable[[Any], Any]) -> Found:
    places = list(np.unravel_index(index, per_picture(value) or ()))
    places[axis - 1] = move(places[axis - 1])
    return _all(source, np.ravel_multi_index(places, shape).astype(np.int64))


def _axis(node: ir.Node, rank: int, default: int) -> int:
    found = node.attributes.get("axis")
    return (default if found is None else found.as_int()) % rank


def _ints(node: ir.Node, name: str) -> list[int]:
    found = node.attributes.get(name)
    return [] if found is None else list(found.as_ints())


MOVES: dict[str, Move] = {
    **dict.fromkeys(("Identity", "Cast", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze"), _same),
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
}
