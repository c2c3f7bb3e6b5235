"""The part of a detector that makes one level's raw scores of one map of features, and what of the map a single score sees.

A score of a convolutional head reads a window of its level's features. ``head_of`` finds the features and measures that window, value
by value; where something in between reads more than a window (attention, pooling of all positions), the head has no windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.derivative.rule import Step, UnsupportedOperator
from dkcam.export.derivative.space import windows_of
from dkcam.export.derivative.sweep import CONSTANT, activated, ancestors
from dkcam.export.explain.detect.trace import per_picture
from dkcam.export.explain.layers import Layer, Layers
from dkcam.export.writer import UnknownShape, Writer, array_of, rank_of, shape_of

POINTWISE = frozenset(
    {
        *("Identity", "Cast", "Dropout", "Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Softplus", "Softsign", "Tanh"),
        *("Relu", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Elu", "Celu", "Selu", "Mish", "Gelu", "Clip"),
        *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Where", "BatchNormalization", "QuantizeLinear", "DequantizeLinear"),
    }
)
WEIGHTED = frozenset({"BatchNormalization"})  # its other inputs are one number a channel each


@dataclass(frozen=True)
class Window:
    """Rows top..bottom and columns left..right, both ends included, counted from the score's own cell."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.bottom - self.top + 1, self.right - self.left + 1

    def grown(self, rows: tuple[int, int], columns: tuple[int, int]) -> Window:
        """What a convolution reads for this: (before, after) in rows and columns."""
        return Window(self.top - rows[0], self.bottom + rows[1], self.left - columns[0], self.right + columns[1])

    def __or__(self, other: Window) -> Window:
        return Window(min(self.top, other.top), max(self.bottom, other.bottom), min(self.left, other.left), max(self.right, other.right))


@dataclass(frozen=True)
class Head:
    """features [B, C, h, w]: the level's map. scores: its raw scores, one value or two with objectness. nodes: between them, in order.
    windows: what one score reads of each value, None where it may read everything.
    """

    features: ir.Value
    scores: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    windows: Mapping[ir.Value, Window] | None


def head_of(graph: ir.Graph, scores: Sequence[ir.Value], shared: bool) -> Head | None:
    """The head behind a level's raw scores; None where no map of features is found.

    shared: whether the same convolution makes boxes too: its input is the level's map then. Otherwise the map is the nearest value that
    all of the scores pass through, from which on something else is read as well: boxes, if nothing more.
    """
    if not all(_is_map(value) for value in scores):
        return None
    order = {node: number for number, node in enumerate(graph)}
    features = _features(order, scores, shared)
    if features is None:
        return None
    return between(graph, features, scores)


def between(graph: ir.Graph, features: ir.Value, scores: Sequence[ir.Value]) -> Head:
    """The head that reads ``features``, as its nodes are now."""
    inside, active = ancestors(scores), activated(list(graph), [features])
    inside.discard(features.producer())
    nodes = tuple(node for node in graph if node in inside and any(output in active for output in node.outputs))
    return Head(features, tuple(scores), nodes, _windows(graph, nodes, features, scores, active))


def last_maps(graph: ir.Graph, picture: tuple[int, int], scores: Sequence[ir.Value]) -> tuple[Layer, ...]:
    """The maps [B, C, h, w] of a picture that no other such map is made of: what a transformer's decoder reads, one for each level."""
    image = graph.inputs[0]
    found = [layer for layer in Layers(graph, image, picture, scores).maps() if layer.grid is None and layer.channel == 1]
    found = [layer for layer in found if shape_of(layer.value)[0] == shape_of(image)[0]]
    behind: set[ir.Node] = set()
    kept = []
    for layer in reversed(found):
        if layer.value.producer() not in behind:
            kept.append(layer)
            behind |= ancestors([layer.value])
    return tuple(reversed(kept))


