"""Classifiers with the paper's head: scores and maps over N DropKey masks.

At layer4 with Grad-CAM the heatmap comes from the Gram matrix alone. Every other layer, method or the raw gradient starts from the
head's closed-form gradient and is swept back.
"""

from __future__ import annotations

import onnx_ir as ir

from dkcam.export.derivative.sweep import sweep
from dkcam.export.explain import cam
from dkcam.export.explain.dropkey import Attention, ClosedForm
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.scores import choose
from dkcam.export.writer import Writer, shape_of


def explain(writer: Writer, head: Attention, classes: ir.Value, layer: Layer, method: str, gradient: bool) -> dict[str, ir.Value]:
    """All outputs by their fixed names. heatmap: mean of the ReLU'd maps over masks; heatmap_std: their population standard deviation.

    gradient: whether that output is wanted, so that it has to be swept for.
    """
    probabilities = head.probabilities(writer)
    explained = writer.transpose(choose(writer, classes, probabilities), 1, 0)
    found = {"logits": head.logits(writer), "probabilities": probabilities, "explained": explained}
    closed = ClosedForm(writer, head, explained)
    masks = shape_of(head.attention)[1]
    assert isinstance(masks, int)
    shape = writer.dims(layer.value, layer.space[0], layer.space[1] + 1)
    if layer.value is head.features and method == "gradcam" and not gradient:
        maps, varying = (writer.reshape(one, writer.dims(one, 0, 3), shape) for one in closed.heatmaps())
        found |= {"weights": closed.weights(), "features": writer.float32(layer.value)}
    else:
        writer.part = "gradient"
        arrived = sweep(writer, {head.features: closed.seed()}, [layer.value])[layer.value]
        writer.part = "heatmap"
        said = cam.explain(writer, layer, arrived, method)
        maps = varying = writer.reshape(said.heatmap, writer.dims(said.heatmap, 0, 1), [masks, -1], shape)
        found["features"] = said.features
        for name, value in (("weights", said.weights), ("gradient", said.gradient)):
            each = writer.reshape(value, writer.dims(value, 0, 1), [masks, -1], writer.dims(value, 2))
            found[name] = writer.mean(each, 1, keep=False)
    found["heatmap"] = writer.mean(maps, 1, keep=False)
    away = writer.sub(varying, writer.mean(varying, 1))
    found["heatmap_std"] = writer.op("Sqrt", writer.mean(writer.mul(away, away), 1, keep=False))
    return found
