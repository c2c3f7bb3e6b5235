"""The exported graph: image and class numbers in; scores, Grad-CAM weights and heatmaps out. No random operator.

At layer4 with Grad-CAM the heatmap comes from the Gram matrix alone. Every other layer, method or the raw gradient
starts from the head's closed-form gradient and pulls it back through the backbone.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from dkcam.errors import ExportError
from dkcam.export.backbone import Backbone
from dkcam.export.builder import Builder, Dimension
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.head import Head
from dkcam.export.methods import METHODS
from dkcam.export.precision.backbone import MergedBackbone
from dkcam.export.precision.numerics import Numerics
from dkcam.export.sizes import STRIDE
from dkcam.spec import SPEC_KEY, ModelSpec

_TYPES = {"explained": TensorProto.INT64}


def write_graph(checkpoint: Checkpoint, spec: ModelSpec, *, numerics: Numerics | None = None, probes: bool = False) -> bytes:
    """The ONNX file's bytes for a checkpoint and a spec: same arguments, same bytes.

    numerics: of the backbone, float32 by default. probes: also give every ReLU's output as ``relu_0``, ``relu_1``, … (for
    verification, not for files).

    Errors: ExportError when the spec asks for what this model does not have (layer, masks, free size).
    """
    model, config, graph = checkpoint.module(), checkpoint.config, Builder()
    free_size = "size" in spec.input.dynamic
    layer, masks = spec.explanation.layers[0], spec.masks
    if masks is not None and config.variant != "dropkey":
        raise ExportError(f"--samples {masks.samples}: masks belong to the dropkey variant, this model is {config.variant}")
    if config.variant == "dropkey" and config.grid is not None and free_size:
        raise ExportError("--dynamic size: this model pools to a fixed token grid, which needs a fixed size; leave size out")
    size = None if free_size else (spec.input.height // STRIDE, spec.input.width // STRIDE)
    backbone = MergedBackbone(model, layer, graph, numerics) if numerics else Backbone(model, layer, graph)
    top, features = backbone.forward(_normalise(graph, spec))
    weight, bias = (p.detach().float().numpy() for p in (model.fc.weight, model.fc.bias))
    head = Head(graph, config, top, weight, bias, "key_mask" if masks else None, size)
    found = {"logits": head.logits(), "probabilities": head.probabilities(), "features": features}
    found["explained"] = _choose(graph, found["probabilities"], config.classes)
    head.explain(found["explained"])
    found.update(_explain(graph, head, backbone, features, spec))
    for name in spec.explanation.outputs:
        graph.op("Identity", found[name], name=name)
    outputs = _outputs(spec, config.classes)
    for index, name in enumerate(backbone.activations() if probes else ()):
        graph.op("Identity", name, name=f"relu_{index}")
        outputs.append((f"relu_{index}", TensorProto.FLOAT, ["batch", "channels", f"rows_{index}", f"columns_{index}"]))
    names = "{" + ", ".join(f"{i}: {label!r}" for i, label in enumerate(spec.labels)) + "}"
    metadata = {SPEC_KEY: spec.to_json(), "names": names}
    return graph.model(_inputs(spec), outputs, metadata, spec.provenance.versions.get("dkcam", ""))


def _normalise(graph: Builder, spec: ModelSpec) -> str:
    if spec.input.kind == "tensor":
        return "image"
    graph.part = "input"
    # cast first, transpose after: TensorRT takes a uint8 input only into a cast
    pixels = graph.transpose(graph.op("Cast", "image", to=TensorProto.FLOAT), 0, 3, 1, 2)
    std = np.array(spec.input.std, np.float32)[:, None, None]
    scaled = graph.op("Mul", pixels, graph.constant(1 / (255 * std)))
    return graph.op("Sub", scaled, graph.constant(np.array(spec.input.mean, np.float32)[:, None, None] / std))


def _choose(graph: Builder, probabilities: str, classes: int) -> str:
    """Class numbers int64 [B, K]: the input ``classes`` as given, or for −r the class of rank r."""
    graph.part = "explain"
    order = graph.top_k(probabilities, classes)
    negative = graph.op("Less", "classes", graph.ints(0))
    rank = graph.op("Sub", graph.op("Neg", "classes"), graph.ints(1))
    rank = graph.op("Where", negative, rank, graph.ints(0))
    return graph.op("Where", negative, graph.op("Gather", order, rank, axis=1), "classes")


def _explain(graph: Builder, head: Head, backbone: Backbone, features: str, spec: ModelSpec) -> dict[str, str]:
    found: dict[str, str] = {}
    masks = spec.masks.samples if spec.masks else 1
    if backbone.is_output and spec.explanation.method == "gradcam" and "gradient" not in spec.explanation.outputs:
        maps, varying = head.heatmaps()
        found["weights"] = head.weights()
    else:
        gradient = head.gradient()
        if not backbone.is_output:
            gradient = backbone.pull_back(gradient)
        graph.part = "explain"
        maps = METHODS[spec.explanation.method](graph, graph.unsqueeze(features, 1), gradient)
        maps = varying = graph.reshape(maps, 0, masks, -1, graph.dims(maps, 2, 3))
        per_mask = graph.reshape(gradient, 0, masks, -1, graph.dims(features, 1, 4))
        found["gradient"] = graph.mean(per_mask, 1)
        found["weights"] = graph.mean(found["gradient"], 3, 4)
    mean = graph.mean(maps, 1)
    found["heatmap"] = graph.reshape(mean, 0, 0, graph.dims(features, 2, 4))
    if spec.masks:
        away = graph.op("Sub", varying, graph.mean(varying, 1, keep=True))
        deviation = graph.op("Sqrt", graph.mean(graph.op("Mul", away, away), 1))
        found["heatmap_std"] = graph.reshape(deviation, 0, 0, graph.dims(features, 2, 4))
    return found


def _inputs(spec: ModelSpec) -> list[tuple[str, int, list[Dimension]]]:
    batch: Dimension = "batch" if "batch" in spec.input.dynamic else spec.input.batch[0]
    height, width = _free(spec, spec.input.height, "height"), _free(spec, spec.input.width, "width")
    if spec.input.kind == "rgb8":
        image: tuple[str, int, list[Dimension]] = ("image", TensorProto.UINT8, [batch, height, width, 3])
    else:
        image = ("image", TensorProto.FLOAT, [batch, 3, height, width])
    inputs = [image]
    if set(spec.explanation.outputs) - {"logits", "probabilities", "features"}:
        inputs.append(("classes", TensorProto.INT64, [spec.explanation.count or "K"]))
    if spec.masks:
        tokens = _free(spec, spec.masks.tokens(spec.input.height, spec.input.width), "tokens")
        inputs.append(("key_mask", TensorProto.BOOL, [spec.masks.samples, tokens, tokens]))
    return inputs


def _free(spec: ModelSpec, value: int, name: str) -> Dimension:
    return name if "size" in spec.input.dynamic else value


def _outputs(spec: ModelSpec, classes: int) -> list[tuple[str, int, list[Dimension]]]:
    batch: Dimension = "batch" if "batch" in spec.input.dynamic else spec.input.batch[0]
    count: Dimension = spec.explanation.count or "K"
    place: list[Dimension] = ["rows", "columns"]  # of the target layer: known once the graph is shape-inferred
    shapes: dict[str, list[Dimension]] = {
        "logits": [batch, classes],
        "probabilities": [batch, classes],
        "explained": [batch, count],
        "weights": [batch, count, "channels"],
        "heatmap": [batch, count, *place],
        "heatmap_std": [batch, count, *place],
        "gradient": [batch, count, "channels", *place],
        "features": [batch, "channels", *place],
    }
    return [(name, _TYPES.get(name, TensorProto.FLOAT), shapes[name]) for name in spec.explanation.outputs]
