"""How a network wants its picture: layout, channels, range, mean and std, and how frames reach its size.

What the file says comes first (Ultralytics writes metadata; preprocessing may be part of the graph), flags of the command line
before it. Where neither says anything, ImageNet's mean and std are assumed, and ``assumed`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.networks.refuse import refusal
from dkcam.fields import CHANNELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GRAY_VALUE = 114  # Ultralytics' border
COLOURS = (1, 3)  # channels of a picture
WHOLE = frozenset({ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32, ir.DataType.INT64})
NUMBERS = WHOLE | {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}
MOVES = frozenset({"Cast", "Identity", "Transpose"})
ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
PASSED = MOVES | ARITHMETIC | {"BatchNormalization", "Clip", "Pad", "Relu"}  # on the way from a picture to its first convolution
UNIT = 3.0  # means and deviations up to here are of values 0..1, larger ones of values 0..255
DIVIDES = 0.1  # a factor below this makes 0..255 small


@dataclass(frozen=True)
class PictureFlags:
    """What the command line says; None says nothing. mean, std: of R, G, B (one number for grey); scale: of values 0..255."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    channels: str | None = None
    resize: str | None = None
    letterbox: int | None = None


@dataclass(frozen=True)
class PictureInput:
    """What goes in is (value · scale − mean) / std of values 0..255, mean and std of R, G, B (one number for gray), as ``channels``
    in ``layout``, as ``dtype``.

    inside: the graph does (part of) this itself. resize: how frames reach the size, stretch, letterbox or crop. letterbox: the
    border's value, 0..255. assumed: mean, std and scale are a guess.
    """

    layout: str
    dtype: ir.DataType
    channels: str
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    inside: bool = False
    resize: str = "stretch"
    letterbox: int = GRAY_VALUE
    assumed: bool = False

    @property
    def axes(self) -> tuple[int, int, int]:
        """Of channels, rows and columns."""
        return (1, 2, 3) if self.layout == "nchw" else (3, 1, 2)


def layout_of(image: ir.Value, dims: Sequence[int | None]) -> tuple[str, int] | None:
    """(layout, channels) of an input with these four dimensions; None where it cannot be a picture."""
    if len(dims) != 4 or image.dtype not in NUMBERS:
        return None
    first, last = dims[1], dims[3]
    if first in COLOURS and last not in COLOURS:
        return "nchw", first
    if last in COLOURS and first not in COLOURS:
        return "nhwc", last
    if first not in (None, *COLOURS) or last not in (None, *COLOURS):
        return None
    return _read_as(image) or ("nchw", first or 3)


def _read_as(image: ir.Value) -> tuple[str, int] | None:
    """What the first convolution says, (layout, channels)."""
    layout, value = "nchw", image
    while True:
        users = [use.node for use in value.uses()]
        if len(users) != 1 or not users[0].inputs or users[0].inputs[0] is not value:
            return None
        node = users[0]
        if node.op_type == "Conv" and len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].shape is not None:
            shape = node.inputs[1].shape
            group = node.attributes["group"].as_int() if "group" in node.attributes else 1
            channels = shape[1] * group if len(shape) == 4 and isinstance(shape[1], int) else 0
            return (layout, channels) if channels in COLOURS else None
        if node.op_type == "Transpose" and "perm" in node.attributes:
            if list(node.attributes["perm"].as_ints()) != [0, 3, 1, 2]:
                return None
            layout = "nhwc"
        elif node.op_type not in PASSED:
            return None
        value = node.outputs[0]


