"""A network made ready to be explained: its picture's way in, its task, the layers, the outputs it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.assemble import Wanted, assemble, free_names
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.explain.detect.layouts import candidates
from dkcam.export.explain.detect.plan import DetectPlan
from dkcam.export.explain.detect.plan import plan as detect_plan
from dkcam.export.explain.dropkey import Attention
from dkcam.export.explain.layers import Layer, Layers
from dkcam.export.explain.listing import Listed, list_layers
from dkcam.export.explain.scores import Behind, class_axis
from dkcam.export.explain.tasks import Task, find
from dkcam.export.networks.network import Network
from dkcam.export.networks.resnet50 import network_of, write_head
from dkcam.export.passes.picture_in import embed
from dkcam.export.precision.lower import lower
from dkcam.export.precision.numerics import Numerics
from dkcam.export.writer import Dimension, UnknownShape, Writer, shape_of
from dkcam.fields import OUTPUTS
from dkcam.printable import printable

DEFAULT_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "detect": ("explained", "boxes", "scores", "heatmap"),
    "classify": ("logits", "probabilities", "explained", "weights", "heatmap"),
    "dense": ("logits", "probabilities", "explained", "weights", "heatmap"),
    "regress": ("logits", "explained", "weights", "heatmap"),
}
FIXED = ("image", "classes", "key_mask", *OUTPUTS)
OWN = "network."  # before an output of the network whose name is one of these


@dataclass(frozen=True)
class Prepared:
    """model: with its input ``image`` in place and nothing explained. batch: what the graph has as its first dimension. own: the
    network's own outputs that stay (those that are named, else all), by the name they get. classes: how many classes or outputs there
    are. head: the paper's, where it has one. plan: of a detector.
    """

    model: ir.Model
    batch: Dimension
    task: Task
    layers: tuple[Layer, ...]
    found: Layers
    own: Mapping[str, ir.Value]
    classes: int
    head: Attention | None = None
    plan: DetectPlan | None = None

    def snapshot(self) -> ir.Model:
        """A copy of the network as it is now."""
        return self.model.clone()

    def boundary(self) -> tuple[str, ...]:
        """Names of the values up to which numbers may be rounded: what is pooled, or where space is kept the scores."""
        if self.head is not None:
            return (self.head.features.name or "",)
        if self.task.kind in ("classify", "regress"):
            return (self.found.default().name,)
        scores = self.plan.scores if self.plan is not None else (self.task.found.scores,)
        return tuple(value.name or "" for value in scores)

    def lowered(self, numerics: Numerics) -> Prepared:
        """The network in these numerics. The model is changed in place."""
        lower(self.model, numerics, self.boundary(), tuple(layer.name for layer in self.layers))
        return self if self.plan is None else replace(self, plan=self.plan.anew(self.model.graph))

    def with_threshold(self, conf: float) -> Prepared:
        """A detector that takes boxes from this score on."""
        assert self.plan is not None
        return replace(self, plan=replace(self.plan, layout=replace(self.plan.layout, conf=conf)))

    def write(self, wanted: Wanted) -> ir.Model:
        """Explain it. The model is used up."""
        assemble(self.model, self.batch, self.task, wanted, self.head, self.plan)
        return self.model


def own_name(name: str) -> str:
    """What an output of the network is called in the file."""
    return f"{OWN}{name}" if name in FIXED else name


def prepare(
    network: Network, *, kind: str, task: str, layers: Sequence[str], named: Sequence[str], labels: int, decode: str | None = None
) -> Prepared:
    """kind: "rgb8" or "tensor", how ``image`` will look. task: "auto" or one of ``TASKS``. layers: names as ``--layer`` takes them, () for
    the default. named: outputs of the network that the user names. labels: how many the user or the file gave. decode: of a detector, None
    to find out. The network is used up. Errors: ExportError.
    """
    model = network.model
    outputs = list(model.graph.outputs)
    names = network.names
    unknown = [name for name in named if name not in names]
    if unknown:
        raise ExportError(
            f"--outputs {printable(unknown[0])}: expected some of {', '.join(OUTPUTS)}, or the network's own: {', '.join(names)}"
        )
    chosen_outputs = [output for output in outputs if not named or output.name in named]
    plan = None
    if decode is not None or task == "detect" or (task == "auto" and candidates(chosen_outputs, labels, None, network.sample)):
        plan = detect_plan(model, chosen_outputs, network.size, labels=labels, decode=decode, sample=network.sample)
        scores = plan.layout.scores.value
        found_task = Task("detect", scores, Behind(plan.scores[0]))
    else:
        found_task = find(outputs, task, labels, named)
    free_names(model, FIXED)
    image = embed(Writer(model.graph, model.opset_imports.get("", 18), "picture"), network.image, network.picture, kind)
    found = Layers(model.graph, image, _sides(network), plan.scores if plan is not None else [found_task.found.scores])
    if layers:
        chosen = tuple(found.named(name) for name in layers)
    elif plan is not None and plan.layers:
        chosen = plan.layers
    else:
        chosen = (found.coarsest() if found_task.kind == "dense" else found.default(),)
    own = {own_name(name): value for name, value in zip(names, outputs, strict=True) if _known(value) and (not named or name in named)}
    count = plan.layout.first + plan.raw.classes if plan is not None else _count(found_task)
    return Prepared(model, shape_of(image)[0], found_task, chosen, found, own, count, plan=plan)


def prepare_checkpoint(
    checkpoint: Checkpoint,
    *,
    kind: str,
    size: tuple[int, int],
    batch: tuple[int, int],
    dynamic: tuple[str, ...],
    samples: int,
    layers: Sequence[str],
) -> Prepared:
    """Our own ResNet-50 with its head, as ``prepare``. samples: DropKey masks. Errors: ExportError."""
    network = network_of(checkpoint, size, batch, dynamic)
    model = network.model
    writer = Writer(model.graph, model.opset_imports.get("", 18))
    (features,) = network.outputs
    scores, head = write_head(writer, checkpoint, features, samples)
    model.graph.outputs.clear()
    model.graph.outputs.append(scores)
    free_names(model, FIXED)
    image = embed(writer, network.image, network.picture, kind)
    found = Layers(model.graph, image, _sides(network), [scores])
    chosen = tuple(found.named(name) for name in layers)
    task = Task("classify", scores, Behind(scores, "Softmax"))
    return Prepared(model, shape_of(image)[0], task, chosen, found, {}, checkpoint.config.classes, head)


def list_candidates(prepared: Prepared, size: tuple[int, int]) -> list[Listed]:
    """What ``--list-layers`` prints. size: (height, width) of the picture."""
    return list_layers(prepared.model.graph, prepared.found, prepared.layers, size)


def _sides(network: Network) -> tuple[Dimension, Dimension]:
    _, rows, columns = network.picture.axes
    shape = shape_of(network.image)
    return shape[rows], shape[columns]


def _known(value: ir.Value) -> bool:
    """An output of unknown shape is not declared, and so not kept."""
    try:
        shape_of(value)
    except UnknownShape:
        return False
    return value.dtype is not None


def _count(task: Task) -> int:
    shape = shape_of(task.found.scores)
    count = shape[1] if task.kind == "dense" else shape[class_axis(task.found.scores)] if len(shape) > 1 else 1
    assert isinstance(count, int)
    return count
