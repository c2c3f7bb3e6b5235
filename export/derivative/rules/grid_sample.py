"""Reading a map at computed places (deformable attention, warps).

Its transpose would be a scatter, which TensorRT's parser refuses. A dense product takes its place: the weight of each element of the
map in each sample, [samples, H · W], is a hat function down times one across. That is much work for many samples of large maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent, full
from dkcam.export.derivative.rule import Step, rule
from dkcam.export.derivative.space import shaped
from dkcam.export.writer import Writer, shape_of

LARGEST = 1 << 25  # weights of one picture: 128 MB


@rule("GridSample")
def grid_sample(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """y [B, C, P, Q] of a map [B, C, H, W] and places [B, P, Q, 2], x before y, −1 to 1."""
    mode, edge = step.attribute("mode", "linear").replace("bilinear", "linear"), step.attribute("padding_mode", "zeros")
    sizes = [size for size in [*shape_of(step.x)[1:], *shape_of(step.y)[2:]] if isinstance(size, int)]
    if len(sizes) != 5 or step.rank != 4:
        raise step.refuse(f"of {shape_of(step.x)} to {shape_of(step.y)}; expected two axes of space whose sizes are known")
    if mode not in ("linear", "nearest") or edge not in ("zeros", "border"):
        raise step.refuse(f"mode {mode}, padding_mode {edge}; linear and nearest with zeros or border are known")
    channels, height, width, *out = sizes
    (cotangent,) = cotangents
    assert cotangent is not None
    whole = full(writer, cotangent.whole(writer), step.y)
    places = [_place(writer, step, axis, size, edge) for axis, size in ((0, width), (1, height))]
    found = {}
    if step.active[0]:
        if out[0] * out[1] * height * width > LARGEST:
            raise step.refuse(f"its transpose without a scatter takes {out[0] * out[1]} × {height * width} weights; more than {LARGEST}")
        across, down = (_weights(writer, place, size, mode) for place, size in zip(places, (width, height), strict=True))
        weights = writer.mul(writer.unsqueeze(down, 3), writer.unsqueeze(across, 2))  # [B, P · Q, H, W]
        batch = writer.dims(step.input(1), 0, 1)
        flat = writer.reshape(weights, batch, [out[0] * out[1], height * width])
        many = writer.dims(whole, 0, 2)
        pulled = writer.op("MatMul", writer.reshape(whole, many, [channels, out[0] * out[1]]), flat)
        found[0] = Cotangent(writer.reshape(pulled, many, [channels, height, width]))
    if step.active[1] and mode == "linear":  # the nearest element does not change as the place moves
        slopes = [_slope(writer, step, whole, places, axis, (width, height)) for axis in (0, 1)]
        found[1] = Cotangent(writer.op("Concat", *(writer.unsqueeze(slope, 4) for slope in slopes), axis=4))
    return found


def _place(writer: Writer, step: Step, axis: int, size: int, edge: str) -> ir.Value:
    """Where the samples lie along an axis, in elements, [B, P, Q]; with border those beyond it are moved to it."""
    there = writer.add(_coordinate(writer, step, axis), writer.number(1.0))
    if step.attribute("align_corners", 0):
        found = writer.mul(there, writer.number((size - 1) / 2))
    else:
        found = writer.sub(writer.mul(there, writer.number(size / 2)), writer.number(0.5))
    return writer.op("Clip", found, writer.number(0.0), writer.number(size - 1)) if edge == "border" else found


def _coordinate(writer: Writer, step: Step, axis: int) -> ir.Value:
    return writer.squeeze(writer.slice(step.input(1), 3, axis, axis + 1), 3)


def _weights(writer: Writer, place: ir.Value, size: int, mode: str) -> ir.Value:
    """[B, P, Q] → the weight of each element along an axis in each sample, [B, P · Q, size]."""
    _, rows, columns = shape_of(place)
    assert isinstance(rows, int) and isinstance(columns, int)
    place = writer.reshape(place, writer.dims(place, 0, 1), [rows * columns, 1])
    elements = writer.constant(np.arange(size), np.float32)
    if mode == "nearest":
        return writer.float32(writer.op("Equal", writer.op("Round", place), elements))
    distance = writer.op("Abs", writer.sub(place, elements))
    return writer.op("Relu", writer.sub(writer.number(1.0), distance))


def _slope(writer: Writer, step: Step, whole: ir.Value, places: Sequence[ir.Value], axis: int, sizes: tuple[int, int]) -> ir.Value:
    """The derivative in one coordinate, [K, B, P, Q]: the map one element on less the map here, read between its elements along the
    other axis, times how many elements the coordinate moves."""
    here = writer.op("Floor", places[axis])
    corners = bool(step.attribute("align_corners", 0))
    read = []
    for at in (writer.add(here, writer.number(1.0)), here):
        moved = [_back(writer, at if one == axis else places[one], sizes[one], corners) for one in (0, 1)]
        grid = writer.op("Concat", *(writer.unsqueeze(value, 3) for value in moved), axis=3)
        kept = {name: step.attribute(name, "") for name in ("mode", "padding_mode") if name in step.node.attributes}
        value = writer.op("GridSample", step.x, grid, align_corners=int(corners), **kept)
        read.append(shaped(value, shape_of(step.y)))
    steps = (sizes[axis] - 1 if corners else sizes[axis]) / 2
    slope = writer.sum(writer.mul(whole, writer.sub(*read)), 2, keep=False)
    if step.attribute("padding_mode", "zeros") == "border":
        last = writer.number(sizes[axis] - 1)
        moves = writer.op("And", writer.op("Greater", places[axis], writer.number(0.0)), writer.op("Less", places[axis], last))
        slope = writer.mul(slope, writer.float32(moves))
    return writer.mul(slope, writer.number(steps))


def _back(writer: Writer, place: ir.Value, size: int, corners: bool) -> ir.Value:
    """Elements → −1 to 1."""
    if corners:
        return writer.sub(writer.mul(place, writer.number(2 / max(size - 1, 1))), writer.number(1.0))
    return writer.sub(writer.mul(writer.add(place, writer.number(0.5)), writer.number(2 / size)), writer.number(1.0))
