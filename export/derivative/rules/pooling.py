"""Means and norms over windows and over all of space, and the normalisation by neighbouring channels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent, full, spread
from dkcam.export.derivative.rule import Step, pointwise, single
from dkcam.export.derivative.rules.convolution import transposed
from dkcam.export.derivative.space import Windows, along_space, folded, pooled, product, replaced, shaped, times, unfolded
from dkcam.export.writer import Array, Dimension, Writer, rank_of, shape_of

TINY = 1e-30  # instead of dividing by 0


@single("AveragePool")
def average(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """Each window's gradient over the number of elements that it counted, to each of them."""
    windows = pooled(step)
    counts = _counts(step, windows)
    if counts is None:
        return _sums(writer, step, cotangent.times(writer, writer.op("Reciprocal", _counted(writer, step, windows))), windows)
    scale, rank = 1.0, rank_of(step.x)
    for axis, along in enumerate(counts):
        if along.min(initial=along[0]) == along.max(initial=along[0]):
            scale /= int(along[0])
        else:
            shape = [-1 if a == axis + 2 else 1 for a in range(rank)]
            cotangent = cotangent.times(writer, writer.constant((1 / along).reshape(shape), np.float32))
    return _sums(writer, step, cotangent, windows, scale)


def _counts(step: Step, windows: Windows) -> list[Array] | None:
    """How many elements each window counts along each axis of space; None where that depends on a free size."""
    found = []
    include = bool(step.attribute("count_include_pad", 0))
    for axis, (size, count) in enumerate(zip(shape_of(step.x)[2:], shape_of(step.y)[2:], strict=True)):
        begin, end, kernel = windows.begins[axis], windows.ends[axis], windows.kernel[axis]
        if isinstance(size, int) and isinstance(count, int):
            first, last = (-begin, size + end) if include else (0, size)
            places = np.arange(count)[:, None] * windows.strides[axis] - begin + np.arange(kernel) * windows.dilations[axis]
            found.append(((places >= first) & (places < last)).sum(1))
        elif not windows.ceil and (include or begin == end == 0):
            found.append(np.array([kernel]))
        else:
            return None
    return found


def _counted(writer: Writer, step: Step, windows: Windows) -> ir.Value:
    """The same while the graph runs, [1, 1, *space of y]: sums of ones over the windows."""
    count, sizes = len(windows.kernel), shape_of(step.x)[2:]
    ones = shaped(writer.expand(writer.constant(np.ones([1] * (count + 2)), np.float32), [1, 1], writer.dims(step.x, 2)), [1, 1, *sizes])
    begins, ends = windows.begins, windows.ends
    if step.attribute("count_include_pad", 0):
        for axis in range(count):
            ones = shaped(writer.pad(ones, axis + 2, begins[axis], ends[axis], 1.0), replaced(shape_of(ones), axis + 2, f"counted {axis}"))
        begins = ends = [0] * count
    if windows.ceil:
        ends = [end + stride - 1 for end, stride in zip(ends, windows.strides, strict=True)]
    weight = writer.constant(np.ones((1, 1, *windows.kernel)), np.float32)
    found = writer.op("Conv", ones, weight, strides=windows.strides, dilations=windows.dilations, pads=begins + ends)
    return shaped(found, [1, 1, *shape_of(step.y)[2:]])


