"""Operators that pick numbers by their place, or put some in a place.

The obvious way back, ScatterElements with a sum, is what TensorRT refuses. Constant indices become slices, pads and inverse
gathers; computed ones a product with a one-hot matrix: Equal(indices, 0 … size − 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.axes import inserted, product_along, regrouped, sent_back
from dkcam.export.derivative.cotangent import Cotangent, spread
from dkcam.export.derivative.rule import Step, rule, single
from dkcam.export.derivative.rules.pointwise import where
from dkcam.export.writer import Dimension, Writer, array_of, rank_of, shape_of

LARGEST = 1 << 25  # numbers of a one-hot matrix: 128 MB


def known(step: Step, size: Dimension) -> int:
    if not isinstance(size, int):
        raise step.refuse(f"it picks from a free dimension {size}")
    return size


def one_hot(writer: Writer, step: Step, index: ir.Value, size: int) -> ir.Value:
    """int64 [*] → float32 [*, size], 1 at the place of each index; negative ones count from the end."""
    count = math.prod(d for d in shape_of(index) if isinstance(d, int)) * size
    if count > LARGEST:
        raise step.refuse(f"its indices are computed, and {count} comparisons would not fit into memory")
    last = writer.unsqueeze(index, rank_of(index))
    here = writer.op("Equal", last, writer.constant(np.arange(size), array_type(index)))
    behind = writer.op("Equal", last, writer.constant(np.arange(-size, 0), array_type(index)))
    return where(writer, writer.op("Or", here, behind))


def array_type(index: ir.Value) -> type[np.signedinteger]:
    return np.int32 if index.dtype == ir.DataType.INT32 else np.int64


@single("Gather")
def gather(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """From x [*pre, size, *post] by indices [*i]: y [*pre, *i, *post]."""
    axis, index = step.attribute("axis", 0) % step.rank, step.input(1)
    size, numbers, picked = known(step, shape_of(step.x)[axis]), step.constant(1), rank_of(index)
    y, sizes = step.y, shape_of(index)
    if picked == 0:
        y, cotangent = writer.unsqueeze(y, axis), inserted(writer, cotangent, [axis], step.rank)
        index = writer.unsqueeze(index, 0)
    elif picked > 1:  # one axis of all indices
        count = math.prod(known(step, d) for d in sizes)
        flat = writer.reshape(y, writer.dims(y, 0, axis), count, writer.dims(y, axis + picked))
        y, cotangent = flat, regrouped(writer, cotangent, flat, y)
        index = writer.reshape(index, -1)
    if numbers is not None:
        return sent_back(writer, cotangent, axis, y, numbers.reshape(-1) % size, size)
    return by_product(writer, cotangent, axis, y, one_hot(writer, step, index, size))


def by_product(writer: Writer, cotangent: Cotangent, axis: int, like: ir.Value, hot: ir.Value) -> Cotangent:
    """The cotangent of ``like`` along one axis times a one-hot matrix [n, size], or [pre, n, size] for each place before the axis."""
    whole = cotangent.whole(writer)
    return Cotangent(product_along(writer, spread(writer, whole, axis, shape_of(like)[axis], like), axis + 1, hot))


@single("GatherElements")
def gather_elements(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """y[…, i, …] = x[…, index[…, i, …], …] along one axis. Indices that were repeated along the others are one matrix."""
    axis = step.attribute("axis", 0) % step.rank
    size = known(step, shape_of(step.x)[axis])
    cotangent = picked_elements(writer, step, cotangent, axis, step.input(1), step.y, size)
    return grown(writer, step, cotangent, axis, step.y)


def picked_elements(writer: Writer, step: Step, cotangent: Cotangent, axis: int, index: ir.Value, like: ir.Value, size: int) -> Cotangent:
    """The cotangent of ``like``, picked along one axis by an index of its own shape, sent back to where it came from."""
    numbers, rank = array_of(index), rank_of(like)
    if numbers is not None:
        numbers = numbers % size
        rows = np.moveaxis(numbers, axis, -1).reshape(-1, numbers.shape[axis])
        if (rows == rows[:1]).all():
            return sent_back(writer, cotangent, axis, like, rows[0], size)
    index = unrepeated(index, axis)
    even = [a for a, d in enumerate(shape_of(index)) if d == 1 and a != axis]
    after = [a for a in range(axis + 1, rank) if a not in even]
    if not after:
        hot = writer.squeeze(index, *range(axis + 1, rank)) if axis + 1 < rank else index
        before = [a for a in range(axis) if a not in even]
        hot = one_hot(writer, step, hot if before else writer.squeeze(hot, *range(axis)), size)
        return by_product(writer, cotangent, axis, like, hot)
    # compared number by number: […, size, n, …], summed over n
    whole = spread(writer, cotangent.whole(writer), axis, shape_of(like)[axis], like)
    count = math.prod(d for d in shape_of(like) if isinstance(d, int)) * size
    if count > LARGEST:
        raise step.refuse(f"its indices are computed, and {count} comparisons would not fit into memory")
    hot = one_hot(writer, step, index, size)  # [*pre, n, *post, size]
    hot = writer.transpose(hot, *range(axis), rank, *range(axis, rank))  # [*pre, size, n, *post]
    return Cotangent(writer.sum(writer.mul(writer.unsqueeze(whole, axis + 1), hot), axis + 2, keep=False))


def unrepeated(index: ir.Value, axis: int) -> ir.Value:
    """Indices before they were repeated along axes beside ``axis``, by Expand or Tile of axes of 1; themselves where they were not."""
    node = index.producer()
    if node is None or node.op_type not in ("Expand", "Tile"):
        return index
    source = node.inputs[0]
    assert source is not None
    have, want = shape_of(source), shape_of(index)
    repeated = len(have) == len(want) and have[axis] == want[axis] and all(a in (1, b) for a, b in zip(have, want, strict=True))
    return source if repeated else index


def grown(writer: Writer, step: Step, cotangent: Cotangent, axis: int, index: ir.Value) -> Cotangent:
    """Zeros where an index is shorter than x on the axes beside the one it picks from."""
    for a, (have, want) in enumerate(zip(shape_of(index), shape_of(step.x), strict=True)):
        if a != axis and have != want:
            cotangent = sent_back(writer, cotangent, a, index, np.arange(known(step, have)), known(step, want))
    return cotangent


# indices of several axes at once


def flat_index(writer: Writer, index: ir.Value, sizes: Sequence[int]) -> ir.Value:
    """[*, n] → [*]: places in the product of n axes."""
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    numbers = array_of(index)
    if numbers is not None:
        return writer.constant((numbers % np.array(sizes)) @ np.array(strides), np.int64)
    ahead = writer.op("Where", writer.op("Less", index, writer.ints(0)), writer.ints(*sizes), writer.ints(0))
    return writer.sum(writer.mul(writer.add(index, ahead), writer.ints(*strides)), -1, keep=False)


@single("GatherND")
def gather_nd(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """From x [*batch, *sizes, *rest] by indices [*batch, *i, n]: y [*batch, *i, *rest]; x and y as [*batch, one axis, *rest]."""
    batch, index = step.attribute("batch_dims", 0), step.input(1)
    picked = shape_of(index)[-1]
    assert isinstance(picked, int)
    sizes = [known(step, d) for d in shape_of(step.x)[batch : batch + picked]]
    places = [known(step, d) for d in shape_of(index)[batch:-1]]
    total, count = math.prod(sizes), math.prod(places)
    x = writer.reshape(step.x, writer.dims(step.x, 0, batch), total, writer.dims(step.x, batch + picked))
    y = writer.reshape(step.y, writer.dims(step.y, 0, batch), count, writer.dims(step.y, batch + len(places)))
    cotangent = regrouped(writer, cotangent, y, step.y) if len(places) else inserted(writer, cotangent, [batch], rank_of(y))
    flat = flat_index(writer, index, sizes)
    flat = writer.reshape(flat, writer.dims(flat, 0, batch), count)
    numbers = array_of(flat)
    if numbers is not None and (numbers.reshape(-1, count) == numbers.reshape(-1, count)[:1]).all():
        cotangent = sent_back(writer, cotangent, batch, y, numbers.reshape(-1, count)[0], total)
    else:
        cotangent = by_product(writer, cotangent, batch, y, one_hot(writer, step, flat, total))
    return regrouped(writer, cotangent, step.x, x)


@single("TopK")
def top_k(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """The values go back to where the indices say they came from."""
    axis = step.attribute("axis", -1) % step.rank
    size = known(step, shape_of(step.x)[axis])
    return picked_elements(writer, step, cotangent, axis, step.output(1), step.y, size)


# numbers put in a place


def _replaces(step: Step) -> bool:
    """Whether what is put replaces what was there; False where it is added. Errors: anything else."""
    how = step.attribute("reduction", "none")
    if how not in ("none", "add"):
        raise step.refuse(f"reduction {how!r}")
    return how == "none"


@rule("ScatterND")
def scatter_nd(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """Into data [*sizes, *rest] at indices [*i, n] updates [*i, *rest] are put."""
    (cotangent,) = cotangents
    assert cotangent is not None
    data, index, replaces = step.x, step.input(1), _replaces(step)
    picked = shape_of(index)[-1]
    assert isinstance(picked, int)
    sizes = [known(step, d) for d in shape_of(data)[:picked]]
    places = [known(step, d) for d in shape_of(index)[:-1]]
    flat = writer.reshape(flat_index(writer, index, sizes), math.prod(places))
    result = {}
    if step.active[0]:
        free = _untouched(writer, step, flat, math.prod(sizes)) if replaces else None
        if free is not None:
            free = writer.reshape(free, sizes, [1] * (step.rank - picked))
        result[0] = cotangent.times(writer, free)
    if step.active[2]:
        whole = cotangent.whole(writer)
        for axis, size in enumerate(sizes):
            whole = spread(writer, whole, axis, size, data)
        rest = writer.dims(whole, 1 + picked)
        taken = writer.op("Gather", writer.reshape(whole, -1, math.prod(sizes), rest), flat, axis=1)
        result[2] = Cotangent(writer.reshape(taken, -1, places, rest))
    return result


def _untouched(writer: Writer, step: Step, index: ir.Value, size: int) -> ir.Value:
    """int64 [n] → float32 [size], 1 where nothing was put. A constant index must name a place once."""
    numbers = array_of(index)
    if numbers is not None:
        if len(set(numbers.tolist())) < len(numbers):
            raise step.refuse("it puts two numbers in one place")
        return writer.constant(~np.isin(np.arange(size), numbers), np.float32)
    put = writer.sum(one_hot(writer, step, index, size), 0, keep=False)
    return where(writer, writer.op("Equal", put, writer.number(0)))


@rule("ScatterElements")
def scatter_elements(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """data[…, index[…, i, …], …] = updates[…, i, …] along one axis."""
    (cotangent,) = cotangents
    assert cotangent is not None
    axis, index, replaces = step.attribute("axis", 0) % step.rank, step.input(1), _replaces(step)
    size = known(step, shape_of(step.x)[axis])
    result = {}
    if step.active[0]:
        result[0] = cotangent
        if replaces:
            result[0] = cotangent.times(writer, _untouched_elements(writer, step, axis, index, size))
    if step.active[2]:
        whole = cotangent.whole(writer)
        for a in range(step.rank):
            whole = spread(writer, whole, a, shape_of(step.x)[a], step.x)
        repeated = writer.expand(writer.unsqueeze(index, 0), writer.dims(whole, 0, 1), writer.dims(index))
        result[2] = Cotangent(writer.op("GatherElements", whole, repeated, axis=axis + 1))
    return result


def _untouched_elements(writer: Writer, step: Step, axis: int, index: ir.Value, size: int) -> ir.Value:
    """float32 of the shape of the data, 1 where nothing was put."""
    numbers = array_of(index)
    if numbers is not None:
        put = np.zeros([known(step, d) for d in shape_of(step.x)])
        at = np.indices(numbers.shape)
        at[axis] = numbers % size
        np.add.at(put, tuple(at), 1)
        if put.max(initial=0) > 1:
            raise step.refuse("it puts two numbers in one place")
        return writer.constant(put == 0, np.float32)
    ones = where(writer, writer.op("Equal", index, index))
    put_there = picked_elements(writer, step, Cotangent(writer.unsqueeze(ones, 0)), axis, index, index, size)
    times = writer.squeeze(grown(writer, step, put_there, axis, index).whole(writer), 0)
    return where(writer, writer.op("Equal", times, writer.number(0)))
