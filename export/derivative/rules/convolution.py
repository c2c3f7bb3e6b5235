"""Convolutions and their transposes, in one, two and three dimensions.

Their derivatives in the weights are not needed: weights may be computed, but not from the picture.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import Step, single
from dkcam.export.derivative.space import FAR, Windows, agree, folded, outputs_of, shaped, shared, times, unfolded, windows_of
from dkcam.export.writer import Dimension, Writer, shape_of


@single("Conv")
def convolution(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """Its transpose, with the same weights [O, I/groups, *kernel]."""
    weight = step.input(1)
    windows = windows_of(step, _kernel(step, weight))
    agree(step, outputs_of(windows, shape_of(step.x)[2:]))
    whole = cotangent.whole(writer)
    lazy = [axis for axis in range(len(windows.kernel)) if windows.is_point(axis) and shape_of(whole)[axis + 3] == 1]
    pulled = transposed(writer, folded(writer, whole, step.y, lazy), weight, windows, step.x, step.attribute("group", 1), lazy)
    return Cotangent(unfolded(writer, pulled, whole))


@single("ConvTranspose")
def transposed_convolution(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """The convolution that it is the transpose of: its weights [I, O/groups, *kernel] are laid out for that."""
    weight = step.input(1)
    windows = _windows_of_transposed(step, _kernel(step, weight))
    count, strides = len(windows.kernel), windows.strides
    more = step.attribute("output_padding", [0] * count)
    lengths = [
        None if isinstance(n, str) else (n - 1) * strides[a] + windows.reach[a] + more[a] for a, n in enumerate(shape_of(step.x)[2:])
    ]
    agree(step, [n and n - windows.begins[a] - windows.ends[a] for a, n in enumerate(lengths)])
    whole = cotangent.whole(writer)
    lazy = [axis for axis in range(count) if windows.is_point(axis) and more[axis] == 0 and shape_of(whole)[axis + 3] == 1]
    value = folded(writer, whole, step.y, lazy)
    pulled = writer.op("Conv", value, weight, **_attributes(windows, step.attribute("group", 1)))
    longer = [axis for axis in range(count) if more[axis] >= strides[axis]]  # what was added there no element of the input made
    return Cotangent(unfolded(writer, _cropped(writer, pulled, value, shape_of(weight)[0], step.x, lazy, longer), whole))


def transposed(
    writer: Writer, value: ir.Value, weight: ir.Value, windows: Windows, like: ir.Value, groups: int, lazy: Collection[int] = ()
) -> ir.Value:
    """The transpose of a convolution of ``like`` [B, …, *in]: [n, O, *out] → [n, I, *in]; axes of space in ``lazy`` stay 1."""
    reach, inner = windows.reach, shape_of(weight)[1]
    channels = inner * groups if isinstance(inner, int) else inner
    begins = [r - 1 - b for r, b in zip(reach, windows.begins, strict=True)]
    ends = [r - 1 - e for r, e in zip(reach, windows.ends, strict=True)]
    if all(stride == 1 for stride in windows.strides) and min(begins + ends) >= 0:
        # on a CPU 6–28 % faster than ConvTranspose
        turned = replace(windows, begins=begins, ends=ends)
        pulled = writer.op("Conv", value, _turned(writer, weight, groups), **_attributes(turned, groups))
        return _cropped(writer, pulled, value, channels, like, lazy, [])
    more, longer = [], []
    for axis, (into, out) in enumerate(zip(shape_of(like)[2:], shape_of(value)[2:], strict=True)):
        stride = windows.strides[axis]
        left = None  # what the last window left over
        if axis in lazy or stride == 1:
            left = 0
        elif isinstance(into, int) and isinstance(out, int):
            left = windows.begins[axis] + into + windows.ends[axis] - reach[axis] - (out - 1) * stride
        elif times(into, out) == stride:
            left = windows.begins[axis] + windows.ends[axis] - reach[axis] + stride
        if left is None:
            longer.append(axis)
        more.append(stride - 1 if left is None else left)  # the most it can be, where it depends on the size
    pulled = writer.op("ConvTranspose", value, weight, output_padding=more, **_attributes(windows, groups))
    return _cropped(writer, pulled, value, channels, like, lazy, longer)


def _turned(writer: Writer, weight: ir.Value, groups: int) -> ir.Value:
    """[O, I/groups, *kernel] → [I, O/groups, *kernel], turned round in space: nodes on the weights, which the file holds once."""
    outer, inner, *kernel = shape_of(weight)
    assert isinstance(outer, int) and isinstance(inner, int)
    space = range(2, len(kernel) + 2)
    if groups == 1:
        weight = writer.transpose(weight, 1, 0, *space)
    elif (outer, inner) != (groups, 1):
        weight = writer.reshape(weight, [groups, outer // groups, inner], writer.dims(weight, 2))
        weight = writer.transpose(weight, 0, 2, 1, *(axis + 1 for axis in space))
        weight = writer.reshape(weight, [groups * inner, outer // groups], writer.dims(weight, 3))
    axes = [axis for axis in space if kernel[axis - 2] != 1]
    if not axes:
        return weight
    last, first = writer.ints(*[-1] * len(axes)), writer.ints(*[-FAR] * len(axes))
    return writer.op("Slice", weight, last, first, writer.ints(*axes), last)


def _cropped(
    writer: Writer, pulled: ir.Value, source: ir.Value, channels: Dimension, like: ir.Value, lazy: Collection[int], longer: Sequence[int]
) -> ir.Value:
    """``pulled`` [n, channels, *space] cut to the size of ``like`` along the axes of space in ``longer``; its shape noted down."""
    inner: list[Dimension] = [1 if axis in lazy else size for axis, size in enumerate(shape_of(like)[2:])]
    if longer:
        outer = [f"{size} and more" if axis in longer else size for axis, size in enumerate(inner)]
        pulled = shaped(pulled, [shape_of(source)[0], channels, *outer])
        axes = range(longer[0] + 2, longer[-1] + 3)
        pulled = writer.op("Slice", pulled, writer.ints(*[0] * len(axes)), writer.dims(like, axes[0], axes[-1] + 1), writer.ints(*axes))
    return shaped(pulled, [shape_of(source)[0], channels, *inner])


def _kernel(step: Step, weight: ir.Value) -> list[int]:
    """The size of a convolution's windows. Errors: UnsupportedOperator where it is not known."""
    sizes = [size for size in shape_of(weight)[2:] if isinstance(size, int)]
    if len(sizes) != step.rank - 2:
        raise step.refuse(f"its weights are {shape_of(weight)}; expected known sizes, one for each axis of {shape_of(step.x)}")
    return sizes


