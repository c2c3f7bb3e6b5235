"""Maxima over windows, and over all of space.

The gradient goes to the first of equals in reading order, as in torch; that of a global maximum is shared among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent, spread
from dkcam.export.derivative.rule import Step, pointwise, single
from dkcam.export.derivative.space import FAR, Windows, along_space, pooled, product, replaced, shaped, times
from dkcam.export.writer import Writer, shape_of

LOWEST = float(np.finfo(np.float32).min)


@single("MaxPool")
def maximum(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """One axis after the other, the last first: the maxima of rows, then those of columns of them. 2k comparisons in place of k·k."""
    windows = pooled(step)
    axes = [axis for axis in reversed(range(len(windows.kernel))) if not windows.is_point(axis)]
    values = [step.x]
    for axis in axes[:-1]:
        values.append(_maxima(writer, values[-1], step.y, windows, axis))
    values.append(step.y)

    def pull(whole: ir.Value) -> ir.Value:
        for number in reversed(range(len(axes))):
            before, after = values[number], values[number + 1]
            whole = _to_the_first_largest(writer, whole, before, after, windows, axes[number])
            shaped(whole, [shape_of(whole)[0], *(1 if a == 1 else b for a, b in zip(shape_of(whole)[1:], shape_of(before), strict=True))])
        return whole

    return along_space(writer, cotangent, pull) if axes else cotangent


def _maxima(writer: Writer, value: ir.Value, out: ir.Value, windows: Windows, axis: int) -> ir.Value:
    """Maxima along one axis of space, of the size that ``out`` has there."""
    one = windows.only(axis)
    found = writer.op(
        "MaxPool",
        value,
        kernel_shape=one.kernel,
        strides=one.strides,
        dilations=one.dilations,
        pads=one.pads,
        ceil_mode=int(one.ceil),
    )
    return shaped(found, replaced(shape_of(value), axis + 2, shape_of(out)[axis + 2]))


def _to_the_first_largest(writer: Writer, whole: ir.Value, before: ir.Value, after: ir.Value, windows: Windows, axis: int) -> ir.Value:
    """[n, *lazy after] → [n, *before], where ``after`` are the maxima of ``before`` along an axis of space."""
    at, kernel, stride, dilation = axis + 2, windows.kernel[axis], windows.strides[axis], windows.dilations[axis]
    reach, sizes = windows.reach[axis], shape_of(after)
    if kernel == 1:
        pieces = [(0, spread(writer, whole, at, sizes[at], after))]
        return _laid_out(writer, pieces, before, after, windows, axis)
    size, count = shape_of(before)[at], sizes[at]
    end = windows.ends[axis] + (stride - 1 if windows.ceil else 0)
    if isinstance(size, int) and isinstance(count, int):
        end = max((count - 1) * stride + reach - windows.begins[axis] - size, 0)
    padded = writer.pad(before, at, windows.begins[axis], end, LOWEST)
    if padded is not before and isinstance(size, str):
        shaped(padded, replaced(shape_of(before), at, f"{size} padded"))
    best, reached = None, []
    for offset in range(0, reach - 1, dilation):  # the last element of a window is the first largest where none before it is
        corner = writer.slice(padded, at, offset, offset - reach + 1, stride)
        shaped(corner, sizes)
        best = corner if best is None else writer.op("Max", best, corner)
        reached.append(writer.float32(writer.op("Equal", best, after)))
    first = [reached[0], *(writer.sub(b, a) for a, b in pairwise(reached)), writer.sub(writer.number(1.0), reached[-1])]
    pieces = [(number * dilation, writer.mul(whole, mask)) for number, mask in enumerate(first)]
    return _laid_out(writer, pieces, before, after, windows, axis)


def _laid_out(
    writer: Writer, pieces: Sequence[tuple[int, ir.Value]], before: ir.Value, after: ir.Value, windows: Windows, axis: int
) -> ir.Value:
    """The sum of pieces (offset, value [n, *after]), where element i goes to i · stride + offset − begin: no scatter.

    For each remainder by the stride the pieces that go there are added; the remainders are then woven together.
    """
    at, stride, begin = axis + 3, windows.strides[axis], windows.begins[axis]
    size, count = shape_of(before)[at - 1], shape_of(after)[at - 1]
    if isinstance(size, int) and isinstance(count, int):
        longer = -(-size // stride) - count
    elif times(size, count) == stride:
        longer = 0
    else:  # enough for every size; what is too much is cut off
        end = windows.ends[axis] + (stride - 1 if windows.ceil else 0)
        longer = -(-(windows.reach[axis] - 1 - begin - end) // stride)
    rows: list[ir.Value | None] = [None] * stride
    for offset, value in pieces:
        shift, row = divmod(offset - begin, stride)
        drop, cut = max(-shift, 0), max(shift - longer, 0)
        if isinstance(count, int) and drop + cut >= count:
            continue
        wanted = replaced(shape_of(value), at, count + longer if isinstance(count, int) else f"{count}{longer:+d}" if longer else count)
        if drop or cut:
            value = writer.slice(value, at, drop, -cut or FAR)
            if isinstance(count, str):
                shaped(value, replaced(wanted, at, f"{count}{-drop - cut:+d}"))
        value = shaped(writer.pad(value, at, max(shift, 0), max(longer - shift, 0)), wanted)
        present = rows[row]
        rows[row] = value if present is None else writer.add(present, value)
    some = next(row for row in rows if row is not None)
    if stride == 1:
        return shaped(some, replaced(shape_of(some), at, size))
    empty = None
    if None in rows:
        empty = shaped(writer.expand(writer.number(0.0), writer.dims(some)), shape_of(some))
    return _woven(writer, [row or empty or some for row in rows], at, before)


def _woven(writer: Writer, rows: Sequence[ir.Value], at: int, like: ir.Value) -> ir.Value:
    """Values [n, …, m, …] → [n, …, m · len(rows), …], one of each in turn, cut to the size of ``like`` along the axis."""
    sizes, size, stride = shape_of(rows[0]), shape_of(like)[at - 1], len(rows)
    last = at == len(sizes) - 1
    joined = writer.op("Concat", *(writer.unsqueeze(row, at + 1) if last else row for row in rows), axis=at + 1)
    shaped(joined, [*sizes, stride] if last else replaced(sizes, at + 1, product(sizes[at + 1], stride)))
    wanted = replaced(sizes, at, product(sizes[at], stride))
    known = [one for one in wanted[1:] if isinstance(one, int)]
    if len(known) == len(wanted) - 1:
        joined = writer.reshape(joined, -1, known)
    else:
        joined = writer.reshape(joined, writer.dims(rows[0], 0, at), -1, *([] if last else [writer.dims(rows[0], at + 1)]))
    shaped(joined, wanted)
    if size == wanted[at]:
        return joined
    if isinstance(size, int):
        return writer.slice(joined, at, 0, size)
    cut = writer.op("Slice", joined, writer.ints(0), writer.dims(like, at - 1, at), writer.ints(at))
    return shaped(cut, replaced(wanted, at, size))


@pointwise("GlobalMaxPool")
def global_maximum(writer: Writer, step: Step) -> ir.Value:
    """Shared evenly among the largest."""
    largest = writer.float32(writer.op("Equal", step.x, step.y))
    return writer.div(largest, writer.sum(largest, *range(2, step.rank)))
