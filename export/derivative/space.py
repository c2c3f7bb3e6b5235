"""What operators with windows share: their geometry with every attribute resolved, and K folded into the batch around them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import Step
from dkcam.export.writer import Dimension, Writer, dimension_of, factors, product_of, rank_of, shape_of

FAR = 2**31 - 1  # as the end of a slice: all that is there


@dataclass(frozen=True)
class Windows:
    """Windows over the axes of space, one number an axis.

    begins, ends: padding, ≥ 0. ends is what the file says: with ``ceil`` a last window may reach further.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begins: list[int]
    ends: list[int]
    ceil: bool = False

    @property
    def reach(self) -> list[int]:
        """How many elements a window spans, its holes among them."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    @property
    def pads(self) -> list[int]:
        return self.begins + self.ends

    def is_point(self, axis: int) -> bool:
        """Whether each element along this axis of space is a window: nothing happens, a lazy axis stays lazy."""
        return self.kernel[axis] == self.strides[axis] == 1 and self.begins[axis] == self.ends[axis] == 0

    def only(self, axis: int) -> Windows:
        """The same along one axis, points along the others."""
        return self.without([a for a in range(len(self.kernel)) if a != axis])

    def without(self, axes: Collection[int]) -> Windows:
        """Points along these axes."""
        point = (1, 1, 1, 0, 0)
        own = zip(self.kernel, self.strides, self.dilations, self.begins, self.ends, strict=True)
        kept = [point if axis in axes else one for axis, one in enumerate(own)]
        kernel, strides, dilations, begins, ends = (list(part) for part in zip(*kept, strict=True))
        return Windows(kernel, strides, dilations, begins, ends, self.ceil)


def times(size: Dimension, count: Dimension) -> int | None:
    """How many times as long ``size`` is, where that is a whole number at every size: "height/2" is twice "height/4"."""
    (above, names), (below, others) = factors(size), factors(count)
    ratio = above / below if below else above
    return int(ratio) if names == others and below and ratio.denominator == 1 else None


def windows_of(step: Step, kernel: Sequence[int]) -> Windows:
    """An operator's windows. Errors: UnsupportedOperator where padding is negative or depends on a size that is free."""
    count = len(kernel)
    strides, dilations = step.attribute("strides", [1] * count), step.attribute("dilations", [1] * count)
    pads, auto = step.attribute("pads", [0] * 2 * count), step.attribute("auto_pad", "NOTSET")
    found = Windows(list(kernel), strides, dilations, [0] * count, [0] * count, bool(step.attribute("ceil_mode", 0)))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for axis, (size, out) in enumerate(zip(shape_of(step.x)[2:], shape_of(step.y)[2:], strict=True)):
            stride, left = strides[axis], 0  # left: of the size beyond a multiple of the stride
            if isinstance(size, int):
                left = size % stride
            elif stride != 1 and times(size, out) != stride:
                raise step.refuse(f"auto_pad {auto} with a stride over a free size pads by what the size is; fix the size")
            found.begins[axis], found.ends[axis] = shared(max(found.reach[axis] - (left or stride), 0), auto)
    elif auto == "NOTSET":
        if min(pads, default=0) < 0:
            raise step.refuse(f"pads are negative: {pads}")
        found = replace(found, begins=pads[:count], ends=pads[count:])
    elif auto != "VALID":
        raise step.refuse(f"auto_pad is {auto!r}")
    return found


def pooled(step: Step) -> Windows:
    """A pooling's windows. Errors: UnsupportedOperator, also where runtimes differ from ONNX's definition."""
    windows, sizes = windows_of(step, step.attribute("kernel_shape", [1])), shape_of(step.x)[2:]
    expected = outputs_of(windows, sizes)
    agree(step, expected)
    for axis, (size, count) in enumerate(zip(sizes, expected, strict=True)):
        stride, reach = windows.strides[axis], windows.reach[axis]
        short = reach < stride if count is None or isinstance(size, str) else (int(count) - 1) * stride + reach < size
        if step.attribute("auto_pad", "NOTSET").startswith("SAME") and (reach != windows.kernel[axis] or short):
            raise step.refuse("auto_pad SAME with dilations, or with gaps between windows: runtimes pad that in other ways than ONNX says")
        if windows.ceil and isinstance(size, str) and reach < stride + windows.ends[axis]:
            raise step.refuse("ceil_mode over a free size: a last window that would begin in the padding is left out; fix the size")
    return windows


