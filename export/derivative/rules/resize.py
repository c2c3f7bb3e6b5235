"""Resizing, and moving between depth and space.

A resize is linear in its input and works on each axis by itself: along an axis it is a matrix. Where each element is repeated a
whole number of times none is needed: blocks are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.resize_matrix import COORDINATES, KINDS, ROUNDINGS, Line, Mode, matrix, nearest
from dkcam.export.derivative.rule import Step, single
from dkcam.export.derivative.space import folded, product, replaced, shaped, times, unfolded
from dkcam.export.writer import Array, Dimension, Writer, rank_of, shape_of

HALVES = frozenset({"half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"})


@single("DepthToSpace")
def depth_to_space(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    whole, block, (_, channels, *space) = cotangent.whole(writer), step.attribute("blocksize", 1), shape_of(step.x)
    value = folded(writer, whole, step.y)
    many = shape_of(value)[0]
    if step.attribute("mode", "DCR") == "DCR":
        value = writer.op("SpaceToDepth", value, blocksize=block)
    else:
        rows, columns = writer.dims(step.x, 2, 3), writer.dims(step.x, 3, 4)
        value = writer.reshape(value, -1, writer.dims(step.y, 1, 2), rows, [block], columns, [block])
        value = writer.transpose(shaped(value, [many, shape_of(step.y)[1], space[0], block, space[1], block]), 0, 1, 3, 5, 2, 4)
        value = writer.reshape(value, -1, writer.dims(step.x, 1))
    return Cotangent(unfolded(writer, shaped(value, [many, channels, *space]), whole))


@single("SpaceToDepth")
def space_to_depth(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    whole = cotangent.whole(writer)
    value = folded(writer, whole, step.y)
    back = writer.op("DepthToSpace", value, blocksize=step.attribute("blocksize", 1), mode="DCR")
    return Cotangent(unfolded(writer, shaped(back, [shape_of(value)[0], *shape_of(step.x)[1:]]), whole))


@dataclass(frozen=True)
class Axis:
    """One axis that a Resize changes. line: None where its size is free."""

    number: int
    scale: float
    line: Line | None


@single("Resize")
def resize(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """A gradient that is even along an axis stays so, or becomes a factor of d: how much each element is used."""
    mode = _mode(step)
    axes, rank = _resized(step, mode), step.rank
    repeats = {axis.number: often for axis in axes if (often := _repeats(mode, axis))}
    if repeats and rank - min(repeats) <= 3:  # what poolings have axes for
        cotangent, on_g, on_d = _carried(writer, cotangent, sorted(repeats))
        g, d = cotangent.g, cotangent.d
        if on_g:
            g = _block_means(writer, g, {number + 1: repeats[number] for number in on_g}, step)
        if on_d and d is not None:
            lead = rank - rank_of(d)
            d = _block_means(writer, d, {number - lead: repeats[number] for number in on_d}, step)
        cotangent = Cotangent(g, d).times(writer, writer.number(math.prod(repeats.values())))
        axes = [axis for axis in axes if axis.number not in repeats]
    for axis in reversed(axes):
        if axis.line is None:
            raise step.refuse(f"{mode.kind} along axis {axis.number}, whose size is free: its weights depend on that; fix the size")
        if mode.kind == "nearest" and mode.coordinates == "half_pixel_symmetric":
            raise step.refuse("nearest neighbours by half_pixel_symmetric: runtimes round them in other ways")
        cotangent = _multiplied(writer, cotangent, axis.number, matrix(mode, axis.line), step)
    return cotangent


def _mode(step: Step) -> Mode:
    found = Mode(
        step.attribute("mode", "nearest"),
        step.attribute("coordinate_transformation_mode", "half_pixel"),
        step.attribute("nearest_mode", "round_prefer_floor"),
        step.attribute("cubic_coeff_a", -0.75),
        bool(step.attribute("exclude_outside", 0)),
        bool(step.attribute("antialias", 0)),
    )
    for value, known in ((found.kind, KINDS), (found.coordinates, COORDINATES), (found.rounding, ROUNDINGS)):
        if value not in known:
            raise step.refuse(f"{value!r} is none of {', '.join(sorted(known))}")
    return found


def _resized(step: Step, mode: Mode) -> list[Axis]:
    """The axes that change. Errors: UnsupportedOperator where what becomes of one depends on a free size or a computed number."""
    inputs, outputs = shape_of(step.x), shape_of(step.y)
    over = [axis % step.rank for axis in step.attribute("axes", list(range(step.rank)))]
    scales, sizes, regions = (None if array is None or not array.size else array for array in map(step.constant, (2, 3, 1)))
    computed = step.has(2) and step.constant(2) is None
    if mode.crops and (regions is None or scales is not None or computed):
        raise step.refuse("tf_crop_and_resize by scales, or of a computed region: runtimes differ there")
    shared = _shared_scale(step, [inputs[axis] for axis in over], sizes) if scales is None and not computed else None
    found = []
    for index, number in enumerate(over):
        into, out = inputs[number], outputs[number]
        if scales is not None:
            scale = float(scales[index])
            if isinstance(into, int) and isinstance(out, int) and out != int(np.float32(into) * np.float32(scale)):
                raise step.refuse(f"axis {number} is declared to go from {into} to {out}, by a scale of {scale}")
        elif shared is None and not computed and (whole := times(out, into)):
            scale = float(whole)
        elif computed or not isinstance(into, int) or not isinstance(out, int):
            raise step.refuse(f"axis {number} goes from {into} to {out} by a scale that is computed; fix the size")
        else:
            scale = out / into if shared is None else shared
        start, end = (0.0, 1.0) if regions is None or not mode.crops else (float(regions[index]), float(regions[index + len(over)]))
        if scale == 1 and (start, end) == (0.0, 1.0):
            continue
        if scale == 1:
            raise step.refuse("tf_crop_and_resize to the size of the input: runtimes leave that out")
        line = Line(into, out, scale, start, end) if isinstance(into, int) and isinstance(out, int) else None
        found.append(Axis(number, scale, line))
    return found


def _shared_scale(step: Step, inputs: Sequence[Dimension], sizes: Array | None) -> float | None:
    """The one scale of all axes where the aspect ratio is kept; None where each has its own."""
    policy = step.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return None
    known = [size for size in inputs if isinstance(size, int)]
    if sizes is None or len(known) != len(inputs):
        raise step.refuse(f"keep_aspect_ratio_policy {policy} over free or computed sizes; fix the size")
    scales = [int(size) / n for size, n in zip(sizes, known, strict=True)]
    return min(scales) if policy == "not_larger" else max(scales)


def _repeats(mode: Mode, axis: Axis) -> int | None:
    """How often each element is repeated, in its place; None where this is not what happens."""
    if mode.kind != "nearest" or mode.crops:
        return None
    if axis.line is None:
        even = mode.coordinates in HALVES and mode.rounding.startswith("round")
        even = even or (mode.coordinates, mode.rounding) == ("asymmetric", "floor")
        return int(axis.scale) if even and axis.scale == int(axis.scale) and axis.scale >= 2 else None
    often, rest = divmod(axis.line.outputs, axis.line.inputs)
    same = not rest and often > 1 and np.array_equal(nearest(mode, axis.line), np.arange(axis.line.outputs) // often)
    return often if same else None


def _carried(writer: Writer, cotangent: Cotangent, axes: Sequence[int]) -> tuple[Cotangent, list[int], list[int]]:
    """Which of these axes g carries, and which d; where both carry one they are multiplied."""
    sizes, d = shape_of(cotangent.g)[1:], cotangent.d
    inner: list[Dimension] = [] if d is None else shape_of(d)
    inner = [*[1] * (len(sizes) - len(inner)), *inner]
    on_g, on_d = ([axis for axis in axes if one[axis] != 1] for one in (sizes, inner))
    if set(on_g) & set(on_d):
        return Cotangent(cotangent.whole(writer)), sorted({*on_g, *on_d}), []
    return cotangent, on_g, on_d


def _block_means(writer: Writer, value: ir.Value, repeats: dict[int, int], step: Step) -> ir.Value:
    """Means of blocks, so many elements long along these axes, of which the first has at most two after it."""
    sizes, first = shape_of(value), min(repeats)
    names = [1, *shape_of(step.x)][-len(sizes) :]
    inner = [names[axis] if axis in repeats else size for axis, size in enumerate(sizes)][first:]
    kernel = [repeats.get(axis, 1) for axis in range(first, len(sizes))]
    flat = writer.reshape(value, -1, [1], writer.dims(value, first))
    shaped(flat, [product(*sizes[:first]), 1, *sizes[first:]])
    means = shaped(writer.op("AveragePool", flat, kernel_shape=kernel, strides=kernel), [product(*sizes[:first]), 1, *inner])
    return unfolded(writer, means, value, first) if first else writer.squeeze(means, 0, 1)


def _multiplied(writer: Writer, cotangent: Cotangent, number: int, weights: Array, step: Step) -> Cotangent:
    """Back through a matrix [out, in] along one axis."""
    cotangent, on_g, on_d = _carried(writer, cotangent, [number])
    after, into = step.rank - number - 1, weights.shape[1]
    if not on_g and not on_d:
        used = weights.sum(0)
        if np.ptp(used) <= 1e-6 * np.abs(used).max():
            return cotangent.times(writer, writer.number(float(used.mean())))
        return cotangent.times(writer, writer.constant(used.reshape(into, *[1] * after), np.float32))
    right = writer.constant(weights, np.float32)
    if on_g:
        return Cotangent(_product(writer, cotangent.g, right, after), cotangent.d)
    assert cotangent.d is not None
    return Cotangent(cotangent.g, _product(writer, cotangent.d, right, after))


def _product(writer: Writer, value: ir.Value, right: ir.Value, after: int) -> ir.Value:
    """[…, out, …] → […, in, …] by a matrix [out, in], along the axis that has so many after it."""
    sizes, into = shape_of(value), shape_of(right)[1]
    axis = len(sizes) - after - 1
    wanted = replaced(sizes, axis, into)
    if after == 0:
        return shaped(writer.op("MatMul", value, right), wanted)
    if after == 1:
        return shaped(writer.op("MatMul", writer.transpose(right, 1, 0), value), wanted)
    # by reshaping: TensorRT-RTX 1.7 fails to build the same with transposes
    rest = product(*sizes[axis + 1 :])
    if isinstance(rest, int):
        flat = writer.reshape(value, -1, writer.dims(value, axis, axis + 1), rest)
        shaped(flat, [product(*sizes[:axis]), sizes[axis], rest])
    else:
        flat = shaped(writer.reshape(value, writer.dims(value, 0, axis + 1), -1), [*sizes[: axis + 1], rest])
    found = writer.op("MatMul", writer.transpose(right, 1, 0), flat)
    inner = [size for size in wanted[1:] if isinstance(size, int)]
    if len(inner) == len(wanted) - 1:
        return shaped(writer.reshape(found, -1, inner), wanted)
    return shaped(writer.reshape(found, writer.dims(value, 0, axis), writer.dims(right, 1), writer.dims(value, axis + 1)), wanted)
