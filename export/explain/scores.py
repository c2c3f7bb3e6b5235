"""What a gradient is taken of: the scores behind an output, before they are squashed into probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.writer import FLOATS, UnknownShape, Writer, rank_of, shape_of

PASSED = frozenset({"Identity", "Cast", "Dropout"})
SQUASHED = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
LAYOUT = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
LARGEST_TOP = 3840  # TensorRT's TopK gives no more


@dataclass(frozen=True)
class Explained:
    """outputs: by their fixed names, in the graph. seeds: where the way back starts, and with what."""

    outputs: dict[str, ir.Value]
    seeds: dict[ir.Value, Cotangent]


@dataclass(frozen=True)
class Behind:
    """scores: before squashing. squash: "Softmax", "Sigmoid" or "", what the network makes of them."""

    scores: ir.Value
    squash: str = ""


def behind(output: ir.Value, *, squashes: bool = True, past_argmax: bool = False) -> Behind:
    """The scores behind an output, with as many classes and positions as they have there. squashes: look behind those too."""
    value, squash = output, ""
    while (node := value.producer()) is not None:
        source = node.inputs[0] if node.inputs else None
        if source is None or source.dtype is None:
            break
        kind = node.op_type
        if kind in SQUASHED and squashes and not squash:
            squash = "Sigmoid" if kind == "Sigmoid" else "Softmax"
        elif kind == "ArgMax" and past_argmax:
            past_argmax = False
        elif not (kind in PASSED or (kind in LAYOUT and _only_ones(source, value))):
            break
        value = source
    return Behind(value if value.dtype in FLOATS else output, squash)


def _only_ones(source: ir.Value, value: ir.Value) -> bool:
    """Whether a change of layout adds or drops axes of size 1 alone."""
    try:
        return [d for d in shape_of(source)[1:] if d != 1] == [d for d in shape_of(value)[1:] if d != 1]
    except UnknownShape:
        return False


def rows(writer: Writer, scores: ir.Value) -> ir.Value:
    """Scores [B, n], [B, n, 1, 1] or [B] as float32 [B, n]."""
    scores = writer.float32(scores)
    rank = rank_of(scores)
    if rank == 1:
        return writer.unsqueeze(scores, 1)
    return scores if rank == 2 else writer.squeeze(scores, *(axis for axis in range(1, rank) if axis != class_axis(scores)))


def class_axis(scores: ir.Value) -> int:
    """The axis of [B, n], [B, n, 1, 1], [B, 1, n] … that counts classes."""
    shape = shape_of(scores)
    return next((axis for axis in range(1, len(shape)) if shape[axis] != 1), min(1, len(shape) - 1))


def choose(writer: Writer, classes: ir.Value, order_by: ir.Value) -> ir.Value:
    """Class numbers int64 [K, B] for ``classes`` [K] or [B, K]: ≥ 0 as given, −r the class of rank r by ``order_by`` [B, n]."""
    count = shape_of(order_by)[1]
    assert isinstance(count, int)
    _, order = writer.ops("TopK", order_by, writer.ints(min(count, LARGEST_TOP)), outputs=2, axis=-1)  # [B, n]
    negative = writer.op("Less", classes, writer.ints(0))
    rank = writer.op("Where", negative, writer.sub(writer.neg(classes), writer.ints(1)), writer.ints(0))
    if rank_of(classes) == 2:  # one list for each picture
        chosen = writer.op("Where", negative, writer.op("GatherElements", order, rank, axis=1), classes)
        return writer.transpose(chosen, 1, 0)
    return writer.transpose(writer.op("Where", negative, writer.op("Gather", order, rank, axis=1), classes), 1, 0)


def one_hot(writer: Writer, index: ir.Value, count: int) -> ir.Value:
    """int64 [K, B] → float32 [K, B, count]: the seed of one class each."""
    return writer.op("OneHot", index, writer.ints(count), writer.constant(np.array([0, 1], np.float32)), axis=-1)


def seed(writer: Writer, scores: ir.Value, index: ir.Value) -> Cotangent:
    """The cotangent of chosen classes int64 [K, B] at scores [B, n], [B, n, 1, 1], [B, 1, n] or [B]."""
    shape, axis = shape_of(scores), class_axis(scores)
    if len(shape) == 1:
        ones = writer.op("Cast", writer.op("Equal", index, index), to=int(ir.DataType.FLOAT))
        return Cotangent(ones)
    count = shape[axis]
    assert isinstance(count, int)
    hot = one_hot(writer, index, count)
    return Cotangent(writer.unsqueeze(hot, *(a + 1 for a in range(1, len(shape)) if a != axis)))
