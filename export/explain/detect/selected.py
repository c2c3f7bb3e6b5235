"""Behind a network's own choice of boxes: the tables that TopK and Gather chose from."""

from __future__ import annotations

import onnx_ir as ir

from dkcam.export.explain.detect.trace import Index, per_picture, trace

CHOOSES = frozenset({"GatherElements", "GatherND", "Gather", "TopK"})
PASSES = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand"})


def unselected(value: ir.Value, index: Index) -> ir.Value | None:
    """The table that elements ``index`` of ``value`` were chosen from by numbers known only when the graph runs; None without one."""
    pieces = trace(value, index.ravel(), squashes=False)
    found, at = None, pieces[0].value
    while len(pieces) == 1 and (node := at.producer()) is not None and node.inputs and node.inputs[0] is not None:
        if node.op_type in CHOOSES and at is node.outputs[0]:
            found = node.inputs[0]
        elif node.op_type not in PASSES:
            break
        at = node.inputs[0]
    return found


def unflattened(value: ir.Value) -> ir.Value:
    """The table [B, A, n] that scores [B, A · n] were laid out from, if they were."""
    node, shape = value.producer(), per_picture(value)
    if node is None or node.op_type not in ("Flatten", "Reshape") or node.inputs[0] is None or shape is None or len(shape) != 1:
        return value
    before = per_picture(node.inputs[0])
    return node.inputs[0] if before is not None and len(before) == 2 and before[0] * before[1] == shape[0] else value
