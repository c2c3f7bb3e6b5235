"""Where the way back from a box starts: at which raw scores, and with what.

Of a score σ(c) it starts at the logit c, of a class among others (Softmax) at that class's logit. Of a score s = σ(o) · σ(c), objectness
times class, it starts at the logit of s itself, log(s / (1 − s)), whose derivatives are

    (1 − σ(o)) / (1 − s) in o,  (1 − σ(c)) / (1 − s) in c:

what is sure already counts for nothing, and what holds the score back counts in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.explain.detect.layout import Raw
from dkcam.export.explain.detect.patches import Cells
from dkcam.export.explain.detect.trace import Index, per_picture
from dkcam.export.explain.scores import one_hot
from dkcam.export.writer import Writer, rank_of, shape_of


@dataclass(frozen=True)
class Places:
    """Raw scores by channel and cell. table int64 [A, 5]: level, row, column, channel of the first class, channel of objectness. step: by
    level, channels from one class to the next. size: by level, (channels, rows, columns) of its raw scores, (numbers, 1, 1)
    where they are no map. others: by level, the same of objectness.
    """

    table: Index
    step: tuple[int, ...]
    size: tuple[tuple[int, int, int], ...]
    others: tuple[tuple[int, int, int], ...]


def places_of(raw: Raw) -> Places:
    """The places of raw scores."""
    table = np.zeros((len(raw.level), 5), np.int64)
    table[:, 0] = raw.level
    steps, sizes, others = [], [], []
    for number, level in enumerate(raw.levels):
        mine = raw.level == number
        size, other = (_size(value) if value is not None else (1, 1, 1) for value in (level.scores, level.objectness))
        cells = size[1] * size[2]
        apart = level.objectness is not None and (other[1:] != size[1:] or (raw.objectness[mine] % cells != raw.start[mine] % cells).any())
        if level.step % cells or apart:
            size, cells = (size[0] * cells, 1, 1), 1
            other = (other[0] * other[1] * other[2], 1, 1)
        table[mine, 1] = raw.start[mine] % cells // size[2]
        table[mine, 2] = raw.start[mine] % size[2]
        table[mine, 3] = raw.start[mine] // cells
        table[mine, 4] = raw.objectness[mine] // cells
        steps.append(level.step // cells)
        sizes.append(size)
        others.append(other)
    return Places(table, tuple(steps), tuple(sizes), tuple(others))


def _size(value: ir.Value) -> tuple[int, int, int]:
    shape = per_picture(value)
    assert shape is not None
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (int(np.prod(shape)), 1, 1)


@dataclass(frozen=True)
class Chosen:
    """N = B · K boxes, picture by picture. level, row, column: int64 [N]. channel, other: int64 [N], of the first class and of
    objectness. label: int64 [N], the class from 0. there: float32 [N], 0 where there is no box. picture: int64 [N], None for one
    picture. boxes: [B, K], for its shape.
    """

    level: ir.Value
    row: ir.Value
    column: ir.Value
    picture: ir.Value | None
    channel: ir.Value
    other: ir.Value
    label: ir.Value
    there: ir.Value
    boxes: ir.Value


def chosen(writer: Writer, places: Places, anchor: ir.Value, label: ir.Value, there: ir.Value) -> Chosen:
    """The places of boxes. anchor, label (from 0) int64, there float32, all [B, K]."""
    table = writer.constant(places.table.astype(np.int32))
    rows = writer.op("Cast", writer.op("Gather", table, writer.reshape(anchor, -1), axis=0), to=int(ir.DataType.INT64))
    level, row, columns, channel, other = (writer.squeeze(one, 1) for one in writer.ops("Split", rows, outputs=5, axis=1, num_outputs=5))
    picture = None if shape_of(anchor)[0] == 1 else _pictures(writer, anchor)
    return Chosen(level, row, columns, picture, channel, other, writer.reshape(label, -1), writer.reshape(there, -1), anchor)


def _pictures(writer: Writer, boxes: ir.Value) -> ir.Value:
    """Of boxes [B, K] the number of each one's picture, int64 [B · K]."""
    batch = shape_of(boxes)[0]
    if isinstance(batch, int):
        counted = writer.constant(np.arange(batch), np.int64)
    else:
        last = writer.squeeze(writer.dims(boxes, 0, 1), 0)
        counted = writer.op("Range", writer.constant(0, np.int64), last, writer.constant(1, np.int64))
        counted.shape = ir.Shape([batch])
    return writer.reshape(writer.expand(writer.unsqueeze(counted, 1), writer.dims(boxes)), -1)


def cells_of(writer: Writer, boxes: Chosen, size: tuple[int, int]) -> Cells:
    """Cells at a level of (rows, columns); boxes of other levels are moved onto it."""
    row, column = (writer.op("Min", value, writer.ints(d - 1)) for value, d in zip((boxes.row, boxes.column), size, strict=True))
    return Cells(row, column, boxes.picture, size)


@dataclass(frozen=True)
class Seed:
    """What one of N boxes takes of one value: weight float32 [N] at channel int64 [N] of its cell."""

    value: ir.Value
    channel: ir.Value
    weight: ir.Value


