"""Picks boxes inside the graph: candidates, greedy non-maximum suppression, ranks and classes. No Loop, no free shapes.

ONNX's NonMaxSuppression gives as many boxes as it finds, which TensorRT-RTX does not build and CUDA graphs cannot hold. The first R
boxes that suppression keeps take R steps: take the best that is left, drop what overlaps it and has its class. Each step is a dozen
operators on one row a candidate, so it is exact and costs microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.explain.detect.layout import Columns, Layout
from dkcam.export.writer import Writer, rank_of, shape_of

THIN = 1e-5  # of the picture, a hundredth of a pixel: sides of boxes this short are what float32 makes of nothing
PAIRS = 300  # box and class chosen together: as many as networks that choose themselves give


@dataclass(frozen=True)
class Candidates:
    """The M best boxes of each picture, the best first: score float32, anchor int64 and label int64, all [B, M]."""

    score: ir.Value
    anchor: ir.Value
    label: ir.Value


@dataclass(frozen=True)
class Picked:
    """Of K questions, all [B, K]: the candidate's number int64, its score float32, 0 where there is no box."""

    number: ir.Value
    score: ir.Value


def take(writer: Writer, value: ir.Value, axis: int, index: ir.Value) -> ir.Value:
    """value [B, …] at index int64 [B, M] along one axis, each picture its own: M in the axis's place."""
    shape = shape_of(value)
    if shape[0] == 1 and shape_of(index)[0] == 1:
        return writer.op("Gather", value, writer.squeeze(index, 0), axis=axis)
    spread = writer.unsqueeze(index, *(a for a in range(1, len(shape)) if a != axis))
    sizes = [1 if a in (0, axis) else writer.dims(value, a, a + 1) for a in range(len(shape))]
    return writer.op("GatherElements", value, writer.expand(spread, *sizes), axis=axis)


def column(writer: Writer, columns: Columns) -> ir.Value:
    """Some columns of a table in float32, its axes as they are."""
    value = writer.slice(columns.value, columns.axis, columns.start, columns.start + columns.count)
    return writer.float32(value)


def probabilities(writer: Writer, layout: Layout) -> ir.Value:
    """Scores of the classes, squashed, without background and objectness: [B, A, n] or [B, n, A] as the table is."""
    if not layout.squash:
        return column(writer, layout.classes)
    axis = layout.scores.axis
    logits = column(writer, layout.scores)
    squashed = writer.op("Softmax", logits, axis=axis) if layout.squash == "Softmax" else writer.op("Sigmoid", logits)
    start = layout.classes.start - layout.scores.start
    return writer.slice(squashed, axis, start, start + layout.classes.count)


def candidates(writer: Writer, layout: Layout, most: int) -> Candidates:
    """At most ``most`` boxes by their best class's score; ties go to the lower number."""
    axis, anchors, count = layout.scores.axis, layout.scores.anchors, layout.classes.count
    scores = probabilities(writer, layout)
    by_row = axis == 2 or layout.paired
    if by_row:  # a box's scores lie side by side: the best class of candidates alone
        best, label = writer.op("ReduceMax", scores, writer.ints(axis), keepdims=0), None
    else:  # they lie far apart: gathering candidates takes longer than all their classes
        label = writer.op("ArgMax", scores, axis=1, keepdims=1)
        best = writer.squeeze(writer.op("GatherElements", scores, label, axis=1), 1)  # [B, A]
    own = None
    if layout.objectness is not None:
        own = column(writer, layout.objectness)
        own = writer.squeeze(writer.op("Sigmoid", own) if layout.squash == "Sigmoid" else own, layout.objectness.axis)
        best = writer.mul(best, own)
    most = min(PAIRS if layout.paired else most, anchors)
    score, anchor = writer.ops("TopK", best, writer.ints(most), outputs=2, axis=1)
    if label is not None:
        return Candidates(score, anchor, shifted(writer, take(writer, writer.squeeze(label, 1), 1, anchor), layout.first))
    rows = take(writer, scores, 3 - axis, anchor)  # [B, M, n] or [B, n, M]
    if not layout.paired:
        return Candidates(score, anchor, shifted(writer, writer.op("ArgMax", rows, axis=2, keepdims=0), layout.first))
    rows = writer.transpose(rows, 0, 2, 1) if axis == 1 else rows
    if own is not None:
        rows = writer.mul(rows, writer.unsqueeze(take(writer, own, 1, anchor), 2))
    pairs = min(PAIRS, most * count)
    score, index = writer.ops("TopK", writer.reshape(rows, writer.dims(rows, 0, 1), -1), writer.ints(pairs), outputs=2, axis=1)
    row = writer.op("Div", index, writer.ints(count))
    label = writer.op("Mod", index, writer.ints(count))
    return Candidates(score, take(writer, anchor, 1, row), shifted(writer, label, layout.first))


def shifted(writer: Writer, label: ir.Value, by: int) -> ir.Value:
    """Labels counted from another number."""
    return writer.add(label, writer.ints(by)) if by else label


def certain(writer: Writer, found: Candidates, corners: ir.Value, conf: float) -> ir.Value:
    """Scores [B, M], 0 where they are below ``conf`` or the box [B, M, 4] is none, a line or a point."""
    high = writer.op("GreaterOrEqual", found.score, writer.number(conf))
    short = writer.op("ReduceMin", _sides(writer, corners), writer.ints(2), keepdims=0)
    whole = writer.op("Greater", short, writer.number(THIN))
    return writer.mul(found.score, writer.op("Cast", writer.op("And", high, whole), to=int(ir.DataType.FLOAT)))


