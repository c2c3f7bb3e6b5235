"""Behind a network's own choice of boxes: the tables that TopK and Gather chose from."""

from __future__ import annotations

import onnx_ir as ir

from dkcam.export.explain.detect.trace import Index, trace

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
