"""float16 up to a boundary, float32 from there on, so that scores and gradients are written over float32 values.

float16 begins with the first convolution or matrix product: what leads to it (a picture's way in) stays float32. It ends at the boundary,
whose values keep their names and are float32, behind a Cast.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from dkcam.export.derivative.sweep import activated, ancestors
from dkcam.export.passes.edit import MULTIPLYING, Array, Editor, named, real
from dkcam.export.writer import array_of

LARGEST = float(np.finfo(np.float16).max)
MARGIN = 4.0  # a value that reached a quarter of the largest on some pictures may pass it on others
LOST = 2.0**-10  # of a constant's norm: twice what rounding takes where no number is too small or too large
MOST_SUMMED = 64  # a sum of 64 numbers in float16 loses 2.5 times what one rounding does, one of 784 loses 12 times, 12,544 give nothing

EXPONENTIALS = "sums exponentials: 14 times one rounding over 197 tokens, 118 times over 3,136"
VARIANCE = "sums squares of a channel: 14 times one rounding over 768 channels, and a channel of 256 or more overflows"
OVERFLOWS = "leaves float16 where its input does not"
POSITIONS = "its positions would be off by a fifth of a pixel at 512"
RUNNING = "a running sum: every element has the rounding of all before it"

FLOAT32 = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "ReduceLogSumExp", "ReduceLogSum"), EXPONENTIALS),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"), VARIANCE),
    **dict.fromkeys(("MeanVarianceNormalization", "LpNormalization", "LRN", "BatchNormalization"), VARIANCE),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "ReduceProd", "GlobalLpPool", "LpPool"), VARIANCE),
    **dict.fromkeys(("Exp", "Pow", "Reciprocal", "Softplus", "Log", "Sqrt", "Sinh", "Cosh", "Tan"), OVERFLOWS),
    **dict.fromkeys(("GridSample", "RoiAlign", "AffineGrid"), POSITIONS),
    **dict.fromkeys(("CumSum", "CumProd", "LSTM", "GRU", "RNN", "Einsum", "Det"), RUNNING),
}
"""Operators that stay float32, and why. Each figure is the error of an output beside its largest value, in roundings of 2^-11, where
every step of the operator rounds: what a kernel may do. What is not here loses at most 1.5 roundings.
"""
SUMS = frozenset({"ReduceMean", "ReduceSum", "ReduceL1", "GlobalAveragePool", "AveragePool"})


def half(model: ir.Model, boundary: Collection[str], largest: Mapping[str, float] | None = None) -> list[ir.Node]:
    """Let the nodes upstream of the boundary compute in float16; returns those that do, none where nothing multiplies.

    boundary: names of values. largest: magnitudes that values reached on pictures, by name (``calibrate``); what comes near
    float16's largest number stays float32. Errors: ExportError for a name that is not there.
    """
    ends = named(model.graph, boundary)
    chosen = _chosen(model, ends, largest or {})
    if chosen:
        _lower(Editor(model), chosen, set(ends))
    return list(chosen)


def watched(model: ir.Model, boundary: Collection[str]) -> list[str]:
    """Names of the values whose magnitudes ``half`` wants to know."""
    inside, moving = ancestors(named(model.graph, boundary)), activated(list(model.graph), model.graph.inputs)
    values = [value for node in model.graph if node in inside for value in node.outputs]
    return [value.name for value in values if value.name is not None and value in moving and real(value)]


def reason(node: ir.Node, opset: int = 18) -> str:
    """Why an operator stays float32 wherever it stands, "" if it need not."""
    if node.domain not in ("", "ai.onnx"):
        return "not of ONNX's own operators"
    if node.op_type in FLOAT32:
        return FLOAT32[node.op_type]
    if node.op_type in SUMS and _summed(node) > MOST_SUMMED:
        return f"sums more than {MOST_SUMMED} numbers"
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return VARIANCE
    if node.op_type == "Div" and array_of(node.inputs[1]) is None:
        return OVERFLOWS
    if not _halved(node, opset):
        return "has no float16"
    for value in node.inputs:
        array = array_of(value)
        if array is not None and array.dtype == np.float32 and not _holds(array):
            return "float16 does not hold its constant"
    return ""


def rounded(array: Array) -> Array:
    """Numbers as float16; what lies beyond becomes float16's largest."""
    return np.clip(array, -LARGEST, LARGEST).astype(np.float16)


def _holds(array: Array) -> bool:
    wide = array.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where(np.isinf(wide), 0.0, wide - rounded(array).astype(np.float64))
        finite = np.where(np.isfinite(wide), wide, 0.0)
    return bool(np.linalg.norm(apart) <= LOST * np.linalg.norm(finite))


def _summed(node: ir.Node) -> float:
    """How many numbers make one output; infinite where that is free."""
    if node.op_type == "AveragePool":
        return math.prod(node.attributes["kernel_shape"].as_ints())
    sizes = []
    for value in (node.inputs[0], node.outputs[0]):
        if value is None or value.shape is None or not all(isinstance(d, int) for d in value.shape[1:]):
            return math.inf
        sizes.append(math.prod(d for d in value.shape[1:] if isinstance(d, int)))
    return sizes[0] / max(sizes[1], 1)