def _sums(writer: Writer, step: Step, cotangent: Cotangent, windows: Windows, scale: float = 1.0) -> Cotangent:
    """The transpose of sums over windows, times a number.

    Axes stay lazy where each element of the input lies in one window (tiles), or the only window holds them all.
    """
    sizes, count = _sizes(cotangent), len(windows.kernel)
    tiled = [axis for axis in range(count) if _is_tiled(step, windows, axis)]
    lazy = [axis for axis in range(count) if sizes[axis + 2] == 1 and (axis in tiled or _is_whole(step, windows, axis))]
    windows = _reaching(step, windows).without(lazy)
    axes = [axis for axis in range(count) if not windows.is_point(axis)]
    turned = [reach - 1 - pad for reach, pad in zip(windows.reach * 2, windows.pads, strict=True)]
    even = all(stride == 1 for stride in windows.strides)
    even = even and all(0 <= pad < kernel for pad, kernel in zip(turned, windows.kernel * 2, strict=True))  # what runtimes take
    woven = axes and not even and not all(axis in tiled for axis in axes)
    if even:
        scale *= math.prod(windows.kernel)
    if scale != 1 and not woven:
        cotangent = cotangent.times(writer, writer.number(scale))
    if not axes:
        return cotangent

    def pull(whole: ir.Value) -> ir.Value:
        for axis in axes:
            whole = spread(writer, whole, axis + 2, shape_of(step.y)[axis + 2], step.y)
        if all(axis in tiled for axis in axes):
            return _repeated(writer, whole, step.x, windows)
        here = [1 if axis in lazy else size for axis, size in enumerate(shape_of(step.x)[2:])]
        if even:
            value = writer.reshape(whole, -1, writer.dims(whole, 2))
            means = writer.op("AveragePool", value, kernel_shape=windows.kernel, pads=turned, count_include_pad=1, **_dilated(windows))
            return unfolded(writer, shaped(means, [*shape_of(value)[:2], *here]), whole)
        sizes = shape_of(whole)
        value = shaped(writer.reshape(whole, -1, [1], writer.dims(whole, 3)), [product(*sizes[:3]), 1, *sizes[3:]])
        ones = writer.constant(np.full((1, 1, *windows.kernel), scale), np.float32)
        return unfolded(writer, transposed(writer, value, ones, windows, step.x, 1, lazy), whole, 3)

    return along_space(writer, cotangent, pull)


def _sizes(cotangent: Cotangent) -> list[Dimension]:
    """Of g · d, without K."""
    sizes = shape_of(cotangent.g)[1:]
    if cotangent.d is not None:
        inner = shape_of(cotangent.d)
        sizes = [b if a == 1 else a for a, b in zip(sizes, [1] * (len(sizes) - len(inner)) + inner, strict=True)]
    return sizes


def _is_tiled(step: Step, windows: Windows, axis: int) -> bool:
    """Whether each element along this axis of space lies in one window."""
    kernel, size, count = windows.kernel[axis], shape_of(step.x)[axis + 2], shape_of(step.y)[axis + 2]
    if windows.is_point(axis):
        return True
    touching = kernel == windows.strides[axis] and windows.dilations[axis] == 1 and windows.begins[axis] == 0
    return touching and times(size, count) == kernel


def _is_whole(step: Step, windows: Windows, axis: int) -> bool:
    """Whether there is one window along this axis of space, which holds all of it."""
    size = shape_of(step.x)[axis + 2]
    dense = windows.dilations[axis] == 1 or windows.kernel[axis] == 1
    return shape_of(step.y)[axis + 2] == 1 and dense and isinstance(size, int) and windows.kernel[axis] - windows.begins[axis] >= size


def _reaching(step: Step, windows: Windows) -> Windows:
    """The same windows without ceil_mode: as much more padding at the ends as a last one may need."""
    if not windows.ceil:
        return windows
    ends = []
    for axis, (size, count) in enumerate(zip(shape_of(step.x)[2:], shape_of(step.y)[2:], strict=True)):
        end, stride = windows.ends[axis], windows.strides[axis]
        if isinstance(size, int) and isinstance(count, int):
            ends.append(max(end, (count - 1) * stride + windows.reach[axis] - windows.begins[axis] - size))
        else:
            ends.append(end + stride - 1)
    return replace(windows, ends=ends, ceil=False)


def _dilated(windows: Windows) -> dict[str, list[int]]:
    """The attribute, where it is needed: before operator set 19 AveragePool has none."""
    return {"dilations": windows.dilations} if set(windows.dilations) != {1} else {}