def picture_of(image: ir.Value, layout: str, channels: int, metadata: Mapping[str, str], flags: PictureFlags, source: str) -> PictureInput:
    """How the picture goes in. Before: the graph's constants are folded. Errors: ExportError for flags that do not fit."""
    assert image.dtype is not None
    ultralytics = is_ultralytics(metadata)
    inside = image.dtype in WHOLE
    scale, mean, std, assumed = 1 / 255, (0.0,) * channels, (1.0,) * channels, False
    affine = _affine(image, layout, channels)
    if flags.mean is not None or flags.std is not None or flags.scale is not None:
        scale, mean, std = _flagged(flags, channels)
    elif inside:
        scale = 1.0
    elif affine is not None:
        inside = True
        factor, shift = affine
        if np.abs(factor).max() <= DIVIDES or np.abs(shift / factor).max() > UNIT:
            scale = 1.0
    elif not ultralytics:
        assumed = True
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (mean, std)
    if flags.channels is not None and (flags.channels not in CHANNELS or (flags.channels == "gray") != (channels == 1)):
        expected = "gray: the network takes one channel" if channels == 1 else "rgb or bgr"
        raise refusal(f"--channels {flags.channels}: {source} expects {expected}")
    resize = "stretch" if not ultralytics else "crop" if metadata.get("task") == "classify" else "letterbox"
    return PictureInput(
        layout=layout,
        dtype=image.dtype,
        channels="gray" if channels == 1 else flags.channels or "rgb",
        scale=scale,
        mean=mean,
        std=std,
        inside=inside,
        resize=flags.resize or resize,
        letterbox=GRAY_VALUE if flags.letterbox is None else flags.letterbox,
        assumed=assumed,
    )


def is_ultralytics(metadata: Mapping[str, str]) -> bool:
    return metadata.get("author") == "Ultralytics" or {"stride", "names"} <= set(metadata)


def _flagged(flags: PictureFlags, channels: int) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Flags without --scale are of values 0..1, or of 0..255 where a number says so."""
    mean = _numbers("--mean", flags.mean, channels, 0.0)
    std = _numbers("--std", flags.std, channels, 1.0)
    if min(std) <= 0:
        raise _flag_error("--std", flags.std, "numbers above 0")
    scale = flags.scale
    if scale is None:
        scale = 1.0 if max(*map(abs, mean), *std) > UNIT else 1 / 255
    if not math.isfinite(scale) or scale <= 0:
        raise _flag_error("--scale", (scale,), "a number above 0")
    return scale, mean, std


def _numbers(flag: str, given: tuple[float, ...] | None, channels: int, default: float) -> tuple[float, ...]:
    if given is None:
        return (default,) * channels
    if len(given) not in (1, channels) or not all(math.isfinite(number) for number in given):
        wanted = "one number, since the network takes grey pictures" if channels == 1 else "three numbers (R,G,B) or one for all"
        raise _flag_error(flag, given, wanted)
    return tuple(given) if len(given) == channels else tuple(given) * channels


def _flag_error(flag: str, given: Sequence[float] | None, expected: str) -> ExportError:
    return refusal(f"{flag} {','.join(f'{number:g}' for number in given or ())}: expected {expected}")


def _affine(image: ir.Value, layout: str, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
    """(factor, shift) [channels] of the arithmetic with constants that a graph begins with; None where it begins otherwise."""
    factor, shift = np.ones(channels), np.zeros(channels)
    value, axis, found = image, 1 if layout == "nchw" else 3, False
    while len(value.uses()) == 1:
        node = next(iter(value.uses())).node
        if node.op_type not in MOVES | ARITHMETIC:
            break
        if node.op_type == "Transpose":
            axis = list(node.attributes["perm"].as_ints()).index(axis) if "perm" in node.attributes else 3 - axis
        elif node.op_type in ARITHMETIC:
            ours = 0 if node.inputs[0] is value else 1
            numbers = _per_channel(node.inputs[1 - ours], axis, channels)
            if numbers is None or (node.op_type == "Div" and (ours == 1 or not numbers.all())):
                break
            found = True
            if node.op_type == "Mul":
                factor, shift = factor * numbers, shift * numbers
            elif node.op_type == "Div":
                factor, shift = factor / numbers, shift / numbers
            elif node.op_type == "Add":
                shift = shift + numbers
            elif ours == 0:
                shift = shift - numbers
            else:
                factor, shift = -factor, numbers - shift
        value = node.outputs[0]
    return (factor, shift) if found and factor.all() else None


def _per_channel(value: ir.Value | None, axis: int, channels: int) -> np.ndarray | None:
    """A constant's numbers [channels], where it is one number or one for each channel."""
    if value is None or value.const_value is None or value.const_value.size not in (1, channels):
        return None
    array = np.asarray(value.const_value.numpy(), np.float64)
    if array.size == 1:
        return np.full(channels, array.reshape(()))
    place = axis - 4 + array.ndim
    return array.reshape(channels) if 0 <= place < array.ndim and array.shape[place] == channels else None