def _attributes(windows: Windows, groups: int) -> dict[str, object]:
    return {
        "kernel_shape": windows.kernel,
        "strides": windows.strides,
        "dilations": windows.dilations,
        "pads": windows.pads,
        "group": groups,
    }


def _windows_of_transposed(step: Step, kernel: Sequence[int]) -> Windows:
    """As ``windows_of``: auto_pad and output_shape of a ConvTranspose say how long its output is, and the padding follows."""
    count, auto = len(kernel), step.attribute("auto_pad", "NOTSET")
    wanted: list[int] = step.attribute("output_shape", [])
    if not wanted and auto in ("NOTSET", "VALID"):
        return windows_of(step, kernel)
    strides, dilations = step.attribute("strides", [1] * count), step.attribute("dilations", [1] * count)
    more = step.attribute("output_padding", [0] * count)
    found = Windows(list(kernel), strides, dilations, [0] * count, [0] * count)
    for axis, size in enumerate(shape_of(step.x)[2:]):
        if not wanted:
            if found.reach[axis] + more[axis] < strides[axis]:
                raise step.refuse(f"auto_pad {auto} with a kernel smaller than its stride: runtimes make outputs of other sizes of that")
            total = found.reach[axis] + more[axis] - strides[axis]  # the output is strides times as long as the input
        elif isinstance(size, int):
            total = (size - 1) * strides[axis] + more[axis] + found.reach[axis] - wanted[-count:][axis]
        else:
            raise step.refuse("output_shape with an input whose size is free: its padding depends on that; fix the size")
        found.begins[axis], found.ends[axis] = shared(max(total, 0), auto)
    return found
