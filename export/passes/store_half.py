"""Weights that float16 holds exactly are stored as float16 behind a Cast: half the file, the same numbers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dkcam.export.passes.edit import Editor, real
from dkcam.export.writer import array_of

LEAST = 64  # values: below, a Cast takes more room than it saves
# engines want these as plain constants: TensorRT the scales of QuantizeLinear, ONNX Runtime what tells a shape
PLAIN = frozenset({"QuantizeLinear", "DequantizeLinear", "Resize", "Upsample", "Pad", "ConstantOfShape"})


def store_half(model: ir.Model) -> int:
    """Store as many constants as possible in half their size; returns how many. Run it last: later passes see a Cast."""
    editor, count = Editor(model), 0
    outputs, inputs = set(model.graph.outputs), set(model.graph.inputs)
    for value in list(model.graph.initializers.values()):
        array = array_of(value)
        if array is None or array.size < LEAST or not real(value) or value in outputs or value in inputs or value.name is None:
            continue
        if not value.uses() or any(use.node.op_type in PLAIN for use in value.uses()):
            continue
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(half.astype(np.float32), array):
            name = value.name
            editor.drop(value)
            stored = editor.weight(f"{name}.half", half)
            value.replace_all_uses_with(editor.cast(stored, name, ir.DataType.FLOAT))
            count += 1
    if count:
        editor.finish()
    return count