def _repeated(writer: Writer, whole: ir.Value, like: ir.Value, windows: Windows) -> ir.Value:
    """Each element of [n, B, C, *space] as often as its window is long, to the size of ``like`` [B, C, *space]."""
    sizes, kernel = shape_of(whole), windows.kernel
    axes = [axis + 3 for axis, k in enumerate(kernel) if k != 1]
    apart = writer.unsqueeze(whole, *(axis + 1 + number for number, axis in enumerate(axes)))
    apart = writer.expand(apart, *([1, kernel[axis - 3]] if axis in axes else [1] for axis in range(len(sizes))))
    wanted = [product(size, kernel[axis - 3]) if axis in axes else size for axis, size in enumerate(sizes)]
    parts = [writer.dims(like, axis - 1, axis) if axis in axes else writer.dims(whole, axis, axis + 1) for axis in range(1, len(sizes))]
    return shaped(writer.reshape(apart, -1, *parts), wanted)


@pointwise("GlobalAveragePool")
def global_average(writer: Writer, step: Step) -> ir.Value:
    """1 / the number of elements, even along space."""
    total = writer.number(1.0)
    for axis in range(2, step.rank):
        total = writer.mul(total, writer.size(step.x, axis))
    return writer.op("Reciprocal", total)


@single("LpPool")
def root(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """y = (Σ |x|^p)^(1/p): sign(x) |x|^(p−1) Σ g y^(1−p); 0 where y is 0."""
    power = step.attribute("p", 2)
    if power != 1:
        below = writer.op("Max", _powered(writer, step.y, power - 1), writer.number(TINY))
        cotangent = cotangent.times(writer, writer.div(writer.op("Sign", step.y), below))
    cotangent = _sums(writer, step, cotangent, pooled(step))
    return cotangent.times(writer, _slope(writer, step.x, power))


@pointwise("GlobalLpPool")
def global_root(writer: Writer, step: Step) -> ir.Value:
    """The same over all of space: sign(x) (|x| / y)^(p−1)."""
    power = step.attribute("p", 2)
    if power == 1:
        return writer.op("Sign", step.x)
    return _slope(writer, writer.div(step.x, writer.op("Max", step.y, writer.number(TINY))), power)


def _slope(writer: Writer, x: ir.Value, power: int) -> ir.Value:
    """sign(x) |x|^(power−1)."""
    if power == 2:
        return x
    sign = writer.op("Sign", x)
    return sign if power == 1 else writer.mul(sign, _powered(writer, writer.op("Abs", x), power - 1))


def _powered(writer: Writer, x: ir.Value, power: int) -> ir.Value:
    return x if power == 1 else writer.op("Pow", x, writer.number(power))


@single("LRN")
def across_channels(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """y = x s^−β, s = bias + α · mean of x² over ``size`` channels (zeros beyond the ends):
    g s^−β − 2αβ x · (mean over the windows that hold the channel of g x s^(−β−1))."""
    size, rank = step.attribute("size", 1), step.rank
    alpha, beta, bias = step.attribute("alpha", 1e-4), step.attribute("beta", 0.75), step.attribute("bias", 1.0)
    if rank > 4:
        raise step.refuse(f"it has {rank} axes; at most 4 are known")
    before, after = (size - 1) // 2, size // 2
    x = step.x
    squares = writer.squeeze(_neighbours(writer, writer.unsqueeze(writer.mul(x, x), 1), before, after), 1)
    s = writer.add(writer.mul(squares, writer.number(alpha)), writer.number(bias))
    power = writer.op("Pow", s, writer.number(-beta))
    whole = full(writer, cotangent.whole(writer), x)
    inner = folded(writer, writer.mul(whole, writer.div(writer.mul(x, power), s)), x)
    shared = _neighbours(writer, writer.unsqueeze(inner, 1), after, before)
    back = unfolded(writer, writer.squeeze(shared, 1), whole)
    return Cotangent(writer.sub(writer.mul(whole, power), writer.mul(back, writer.mul(x, writer.number(2 * alpha * beta)))))


def _neighbours(writer: Writer, value: ir.Value, before: int, after: int) -> ir.Value:
    """Means over channels of [n, 1, C, *space], those beyond the ends counted as 0."""
    others = rank_of(value) - 3
    kernel, pads = [before + after + 1, *[1] * others], [before, *[0] * others, after, *[0] * others]
    found = writer.op("AveragePool", value, kernel_shape=kernel, pads=pads, count_include_pad=1)
    return shaped(found, shape_of(value))
