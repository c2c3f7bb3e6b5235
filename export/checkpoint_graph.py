"""The file of a checkpoint of our own ResNet-50, in any numerics."""

from __future__ import annotations

from dkcam.errors import ExportError
from dkcam.export.assemble import Wanted, to_bytes
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.passes.store_half import store_half
from dkcam.export.precision.build import Subject
from dkcam.export.precision.lower import lower
from dkcam.export.precision.numerics import Numerics
from dkcam.export.prepare import Prepared, prepare_checkpoint
from dkcam.spec import ModelSpec


def subject_of(checkpoint: Checkpoint, spec: ModelSpec) -> Subject:
    """The network behind a checkpoint. Numbers are rounded up to layer4's output; head and gradients are float32."""
    prepared = _prepared(checkpoint, spec)
    boundary, keep = _names(prepared)
    return Subject(prepared.snapshot(), boundary, keep, lambda numerics: write_graph(checkpoint, spec, numerics))


def write_graph(checkpoint: Checkpoint, spec: ModelSpec, numerics: Numerics | None = None, *, probes: bool = False) -> bytes:
    """The ONNX file's bytes for a checkpoint and a spec: same arguments, same bytes.

    numerics: float32 by default. probes: also give every ReLU's output as ``relu_0``, ``relu_1``, … (for verification, not for files).
    Errors: ExportError when the spec asks for what this model does not have (layer, masks, free size).
    """
    config = checkpoint.config
    if spec.masks is not None and config.variant != "dropkey":
        raise ExportError(f"--samples {spec.masks.samples}: masks belong to the dropkey variant, this model is {config.variant}")
    if config.variant == "dropkey" and config.grid is not None and "size" in spec.input.dynamic:
        raise ExportError("--dynamic size: this model pools to a fixed token grid, which needs a fixed size; leave size out")
    prepared = _prepared(checkpoint, spec)
    relus = [node.outputs[0] for node in prepared.model.graph if node.op_type == "Relu"] if probes else []
    if numerics is not None:
        lower(prepared.model, numerics, *_names(prepared))
    explanation = spec.explanation
    own = {f"relu_{number}": value for number, value in enumerate(relus)}
    model = prepared.write(Wanted(prepared.layers, explanation.method, explanation.count, explanation.per_image, explanation.outputs, own))
    store_half(model)
    return to_bytes(model, spec)


def _prepared(checkpoint: Checkpoint, spec: ModelSpec) -> Prepared:
    way = spec.input
    return prepare_checkpoint(
        checkpoint,
        kind=way.kind,
        size=(way.height, way.width),
        batch=way.batch,
        dynamic=way.dynamic,
        samples=spec.masks.samples if spec.masks else 0,
        layers=spec.explanation.layers,
    )


def _names(prepared: Prepared) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the boundary, and of what is explained."""
    pooled = prepared.head.features if prepared.head is not None else prepared.found.default().value
    return (pooled.name or "",), tuple(layer.name for layer in prepared.layers)