def _halved(node: ir.Node, opset: int) -> list[int]:
    """Numbers of the inputs that have the type of a real output, where that may be float16."""
    if node.op_type in ("Cast", "CastLike", "Constant", "ConstantOfShape") or not any(real(output) for output in node.outputs):
        return []
    schema = onnx.defs.get_schema(node.op_type, opset)
    kinds = {schema.outputs[min(i, len(schema.outputs) - 1)].type_str for i, output in enumerate(node.outputs) if real(output)}
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    if len(kinds) != 1 or "tensor(float16)" not in allowed.get(next(iter(kinds)), ()):
        return []
    (kind,) = kinds
    return [i for i, value in enumerate(node.inputs) if real(value) and schema.inputs[min(i, len(schema.inputs) - 1)].type_str == kind]


def _chosen(model: ir.Model, ends: list[ir.Value], largest: Mapping[str, float]) -> dict[ir.Node, list[int]]:
    """The nodes that compute in float16, in the order they run, and which of their inputs do."""
    opset = model.opset_imports.get("", 18)
    inside, moving = ancestors(ends), activated(list(model.graph), model.graph.inputs)
    behind: set[ir.Value] = set()  # what some convolution came before
    chosen: dict[ir.Node, list[int]] = {}
    for node in model.graph:
        given = [value for value in node.inputs if value is not None]
        begun = any(value in behind for value in given)
        begins = node.op_type in MULTIPLYING and real(node.inputs[0]) and node.inputs[0] in moving
        if node not in inside or not (begun or begins):
            continue
        behind.update(node.outputs)
        far = any(largest.get(value.name or "", 0.0) > LARGEST / MARGIN for value in (*given, *node.outputs))
        if not far and not reason(node, opset):
            chosen[node] = _halved(node, opset)
    return _without_islands(chosen)


def _without_islands(chosen: dict[ir.Node, list[int]]) -> dict[ir.Node, list[int]]:
    """Without groups of nodes that multiply nothing: casts around them cost more than they save."""
    group = {node: node for node in chosen}

    def root(node: ir.Node) -> ir.Node:
        while group[node] is not node:
            group[node] = group[group[node]]
            node = group[node]
        return node

    for node in chosen:
        for value in node.inputs:
            before = value.producer() if value is not None else None
            if before in group and real(value):
                group[root(node)] = root(before)
    worth = {root(node) for node in chosen if node.op_type in MULTIPLYING}
    return {node: inputs for node, inputs in chosen.items() if root(node) in worth}


def _lower(editor: Editor, chosen: Mapping[ir.Node, list[int]], ends: set[ir.Value]) -> None:
    outputs = set(editor.graph.outputs)
    narrow: dict[ir.Value, ir.Value] = {}
    lowered = [output for node in chosen for output in node.outputs if real(output)]
    inside = set(lowered)
    reads = {node: set(inputs) for node, inputs in chosen.items()}
    wide_uses = defaultdict(list)
    for value in lowered:
        wide_uses[value] = [use for use in value.uses() if use.idx not in reads.get(use.node, ())]
    for node, inputs in chosen.items():
        for index in inputs:
            source = node.inputs[index]
            assert source is not None
            if source in inside:
                continue
            if source not in narrow:
                array, name = array_of(source), f"{source.name}.half"
                narrow[source] = editor.cast(source, name, ir.DataType.FLOAT16) if array is None else editor.weight(name, rounded(array))
            node.replace_input_with(index, narrow[source])
    for output in lowered:
        if output in ends or output in outputs:
            _widen(editor, output, [use for use in output.uses() if use not in wide_uses[output]])
            continue
        output.type = ir.TensorType(ir.DataType.FLOAT16)
        if wide_uses[output]:
            wide = editor.cast(output, f"{output.name}.wide", ir.DataType.FLOAT)
            for use in wide_uses[output]:
                use.node.replace_input_with(use.idx, wide)
    _own_names(editor, narrow)
    editor.finish()


def _widen(editor: Editor, value: ir.Value, narrow_uses: Sequence[tuple[ir.Node, int]]) -> None:
    """The value itself is float32; what computes in float16 reads it before the Cast."""
    inner = editor.take_over(value, "half")
    inner.type = ir.TensorType(ir.DataType.FLOAT16)
    for node, index in narrow_uses:
        node.replace_input_with(index, inner)
    editor.cast(inner, value, ir.DataType.FLOAT)


def _own_names(editor: Editor, narrow: Mapping[ir.Value, ir.Value]) -> None:
    """A weight of which nothing but its float16 is left has its name again."""
    for wide, value in narrow.items():
        if wide.is_initializer() and not wide.uses() and wide.name is not None:
            name = wide.name
            editor.drop(wide)
            value.name = name
