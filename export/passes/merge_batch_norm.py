"""A batch-norm behind a convolution, or behind a matrix product with one number a channel, becomes part of its weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.passes.edit import Editor, readers, real
from dkcam.export.writer import array_of

Float64 = NDArray[np.float64]
EPSILON = 1e-5  # ONNX's default


@dataclass(frozen=True)
class Affine:
    """A batch-norm in inference mode: y = factor · x + shift for each channel, float64 [C]."""

    factor: Float64
    shift: Float64

    @staticmethod
    def of(node: ir.Node) -> Affine | None:
        """None where the batch-norm trains, or its numbers are computed."""
        training = node.attributes.get("training_mode")
        arrays = [array_of(value) for value in node.inputs[1:5]]
        parts = [array.astype(np.float64) for array in arrays if array is not None]
        if len(parts) != 4 or (training is not None and training.as_int()):
            return None
        given = node.attributes.get("epsilon")
        scale, bias, mean, variance = parts
        factor = scale / np.sqrt(variance + (EPSILON if given is None else given.as_float()))
        return Affine(factor, bias - mean * factor)


def merge_batch_norm(model: ir.Model, keep: Collection[str] = ()) -> int:
    """Merge every batch-norm that directly follows an operator with constant float32 weights; returns how many.

    The result is the batch-norm's; its numbers are computed in float64 and rounded once. keep: values that must still be there
    afterwards, as graph outputs and values with several readers are in any case.
    """
    editor, merged = Editor(model), 0
    outputs = set(model.graph.outputs)
    for node in list(model.graph):
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx") or any(output.uses() for output in node.outputs[1:]):
            continue
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        if source is None or before is None or not real(source) or source in outputs or source.name in keep or readers(source) != [node]:
            continue
        affine = Affine.of(node)
        if affine is not None and _merge(editor, before, affine):
            editor.join(before, node)
            merged += 1
    if merged:
        editor.finish()
    return merged


def _merge(editor: Editor, node: ir.Node, affine: Affine) -> bool:
    """Change the weights of an operator; False where it cannot be."""
    weight = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or weight.dtype != np.float32 or node.domain not in ("", "ai.onnx"):
        return False
    third = node.inputs[2] if len(node.inputs) > 2 else None
    bias = array_of(third)
    if third is not None and bias is None:
        return False
    channels, wide = len(affine.factor), weight.astype(np.float64)
    old = np.zeros(channels) if bias is None else bias.astype(np.float64)
    if node.op_type in ("Conv", "ConvTranspose"):
        group = node.attributes.get("group")
        wide = _scaled(wide, affine.factor, node.op_type == "Conv", 1 if group is None else group.as_int())
    elif node.op_type == "Gemm" and old.size in (1, channels):
        turned, beta = node.attributes.get("transB"), node.attributes.get("beta")
        wide = wide * (affine.factor[:, None] if turned is not None and turned.as_int() else affine.factor)
        old = old.ravel() * (1 if beta is None else beta.as_float())
        if beta is not None:
            node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    elif node.op_type == "MatMul" and weight.ndim == 2 and node.outputs[0].shape is not None and len(node.outputs[0].shape) == 2:
        wide = wide * affine.factor
        node.op_type = "Gemm"
    else:
        return False
    _replace(editor, node, 1, wide.astype(np.float32), "weight")
    _replace(editor, node, 2, (old * affine.factor + affine.shift).astype(np.float32), "bias")
    return True


def _scaled(weight: Float64, factor: Float64, forwards: bool, group: int) -> Float64:
    """Weights [out, in/group, …], or of a transposed convolution [in, out/group, …], times a factor for each output channel."""
    if forwards:
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    grouped = weight.reshape(group, -1, *weight.shape[1:])
    return np.asarray((grouped * factor.reshape(group, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape))


def _replace(editor: Editor, node: ir.Node, index: int, values: NDArray[np.float32], kind: str) -> None:
    """A new constant, under the name of the one that was there if nothing else reads that."""
    old, weight = node.inputs[index] if index < len(node.inputs) else None, node.inputs[1]
    assert weight is not None and weight.name is not None
    name = f"{weight.name.removesuffix('.weight')}.{kind}" if old is None or old.name is None else old.name
    node.resize_inputs(max(len(node.inputs), index + 1))
    node.replace_input_with(index, None)
    if old is not None and not old.uses():
        editor.drop(old)
    node.replace_input_with(index, editor.weight(name, values))