def seeds(writer: Writer, raw: Raw, places: Places, boxes: Chosen) -> list[list[Seed]]:
    """By level, the seeds of all N boxes; of boxes at other levels they weigh nothing."""
    there, channels = [], []
    for number, level in enumerate(raw.levels):
        here = writer.op("Cast", writer.op("Equal", boxes.level, writer.ints(number)), to=int(ir.DataType.FLOAT))
        there.append(writer.mul(here, boxes.there))
        step = writer.mul(boxes.label, writer.ints(places.step[number]))
        own = writer.op("Min", writer.add(boxes.channel, step), writer.ints(places.size[number][0] - 1))
        other = writer.op("Min", boxes.other, writer.ints(places.others[number][0] - 1))
        channels.append((own, other if level.objectness is not None else None))
    weights = _shares(writer, raw, places, boxes, there, channels)
    found = []
    for level, on, (own, others) in zip(raw.levels, there, channels, strict=True):
        one = [Seed(level.scores, own, writer.mul(on, weights[0]))]
        if level.objectness is not None and others is not None:
            one.append(Seed(level.objectness, others, writer.mul(on, weights[1])))
        found.append(one)
    return found


def _shares(
    writer: Writer,
    raw: Raw,
    places: Places,
    boxes: Chosen,
    there: list[ir.Value],
    channels: list[tuple[ir.Value, ir.Value | None]],
) -> tuple[ir.Value | None, ir.Value | None]:
    """Derivatives of the score's logit in the class's and in objectness's; None for 1."""
    if any(level.objectness is None for level in raw.levels):
        return None, None
    parts = []
    for which in (0, 1):
        total: ir.Value | None = None
        for number, level in enumerate(raw.levels):
            value, channel = ((level.scores, level.objectness)[which], channels[number][which])
            assert value is not None and channel is not None
            size = (places.size, places.others)[which][number]
            read = writer.mul(_raw(writer, value, size, channel, boxes), there[number])
            total = read if total is None else writer.add(total, read)
        assert total is not None
        parts.append(total)
    own, other = parts
    # (1 − a) / (1 − a b) = 1 / (1 + a (1 − b) / (1 − a)), the last quotient by its logarithm: no score is too sure for that
    apart = writer.sub(writer.op("Softplus", own), writer.op("Softplus", other))
    return _share(writer, own, apart), _share(writer, other, writer.neg(apart))


def _share(writer: Writer, logit: ir.Value, apart: ir.Value) -> ir.Value:
    much = writer.mul(writer.op("Sigmoid", logit), writer.op("Exp", apart))
    return writer.op("Reciprocal", writer.add(much, writer.number(1.0)))


def _raw(writer: Writer, value: ir.Value, size: tuple[int, int, int], channel: ir.Value, boxes: Chosen) -> ir.Value:
    """Raw scores float32 [N]."""
    flat = _flat(writer, size, channel, boxes)
    if boxes.picture is not None:
        flat = writer.add(flat, writer.op("Mul", boxes.picture, writer.ints(size[0] * size[1] * size[2])))
    return writer.float32(writer.op("Gather", writer.reshape(value, -1), flat, axis=0))


def _flat(writer: Writer, size: tuple[int, int, int], channel: ir.Value, boxes: Chosen) -> ir.Value:
    """Where in one picture's numbers: int64 [N]."""
    if size[1:] == (1, 1):
        return channel
    cells = cells_of(writer, boxes, size[1:])
    place = writer.add(writer.op("Mul", cells.row, writer.ints(size[2])), cells.column)
    return writer.add(writer.op("Mul", channel, writer.ints(size[1] * size[2])), place)


def by_channel(writer: Writer, level: list[Seed]) -> dict[ir.Value, ir.Value]:
    """value → float32 [N, C], for ``patches``."""
    found: dict[ir.Value, ir.Value] = {}
    for seed in level:
        count = shape_of(seed.value)[1]
        assert isinstance(count, int)
        hot = writer.mul(one_hot(writer, seed.channel, count), writer.unsqueeze(seed.weight, 1))
        found[seed.value] = writer.add(found[seed.value], hot) if seed.value in found else hot
    return found


def whole(writer: Writer, places: Places, level: int, found: list[Seed], boxes: Chosen) -> dict[ir.Value, Cotangent]:
    """value [B, …] → cotangent [K, B, …] on the whole value, for any sweep."""
    cotangents: dict[ir.Value, Cotangent] = {}
    for which, seed in enumerate(found):
        size = (places.size, places.others)[which][level]
        flat = writer.reshape(_flat(writer, size, seed.channel, boxes), writer.dims(boxes.boxes))
        hot = one_hot(writer, writer.transpose(flat, 1, 0), size[0] * size[1] * size[2])
        weight = writer.transpose(writer.reshape(seed.weight, writer.dims(boxes.boxes)), 1, 0)
        hot = writer.mul(hot, writer.unsqueeze(weight, 2))
        hot = writer.reshape(hot, writer.dims(hot, 0, 2), writer.dims(seed.value, 1))
        assert rank_of(hot) == rank_of(seed.value) + 1
        before = cotangents.get(seed.value)
        cotangents[seed.value] = Cotangent(hot if before is None else writer.add(before.g, hot))
    return cotangents