def outputs_of(windows: Windows, sizes: Sequence[Dimension]) -> list[Dimension | None]:
    """How many windows fit along each axis of space; None where its size is free."""
    found: list[Dimension | None] = []
    for axis, size in enumerate(sizes):
        if isinstance(size, str):
            found.append(None)
            continue
        begin, stride = windows.begins[axis], windows.strides[axis]
        left = size + begin + windows.ends[axis] - windows.reach[axis]
        count = (-(-left // stride) if windows.ceil else left // stride) + 1
        if windows.ceil and (count - 1) * stride >= size + begin:
            count -= 1  # a window that would begin in the padding at the end
        found.append(count)
    return found


def agree(step: Step, expected: Sequence[Dimension | None]) -> None:
    """Errors: UnsupportedOperator where the output's declared size is not what the operator makes: the file is wrong, or what read it."""
    declared = shape_of(step.y)[2:]
    known = zip(declared, expected, strict=False)
    if len(declared) != len(expected) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in known):
        wanted = ["?" if size is None else size for size in expected]
        raise step.refuse(f"its output is declared as {shape_of(step.y)}; expected {wanted} along space")


def shared(total: int, auto: str) -> tuple[int, int]:
    """Padding before and after: SAME_UPPER has the odd one after."""
    less = total // 2
    return (less, total - less) if auto == "SAME_UPPER" else (total - less, less)


def replaced(sizes: Sequence[Dimension], axis: int, size: Dimension) -> list[Dimension]:
    return [size if a == axis else one for a, one in enumerate(sizes)]


def product(*sizes: Dimension) -> Dimension:
    """Of dimensions: a number, or a name that says what it is made of."""
    return dimension_of(*product_of(sizes))


def shaped(value: ir.Value, sizes: Sequence[Dimension]) -> ir.Value:
    """The value, with the shape that a rule knows and inference does not, where sizes are free."""
    value.shape = ir.Shape(sizes)
    return value


def folded(writer: Writer, whole: ir.Value, like: ir.Value, lazy: Collection[int] = ()) -> ir.Value:
    """[K, B, C, *space] → [K·B, C, *space]: channels and space spread out to ``like`` [B, C, *space], but for the axes of space
    in ``lazy``. A batch that is lazy stays one picture."""
    have, wanted = shape_of(whole)[1:], shape_of(like)
    spread = [axis for axis in range(1, len(wanted)) if have[axis] == 1 and wanted[axis] != 1 and axis - 2 not in lazy]
    if spread:
        whole = writer.expand(whole, 1, *([1] if axis not in spread else writer.dims(like, axis, axis + 1) for axis in range(len(wanted))))
    return writer.reshape(whole, -1, writer.dims(whole, 2))


def unfolded(writer: Writer, value: ir.Value, whole: ir.Value, lead: int = 2) -> ir.Value:
    """[K·B, C, *space] → [K, B, C, *space], K and B as ``whole`` has them. In general the first ``lead`` axes of ``whole`` become what
    is before the last rank − lead axes of ``value``."""
    first, start = shape_of(whole)[:lead], rank_of(value) - rank_of(whole) + lead
    inner = writer.dims(value, start)
    # one size is left to Reshape: the runtime need not ask for a shape where the others are known
    if all(isinstance(size, int) for size in first[1:]):
        found = writer.reshape(value, -1, writer.dims(whole, 1, lead), inner)
    else:
        found = writer.reshape(value, writer.dims(whole, 0, 1), -1, writer.dims(whole, 2, lead), inner)
    return shaped(found, [*first, *shape_of(value)[start:]])


def along_space(writer: Writer, cotangent: Cotangent, pull: Callable[[ir.Value], ir.Value]) -> Cotangent:
    """Of an operator that acts in each channel by itself. pull: [n, *lazy S] → [n, *lazy T].

    Where g is even along space, d alone goes through: the cost does not grow with K.
    """
    g, d = cotangent.g, cotangent.d
    sizes = shape_of(g)
    if any(size != 1 for size in sizes[3:]):
        return Cotangent(pull(cotangent.whole(writer)))
    if d is None:
        one = writer.constant([[1.0]], "float32")
        d = writer.reshape(one, [1] * (len(sizes) - 1))
    d = writer.unsqueeze(d, *range(len(sizes) - rank_of(d)))
    return Cotangent(g, writer.squeeze(pull(d), 0))
