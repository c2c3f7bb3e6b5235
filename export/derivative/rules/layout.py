"""Operators that move, repeat, cut or join numbers without changing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.derivative.axes import along, inserted, moved, regrouped, removed, sent_back
from dkcam.export.derivative.cotangent import Cotangent, spread, unbroadcast
from dkcam.export.derivative.rule import Step, rule, single
from dkcam.export.writer import Dimension, Writer, rank_of, shape_of

FAR = 2**31 - 1  # as the end of a slice: all that there is


@single("Transpose")
def transpose(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    order = step.attribute("perm", list(range(step.rank))[::-1])
    return moved(writer, cotangent, [int(axis) for axis in np.argsort(order)])


@single("Reshape", "Flatten")
def reshape(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """What 0 and −1 mean is in the shape of the output."""
    return regrouped(writer, cotangent, step.x, step.y)


def _named_axes(step: Step, rank: int) -> list[int]:
    """``axes``, input or attribute; [] where there are none."""
    if step.has(1):
        numbers = step.constant(1)
        if numbers is None:
            raise step.refuse("its axes are computed")
        return [int(axis) % rank for axis in numbers.reshape(-1)]
    return [axis % rank for axis in step.attribute("axes", list[int]())]


@single("Squeeze")
def squeeze(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    axes = _named_axes(step, step.rank) or [axis for axis, size in enumerate(shape_of(step.x)) if size == 1]
    return inserted(writer, cotangent, axes, step.rank)


@single("Unsqueeze")
def unsqueeze(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    rank = rank_of(step.y)
    return removed(writer, cotangent, _named_axes(step, rank), rank)


@single("Expand")
def expand(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    return unbroadcast(writer, cotangent, step.y, step.x)


@single("Tile")
def tile(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    repeats = step.constant(1)
    if repeats is None:
        raise step.refuse("its repeats are computed")
    for axis, times in enumerate(repeats.tolist()):
        if times != 1:
            cotangent = _untiled(writer, step, cotangent, axis, times)
    return cotangent


def _untiled(writer: Writer, step: Step, cotangent: Cotangent, axis: int, times: int) -> Cotangent:
    size = shape_of(step.x)[axis]
    if not isinstance(size, int):
        raise step.refuse("it repeats a free dimension")

    def summed(value: ir.Value, at: int) -> ir.Value:
        apart = writer.reshape(value, writer.dims(value, 0, at), [times, size], writer.dims(value, at + 1))
        return writer.sum(apart, at, keep=False)

    return along(writer, cotangent, axis, step.y, summed, np.full(size, float(times)))


# joined and cut


def cut(writer: Writer, value: ir.Value, axis: int, start: int, end: int, size: Dimension) -> ir.Value:
    """value[start:end] along one axis, of a size that may be free."""
    if start == 0 and end == FAR:
        return value
    result = writer.slice(value, axis, start, end)
    if result is not value:
        shape = shape_of(value)
        shape[axis] = size
        result.shape = ir.Shape(shape)
    return result


@rule("Concat")
def concat(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    (cotangent,) = cotangents
    assert cotangent is not None
    axis = step.attribute("axis", 0) % step.rank
    sizes = [shape_of(step.input(index))[axis] for index in range(len(step.active))]
    result = {}
    for index, active in enumerate(step.active):
        if active:
            start, end = _bounds(step, sizes, index)
            size = sizes[index]

            def part(value: ir.Value, at: int, start: int = start, end: int = end, size: Dimension = size) -> ir.Value:
                return cut(writer, value, at, start, end, size)

            result[index] = along(writer, cotangent, axis, step.y, part, np.ones(size if isinstance(size, int) else 1))
    return result


def _bounds(step: Step, sizes: Sequence[Dimension], index: int) -> tuple[int, int]:
    """Where a part begins and ends: counted from the front where what lies before has known sizes, else from the back."""
    before = [size for size in sizes[:index] if isinstance(size, int)]
    after = [size for size in sizes[index + 1 :] if isinstance(size, int)]
    size = sizes[index]
    front, back = len(before) == index, len(after) == len(sizes) - index - 1
    if front and isinstance(size, int):
        return sum(before), sum(before) + size
    if back and isinstance(size, int):
        return -sum(after) - size, -sum(after) or FAR
    if front and back:
        return sum(before), -sum(after) or FAR
    raise step.refuse("it joins more than one free dimension")


@rule("Split")
def split(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """The parts joined, with zeros for those that no gradient came from: as pads of the parts beside them."""
    axis = step.attribute("axis", 0) % step.rank
    outputs = [step.output(index) for index in range(len(step.node.outputs))]
    sizes = []
    for output in outputs:
        size = shape_of(output)[axis]
        if not isinstance(size, int):
            raise step.refuse("it splits a free dimension")
        sizes.append(size)
    used = [index for index, one in enumerate(cotangents) if one is not None]
    if len(used) == 1:
        (index,), start = used, sum(sizes[: used[0]])
        one = cotangents[index]
        assert one is not None
        return {0: sent_back(writer, one, axis, outputs[index], np.arange(start, start + sizes[index]), sum(sizes))}
    wholes = {index: one.whole(writer) for index, one in enumerate(cotangents) if one is not None}
    together = [max((shape_of(whole)[a + 1] for whole in wholes.values()), key=lambda size: size != 1) for a in range(step.rank)]
    parts = []
    for index, whole in wholes.items():
        for a, size in enumerate(together):
            if a == axis or size != 1:
                whole = spread(writer, whole, a, shape_of(outputs[index])[a], outputs[index])
        following = next((other for other in used if other > index), len(sizes))
        whole = writer.pad(whole, axis + 1, sum(sizes[:index]) if index == used[0] else 0, sum(sizes[index + 1 : following]))
        parts.append(whole)
    return {0: Cotangent(writer.op("Concat", *parts, axis=axis + 1))}


@single("Slice")
def slice_(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    given = [step.constant(index) for index in range(1, 5)]
    if any(numbers is None and step.has(index + 1) for index, numbers in enumerate(given)):
        raise step.refuse("its bounds are computed")
    starts, ends = (np.asarray(numbers).tolist() for numbers in given[:2])
    axes = list(range(len(starts))) if given[2] is None else given[2].tolist()
    steps = [1] * len(starts) if given[3] is None else given[3].tolist()
    for start, end, axis, stride in zip(starts, ends, axes, steps, strict=True):
        cotangent = _unsliced(writer, step, cotangent, axis % step.rank, slice(start, end, stride))
    return cotangent


def _unsliced(writer: Writer, step: Step, cotangent: Cotangent, axis: int, bounds: slice) -> Cotangent:
    """Zeros where nothing was taken."""
    size = shape_of(step.x)[axis]
    if isinstance(size, int):
        taken = np.arange(size)[bounds]
        return cotangent if len(taken) == size and bounds.step == 1 else sent_back(writer, cotangent, axis, step.y, taken, size)
    before, after = bounds.start, 0 if bounds.stop >= FAR else -bounds.stop
    if bounds.step != 1 or before < 0 or not (after > 0 or bounds.stop >= FAR):
        raise step.refuse("of a free dimension it takes a part that is not counted from both ends")

    def padded(value: ir.Value, at: int) -> ir.Value:
        result = writer.pad(value, at, before, after)
        shape = shape_of(value)
        shape[at] = size
        result.shape = ir.Shape(shape)
        return result

    return cotangent if before == after == 0 else along(writer, cotangent, axis, step.y, padded)


@single("Pad")
def pad(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """What was added is sent back to where it was copied from, or nowhere; what a negative pad cut off gets zeros."""
    pads, axes = step.constant(1), list(range(step.rank))
    if step.has(3):
        named = step.constant(3)
        axes = [] if named is None else [int(axis) % step.rank for axis in named.reshape(-1)]
    if pads is None or (step.has(3) and step.constant(3) is None):
        raise step.refuse("its pads are computed")
    for index, axis in enumerate(axes):
        before, after = int(pads[index]), int(pads[index + len(axes)])
        if before or after:
            cotangent = _unpadded(writer, step, cotangent, axis, before, after)
    return cotangent


def _unpadded(writer: Writer, step: Step, cotangent: Cotangent, axis: int, before: int, after: int) -> Cotangent:
    size, mode = shape_of(step.x)[axis], step.attribute("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise step.refuse(f"mode {mode!r}")
    if mode != "constant" and min(before, after) < 0:
        raise step.refuse(f"mode {mode!r} with pads below 0, which runtimes read in more than one way")
    if isinstance(size, int):
        if mode in ("reflect", "wrap") and max(before, after) > size - (mode == "reflect"):
            raise step.refuse(f"mode {mode!r} with pads {before} and {after} of {size}, which runtimes read in more than one way")
        return sent_back(writer, cotangent, axis, step.y, padded_from(size, before, after, mode), size)
    if mode != "constant":
        raise step.refuse(f"mode {mode!r} of a free dimension")

    def cropped(value: ir.Value, at: int) -> ir.Value:
        missing = max(-before, 0) + max(-after, 0)  # under no name of another size: runtimes trust names when they share memory
        short = f"{size}-{missing}" if missing else size
        result = cut(writer, value, at, max(before, 0), -after if after > 0 else FAR, short)
        result = writer.pad(result, at, max(-before, 0), max(-after, 0))
        shape = shape_of(value)
        shape[at] = size
        result.shape = ir.Shape(shape)
        return result

    return along(writer, cotangent, axis, step.y, cropped, np.ones(1) if before >= 0 and after >= 0 else None)


def padded_from(size: int, before: int, after: int, mode: str) -> NDArray[np.int64]:
    """Which number of the input each of the output came from, −1 for the constant. Negative pads cut, of mode constant alone."""
    kept = np.arange(size)[max(-before, 0) : size - max(-after, 0)]
    widths = max(before, 0), max(after, 0)
    if mode == "constant":
        return np.pad(kept, widths, constant_values=-1)
    return np.pad(kept, widths, mode=mode)  # type: ignore[call-overload, no-any-return]


# along an axis


@single("Trilu")
def trilu(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """Zeros where the output has them."""
    rows, columns = shape_of(step.x)[-2:]
    shift = step.constant(1) if step.has(1) else np.zeros((), np.int64)
    if not isinstance(rows, int) or not isinstance(columns, int) or shift is None:
        raise step.refuse("its diagonal is computed" if shift is None else "of a free size")
    ones = np.ones((rows, columns), np.float32)
    k = int(shift.reshape(()))
    return cotangent.times(writer, writer.constant(np.triu(ones, k) if step.attribute("upper", 1) else np.tril(ones, k)))


@single("CumSum")
def cumsum(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """Sums from the other end."""
    axis = step.constant(1)
    if axis is None:
        raise step.refuse("its axis is computed")
    exclusive, reverse = step.attribute("exclusive", 0), step.attribute("reverse", 0)

    def summed(value: ir.Value, at: int) -> ir.Value:
        return writer.op("CumSum", value, writer.constant(at, np.int64), exclusive=exclusive, reverse=1 - reverse)

    return along(writer, cotangent, int(axis.reshape(())) % step.rank, step.y, summed)