def _features(order: Mapping[ir.Node, int], scores: Sequence[ir.Value], shared: bool) -> ir.Value | None:
    waiting, seen = set(scores), set[ir.Node]()
    weighed = False  # whether the way back has crossed an operator with weights
    while waiting:
        producers = [node for value in waiting if (node := value.producer()) is not None]
        if not producers:
            return None
        node = max(producers, key=lambda one: order[one])
        seen.add(node)
        weighed = weighed or node.op_type in ("Conv", "MatMul", "Gemm")
        waiting -= set(node.outputs)
        waiting |= {value for value in node.inputs if value is not None and _real(value)}
        if len(waiting) != 1 or not weighed:
            continue
        (only,) = waiting
        values = [only, *(value for node in seen for value in node.outputs if value not in scores)]
        outside = any(use.node not in seen and use.node.op_type not in CONSTANT for value in values for use in value.uses())
        if _is_map(only) and (shared or outside):
            return only
    return None


def _real(value: ir.Value) -> bool:
    return value.const_value is None and (value.producer() is None or bool(value.producer().inputs))  # type: ignore[union-attr]


def _is_map(value: ir.Value) -> bool:
    shape = per_picture(value)
    return shape is not None and len(shape) == 3 and shape[1] * shape[2] > 1


def _windows(
    graph: ir.Graph, nodes: Sequence[ir.Node], features: ir.Value, scores: Sequence[ir.Value], active: set[ir.Value]
) -> dict[ir.Value, Window] | None:
    """The window of each value from features to scores; None where one of the nodes reads more."""
    found = {value: Window() for value in scores}
    for node in reversed(nodes):
        reached = [found[output] for output in node.outputs if output in found]
        if not reached:
            continue
        window = reached[0]
        for other in reached[1:]:
            window |= other
        try:
            read = _read(Step(Writer(graph, 18), node, [value in active for value in node.inputs]), window)
        except (UnknownShape, UnsupportedOperator):
            return None
        if read is None or any(value in active and not _is_map(value) for value in (*node.inputs, *node.outputs) if value is not None):
            return None
        for value in node.inputs:
            if value is not None and value in active:
                found[value] = found[value] | read if value in found else read
    return found if features in found else None


def _read(step: Step, window: Window) -> Window | None:
    """What a node reads of its active inputs for a window of its output; None for more than a window."""
    node, kind = step.node, step.node.op_type
    if node.domain not in ("", "ai.onnx"):
        return None
    if kind == "Conv":
        if any(step.active[1:]) or rank_of(step.x) != 4:
            return None
        weight = shape_of(step.input(1))[2:]
        windows = windows_of(step, [size for size in weight if isinstance(size, int)])
        if len(windows.kernel) != 2 or windows.strides != [1, 1] or any(b >= r for b, r in zip(windows.begins, windows.reach, strict=True)):
            return None
        rows, columns = ((windows.begins[axis], windows.reach[axis] - 1 - windows.begins[axis]) for axis in (0, 1))
        return window.grown(rows, columns)
    if kind in ("Concat", "Split", "Slice"):
        return window if _along_channels(step) else None
    if kind not in POINTWISE:
        return None
    space = shape_of(step.y)[2:]
    for index, value in enumerate(node.inputs):
        if value is None or (kind in WEIGHTED and index):
            continue
        if step.active[index]:
            if shape_of(value)[2:] != space:
                return None
        elif value.const_value is None or any(size != 1 for size in shape_of(value)[-2:]) or rank_of(value) > 4:
            return None
    return window


def _along_channels(step: Step) -> bool:
    if step.node.op_type == "Slice":
        axes = array_of(step.node.inputs[3]) if step.has(3) else None
        return axes is not None and [int(axis) % step.rank for axis in axes.ravel()] == [1] and not any(step.active[1:])
    inputs = step.active if step.node.op_type == "Concat" else step.active[:1]
    return all(inputs) and step.attribute("axis", 0) % step.rank == 1