def _sides(writer: Writer, corners: ir.Value) -> ir.Value:
    return writer.op("Relu", writer.sub(writer.slice(corners, 2, 2, 4), writer.slice(corners, 2, 0, 2)))


def _area(writer: Writer, corners: ir.Value) -> ir.Value:
    wide, high = writer.ops("Split", _sides(writer, corners), outputs=2, axis=2, num_outputs=2)
    return writer.squeeze(writer.mul(wide, high), 2)


def suppress(writer: Writer, found: Candidates, score: ir.Value, corners: ir.Value, iou: float, ranks: int) -> Picked:
    """The first ``ranks`` boxes [B, ranks] that greedy suppression keeps within each class: overlap > iou drops the lower one.

    score [B, M] in falling order, 0 for no candidate; corners [B, M, 4]. A box overlaps another where ∩ > iou · ∪, written
    ∩ > iou/(1 + iou) · (area + area); classes are a third side of length 1, so that boxes of two classes never meet.
    """
    label = writer.unsqueeze(writer.op("Cast", found.label, to=int(ir.DataType.FLOAT)), 1)
    sides = writer.transpose(corners, 0, 2, 1)  # [B, 4, M]
    high = writer.op("Concat", writer.slice(sides, 1, 2, 4), writer.add(label, writer.number(1.0)), axis=1)
    low = writer.op("Concat", writer.slice(sides, 1, 0, 2), label, axis=1)
    table = writer.op("Concat", writer.unsqueeze(high, 1), writer.unsqueeze(writer.neg(low), 1), axis=1)  # [B, 2, 3, M]
    share = writer.mul(_area(writer, corners), writer.number(iou / (1 + iou)))  # [B, M]
    numbers, scores = [], []
    for rank in range(ranks):
        top, number = writer.ops("TopK", score, writer.ints(1), outputs=2, axis=1)  # [B, 1]
        numbers.append(number)
        scores.append(top)
        if rank + 1 == ranks:
            break
        # min(end, end) and −max(begin, begin) at once; their sum is what two boxes share of a side
        met = writer.sum(writer.op("Min", table, take(writer, table, 3, number)), 1, keep=False)
        common = writer.op("ReduceProd", writer.op("Relu", met), writer.ints(1), keepdims=0)
        apart = writer.op("LessOrEqual", common, writer.add(share, take(writer, share, 1, number)))
        score = writer.mul(score, writer.op("Cast", apart, to=int(ir.DataType.FLOAT)))
    if ranks == 1:
        return Picked(numbers[0], scores[0])
    return Picked(writer.op("Concat", *numbers, axis=1), writer.op("Concat", *scores, axis=1))


def ranked(writer: Writer, score: ir.Value, ranks: int) -> Picked:
    """The first ``ranks`` candidates as they are, for networks that need no suppression."""
    score, number = writer.ops("TopK", score, writer.ints(ranks), outputs=2, axis=1)
    return Picked(number, score)


def pick(writer: Writer, found: Candidates, score: ir.Value, kept: Picked, classes: ir.Value) -> Picked:
    """Answers to ``classes`` [K] or [B, K]: −r the r-th box kept, c ≥ 0 the best candidate of class c; score [B, M] as for ``suppress``."""
    ranks = shape_of(kept.number)[1]
    assert isinstance(ranks, int)
    asked = classes if rank_of(classes) == 2 else writer.unsqueeze(classes, 0)  # [B or 1, K]
    negative = writer.op("Less", asked, writer.ints(0))
    rank = writer.op("Where", negative, writer.sub(writer.neg(asked), writer.ints(1)), writer.ints(0))
    last = writer.op("Min", rank, writer.ints(ranks - 1))
    known = writer.op("Cast", writer.op("Equal", rank, last), to=int(ir.DataType.FLOAT))
    of_rank = writer.mul(_at(writer, kept.score, last), known)
    mine = writer.op("Equal", writer.unsqueeze(found.label, 1), writer.unsqueeze(asked, 2))
    each = writer.mul(writer.unsqueeze(score, 1), writer.op("Cast", mine, to=int(ir.DataType.FLOAT)))  # [B, K, M]
    top, best = writer.ops("TopK", each, writer.ints(1), outputs=2, axis=2)
    number = writer.op("Where", negative, _at(writer, kept.number, last), writer.squeeze(best, 2))
    return Picked(number, writer.op("Where", negative, of_rank, writer.squeeze(top, 2)))


def _at(writer: Writer, value: ir.Value, rank: ir.Value) -> ir.Value:
    """value [B, R] at ranks [1, K] for all pictures or [B, K] for each."""
    if shape_of(rank)[0] == 1:
        return writer.op("Gather", value, writer.squeeze(rank, 0), axis=1)
    return writer.op("GatherElements", value, rank, axis=1)


def explained(writer: Writer, found: Candidates, picked: Picked, classes: ir.Value) -> ir.Value:
    """int64 [B, K]: the label of the box; where there is none, the class asked for, or −1 for a rank."""
    label = take(writer, found.label, 1, picked.number)
    missing = writer.op("Max", classes, writer.ints(-1))
    return writer.op("Where", writer.op("Greater", picked.score, writer.number(0.0)), label, missing)


def certainty(writer: Writer, picked: Picked) -> ir.Value:
    """1.0 where there is a box, else 0.0: float32 [B, K]."""
    return writer.op("Cast", writer.op("Greater", picked.score, writer.number(0.0)), to=int(ir.DataType.FLOAT))
