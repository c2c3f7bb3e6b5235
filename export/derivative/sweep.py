"""Walks back from scores to target values, one rule an operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dkcam.export.derivative import rules  # noqa: F401
from dkcam.export.derivative.cotangent import Cotangent, merge
from dkcam.export.derivative.places import canonical
from dkcam.export.derivative.rule import RULES, Step, UnsupportedOperator
from dkcam.export.writer import FLOATS, UnknownShape, Writer

# no gradient comes out of these: their outputs are whole numbers, truths, or steps
CONSTANT = frozenset(
    {
        "ArgMax",
        "ArgMin",
        "And",
        "BitShift",
        "Ceil",
        "ConstantOfShape",
        "Equal",
        "EyeLike",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "NonMaxSuppression",
        "NonZero",
        "Not",
        "OneHot",
        "Or",
        "RandomNormalLike",
        "RandomUniformLike",
        "Range",
        "Round",
        "Shape",
        "Sign",
        "Size",
        "Xor",
    }
)
QUANTISED = frozenset({"QuantizeLinear"})  # whole numbers that stand for real ones


def sweep(writer: Writer, seeds: Mapping[ir.Value, Cotangent], targets: Sequence[ir.Value]) -> dict[ir.Value, Cotangent]:
    """The cotangent that arrives at each target, from the seeds given at scores.

    Only nodes between a target and a seeded value are walked. A target may lie behind another: each keeps what arrives at it.
    Errors: UnsupportedOperator; a target that no gradient reaches is left out.
    """
    nodes = list(writer.graph)
    active = activated(nodes, targets)
    needed = ancestors(list(seeds))
    arrived: dict[ir.Value, list[Cotangent]] = defaultdict(list)
    for value, seed in seeds.items():
        arrived[value].append(seed)
    for node in reversed(nodes):
        if node not in needed or not any(arrived.get(output) for output in node.outputs):
            continue
        wants = [value is not None and value in active for value in node.inputs]
        if not any(wants):
            continue
        try:
            given = [_together(writer, arrived[output]) if arrived.get(output) else None for output in node.outputs]
            for output, one in zip(node.outputs, given, strict=True):
                if one is not None:
                    arrived[output] = [one]  # a target among them is asked for once more below
            rule = RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
            if rule is None:
                raise UnsupportedOperator(node)
            for index, cotangent in rule(writer, Step(writer, node, wants), given).items():
                source = node.inputs[index]
                assert source is not None and wants[index]
                arrived[source].append(cotangent)
        except UnknownShape as error:
            raise UnsupportedOperator(node, str(error)) from error
    return {target: _together(writer, arrived[target]) for target in targets if arrived.get(target)}


def _together(writer: Writer, cotangents: Sequence[Cotangent]) -> Cotangent:
    return merge(writer, [canonical(writer, one) for one in cotangents])


def activated(nodes: Sequence[ir.Node], targets: Sequence[ir.Value]) -> set[ir.Value]:
    """The targets and every real value that depends on one; ``nodes`` in the order they run."""
    active = set(targets)
    for node in nodes:
        if node.op_type not in CONSTANT and any(value in active for value in node.inputs if value is not None):
            active.update(output for output in node.outputs if output.dtype in FLOATS or node.op_type in QUANTISED)
    return active


def ancestors(values: Sequence[ir.Value]) -> set[ir.Node]:
    """Every node that these values depend on."""
    found: set[ir.Node] = set()
    waiting = list(values)
    while waiting:
        node = waiting.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            waiting += [value for value in node.inputs if value is not None]
    return found
