"""The size of the picture: what the file fixes, what metadata and flags say, what stays free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.networks.declared import Declared, no_picture
from dkcam.export.networks.metadata import size_of
from dkcam.export.networks.picture import layout_of
from dkcam.export.networks.refuse import refusal, shown
from dkcam.fields import LONGEST_SIDE, MOST_BATCH

LARGEST = 1 << 29  # values of a picture


@dataclass(frozen=True)
class Place:
    """layout, channels, and the size that the network is looked at. own: it is the file's own in every dimension.
    fixed: the file's own (batch, height, width), None where free.
    """

    layout: str
    channels: int
    batch: int
    height: int
    width: int
    dynamic: tuple[str, ...]
    fixed: tuple[int | None, int | None, int | None]

    @property
    def own(self) -> bool:
        return not self.dynamic and self.fixed == (self.batch, self.height, self.width)

    def shape(self, batch: int, height: int, width: int) -> tuple[int, ...]:
        """Of the network's input."""
        return (batch, self.channels, height, width) if self.layout == "nchw" else (batch, height, width, self.channels)

    def explained(self, error: ExportError, source: str) -> ExportError:
        """An error of inference, with what was changed about the size, which may be why."""
        if self.own or (None in self.fixed and not self.dynamic):
            return error
        why = str(error).removeprefix(f"{source}: ")
        if self.dynamic:
            return refusal(f"--dynamic {','.join(self.dynamic)}: {source} does not take other sizes: {why}")
        batch, height, width = self.fixed
        now = f"a batch of {self.batch} at {self.height}x{self.width}"
        return refusal(f"{source} is made for a batch of {batch} at {height}x{width} and does not take {now} (--batch, --size): {why}")

    def check_outputs(self, outputs: Sequence[ir.Value], declared: Declared | None, source: str) -> None:
        """Errors: ExportError where an output does not follow the batch."""
        for value in outputs:
            if value.shape is None or len(value.shape) == 0:
                continue
            first = value.shape[0]
            if "batch" in self.dynamic and not (isinstance(first, ir.SymbolicDim) and first.value == "batch"):
                raise refusal(
                    f"--dynamic batch: {source} gives {shown(value.name)} {value.shape}, which does not follow it; leave batch out"
                )
            own = self.fixed[0]
            if declared is None or own is None or own == self.batch or "batch" in self.dynamic:
                continue
            _, dims = declared.outputs.get(value.name or "", (0, None))
            if dims and dims[0] == own and first != self.batch:
                raise refusal(f"{source} is made for a batch of {own} and does not follow another; give --batch {own}:{own}")


def place_of(
    image: ir.Value,
    declared: Declared,
    metadata: Mapping[str, str],
    source: str,
    *,
    size: tuple[int, int] | None,
    dynamic: Sequence[str],
    batch: tuple[int, int],
) -> Place:
    """Errors: ExportError where the input is no picture, or where nothing says how large it is."""
    _, dims = declared.inputs.get(image.name or "", (0, None))
    found = None if dims is None else layout_of(image, dims)
    if dims is None or found is None:
        raise no_picture(image, declared, source)
    layout, channels = found
    own = (dims[2], dims[3]) if layout == "nchw" else (dims[1], dims[2])
    said = size_of(metadata) or (None, None)
    height, width = size or (own[0] or said[0], own[1] or said[1])
    if height is None or width is None:
        free = " and ".join(name for name, side in (("height", height), ("width", width)) if side is None)
        example = f"{height or 'H'}x{width or 'W'}"
        raise refusal(f"{source} leaves the {free} of its picture free; give --size {example}, the size that it was trained at")
    if not (1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE and 1 <= batch[0] <= batch[1] <= MOST_BATCH):
        raise refusal(f"{source}: pictures of {height}x{width}, batch {batch[0]} to {batch[1]}; expected sides up to {LONGEST_SIDE}")
    if batch[0] * channels * height * width > LARGEST:
        raise refusal(f"{source}: a batch of {batch[0]} pictures of {height}x{width} is too large; give a smaller --batch or --size")
    at = (dims[0] or 1) if "batch" in dynamic else batch[0]
    return Place(layout, channels, at, height, width, tuple(dynamic), (dims[0], *own))
