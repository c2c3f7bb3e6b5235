"""Where int8 can be: the operators that have it, and the values that are 8 bits wide between them.

An operator's result is rounded to 8 bits behind the activation that follows it. What an engine computes on 8 bits passes them on: sums,
pooling, changes of layout. The boundary and what follows stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from dkcam.export.derivative.sweep import activated, ancestors
from dkcam.export.explain.layers import multiplications
from dkcam.export.explain.names import path_of
from dkcam.export.passes.edit import Array, readers, real
from dkcam.export.writer import Dimension, array_of, rank_of, shape_of

FEWEST_ROWS = 8  # of a matrix product: one of a few rows reads its weights longer than it multiplies
LONGEST_ACTIVATION = 8  # nodes: a GELU has five
LAYOUT = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "Split", "Gather", "Pad"})
PICKING = LAYOUT | {"MaxPool", "Resize"}  # these keep their input's range
PASSING = PICKING | {"Add", "Concat", "AveragePool", "Relu", "Clip"}
LOOKED_UP = frozenset({"Sigmoid", "Mul", "LeakyRelu"})  # ONNX Runtime has them on 8 bits; TensorRT fuses them with what comes before
CLIPPED = frozenset({"Relu", "Clip"})  # engines make these part of the operator before them
POINTWISE = CLIPPED | {
    *(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Min",
        "Max",
        "Neg",
        "Abs",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Tanh",
        "Erf",
        "Softplus",
        "Exp",
        "Pow",
    ),
    *("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Swish", "Softsign", "ThresholdedRelu"),
}


@dataclass(frozen=True)
class Operator:
    """A node that int8 can have. work: multiplications for one picture. axis: of its weights' output channels."""

    name: str
    node: ir.Node
    weight: Array
    axis: int
    work: int

    @property
    def source(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def result(self) -> ir.Value:
        return self.node.outputs[0]


@dataclass
class Plan:
    """operators: that are int8, by name. rounded: values that everything reads with 8 bits. given: further values that the operators
    alone read so.
    """

    operators: dict[str, Operator]
    rounded: list[ir.Value] = field(default_factory=list)
    given: list[ir.Value] = field(default_factory=list)

    def ranges(self) -> list[str]:
        """Names of the values whose ranges are wanted."""
        return list(dict.fromkeys(range_of(value) for value in (*self.rounded, *self.given)))


def operators(model: ir.Model, ends: Collection[ir.Value], target: str, keep: Collection[str] = ()) -> dict[str, Operator]:
    """What int8 can have upstream of these values, in the order the network computes it. keep: results that stay as they are."""
    graph, fixed = model.graph, {*ends, *model.graph.outputs}
    inside, moving = ancestors(list(ends)), activated(list(graph), graph.inputs)
    found = [operator for node in graph if node in inside and node.inputs and node.inputs[0] in moving if (operator := _operator(node))]
    found = [one for one in found if one.result.name not in keep]
    if target == "cpu":  # ONNX Runtime's int8 convolutions give 8 bits; those that must give float32 run on floats in any case
        found = [one for one in found if one.node.op_type != "Conv" or not fixed & {one.result, clipped(one.result)}]
    paths = [path_of(one.node) for one in found]
    names = [
        path if path and paths.count(path) == 1 else one.node.name or one.result.name or "" for path, one in zip(paths, found, strict=True)
    ]
    return {name: Operator(name, one.node, one.weight, one.axis, one.work) for name, one in zip(names, found, strict=True)}


def _operator(node: ir.Node) -> Operator | None:
    weight = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    out, source = node.outputs[0].shape, node.inputs[0]
    if (
        weight is None
        or weight.dtype != np.float32
        or out is None
        or source is None
        or not real(source)
        or node.domain not in ("", "ai.onnx")
    ):
        return None
    axis, work = 0, multiplications(node)
    if node.op_type == "Conv":
        # squeeze and excitation: a map of one position has nothing to gain
        if weight.ndim != 4 or list(out[2:]) == [1, 1]:
            return None
    elif node.op_type in ("Gemm", "MatMul") and weight.ndim == 2:
        turned = {name: node.attributes[name].as_int() for name in ("transA", "transB") if name in node.attributes}
        axis = 0 if turned.get("transB") else 1
        rows = _tokens(source) if len(out) == 2 else out[1:-1]
        if turned.get("transA") or math.prod(d if isinstance(d, int) else 1 for d in rows) < FEWEST_ROWS:
            return None
        if any(name in node.attributes and node.attributes[name].as_float() != 1 for name in ("alpha", "beta")):
            return None
    else:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = array_of(node.inputs[2])
        if bias is None or bias.ndim != 1:
            return None
    return Operator(node.name or "", node, weight, axis, work)


def _tokens(source: ir.Value) -> list[Dimension]:
    """The dimensions whose product is the number of rows, without the batch where that is known."""
    before = source.producer()
    if before is not None and before.op_type == "Reshape" and before.inputs[0] is not None and rank_of(before.inputs[0]) > 2:
        return shape_of(before.inputs[0])[1:-1]
    return shape_of(source)[:1]


def plan(model: ir.Model, ends: Collection[ir.Value], target: str, keep: Collection[str] = (), kept: Collection[str] = ()) -> Plan:
    """Which operators are int8 and which values have 8 bits. keep: as ``operators``. kept: names of operators left in float32."""
    known = operators(model, ends, target, keep)
    found = Plan({name: one for name, one in known.items() if name not in kept})
    chosen = {one.node for one in found.operators.values()}
    eight_bits = {one.node for one in known.values()}
    fixed, inside = {*ends, *model.graph.outputs}, ancestors(list(ends))
    low: set[ir.Value] = set()
    own: set[ir.Value] = set()  # what a convolution itself gives
    skipped: set[ir.Value] = set()  # within an activation, or before one that engines make part of the operator
    covered: set[ir.Node] = set()
    passing: set[ir.Node] = set()
    for node in model.graph:
        if node not in inside or node in covered:
            continue
        if node in chosen and node.op_type == "Conv":
            results, nodes = _activation(node.outputs[0], target)
            covered |= nodes
            low |= results
            own.add(clipped(node.outputs[0]))
        elif (passes(node) or (target == "cpu" and node.op_type in LOOKED_UP)) and _all_low(node, low):
            passing.add(node)
            results = {output for output in node.outputs if real(output)}
            low |= results
            skipped |= {value for value in results if any(reader.op_type in CLIPPED for reader in readers(value))}
    useful = _useful(model, eight_bits, passing)
    for value in [value for node in model.graph for value in node.outputs if value in low]:
        if value in fixed or value in skipped:
            continue
        # TensorRT adds and clips a convolution's own, wider result; what only convolutions and pooling read costs nothing to round.
        # Max pooling: before, not behind, for the gradient finds the largest element by comparing
        if target == "gpu" and not any(reader in eight_bits or reader.op_type == "MaxPool" for reader in readers(value)):
            continue
        if target == "cpu" and value not in own and value not in useful:
            continue
        found.rounded.append(value)
    everywhere = set(found.rounded)
    for value in dict.fromkeys(one.source for one in found.operators.values()):
        if value not in everywhere:
            alone = value not in fixed and value.producer() is not None and all(node in chosen for node in readers(value))
            (found.rounded if alone else found.given).append(value)
    return found


def clipped(value: ir.Value) -> ir.Value:
    """Behind the ReLU or Clip that alone reads a value; else the value."""
    after = readers(value)
    return after[0].outputs[0] if len(after) == 1 and after[0].op_type in CLIPPED and after[0].inputs[0] is value else value


def _activation(result: ir.Value, target: str) -> tuple[set[ir.Value], set[ir.Node]]:
    """Where the 8 bits of a convolution's result are, and the nodes from it to the last of those.

    On a processor ONNX Runtime's convolution itself must give 8 bits; TensorRT fuses the whole activation.
    """
    first = clipped(result)
    last, nodes = behind_activation(first)
    if target == "cpu" and all(node.op_type in LOOKED_UP for node in nodes):
        last, nodes = first, set()
    if first is not result:
        nodes = nodes | set(readers(result))
    return ({first, last} if target == "cpu" else {last}), nodes


def behind_activation(value: ir.Value) -> tuple[ir.Value, set[ir.Node]]:
    """The value behind the pointwise operators that follow (SiLU's Sigmoid and Mul, GELU's five), and those. Itself without any."""
    found, inside = (value, set[ir.Node]()), set[ir.Node]()
    values, waiting = {value}, [value]
    while waiting and len(inside) < LONGEST_ACTIVATION:
        current = waiting.pop(0)
        for node in readers(current):
            others = [other for other in node.inputs if other is not None and other not in values and array_of(other) is None]
            if node.op_type not in POINTWISE or any(other.producer() is None for other in others):
                return found
            if others or node in inside:
                continue  # its other input may still come from the value itself
            inside.add(node)
            values.add(node.outputs[0])
            waiting.append(node.outputs[0])
        open_ends = [one for one in values if not one.uses() or any(reader not in inside for reader in readers(one))]
        if len(open_ends) == 1 and open_ends[0] is not value:
            found = open_ends[0], set(inside)
    return found


def passes(node: ir.Node) -> bool:
    """Whether engines compute this operator on 8 bits."""
    if node.op_type == "Resize":
        return "mode" not in node.attributes or node.attributes["mode"].as_string() == "nearest"
    if node.op_type == "Pad":  # 0 is in every range
        fill = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
        return (len(node.inputs) < 3 or node.inputs[2] is None) or (fill is not None and not fill.any())
    return node.op_type in PASSING and node.domain in ("", "ai.onnx")


def _useful(model: ir.Model, eight_bits: Collection[ir.Node], passing: Collection[ir.Node]) -> set[ir.Value]:
    """The values that an operator on 8 bits reads, be it in another layout."""
    found: set[ir.Value] = set()
    for node in reversed(model.graph):
        if node in eight_bits or (node in passing and (node.op_type not in LAYOUT or any(output in found for output in node.outputs))):
            found.update(value for value in node.inputs if value is not None)
    return found


def _all_low(node: ir.Node, low: set[ir.Value]) -> bool:
    moving = [value for value in node.inputs if value is not None and real(value) and array_of(value) is None]
    if node.op_type in ("Resize", "Pad", "Clip"):
        moving = [value for value in moving if value is node.inputs[0]]
    return bool(moving) and all(value in low for value in moving)


def range_of(value: ir.Value) -> str:
    """The name of the value whose range this one has."""
    node = value.producer()
    while node is not None and node.op_type in PICKING and passes(node) and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    assert value.name is not None
    return value.name
