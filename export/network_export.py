"""The whole way from any network to a file's bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from dkcam.engines import open_bytes
from dkcam.engines.engine import graph_input
from dkcam.engines.progress import Report, silent
from dkcam.errors import ExportError
from dkcam.export.assemble import Wanted
from dkcam.export.camera import CONDITIONS, camera_pictures
from dkcam.export.checking.original import compare, network_input
from dkcam.export.checking.score_check import check_score
from dkcam.export.checking.verify_graph import Outputs, Subject, verify_graph
from dkcam.export.networks.network import Network
from dkcam.export.parity import Parity
from dkcam.export.pictures import Pictures
from dkcam.export.prepare import DEFAULT_OUTPUTS, Prepared, prepare
from dkcam.export.writer import Dimension
from dkcam.fields import OUTPUTS
from dkcam.spec import SPEC_KEY, ExplanationSpec, InputSpec, ModelSpec, NetworkSpec, Provenance


@dataclass(frozen=True)
class NetworkOptions:
    """What to write. task: "auto" or a task. layers: as ``--layer`` names them, () for the default. count: K, None for free. outputs:
    fixed names and the network's own, None for the default set and all of its own. kind: of the input, rgb8 or tensor. labels: () takes
    the file's.
    """

    task: str = "auto"
    layers: tuple[str, ...] = ()
    method: str = "gradcam"
    count: int | None = None
    per_image: bool = False
    outputs: tuple[str, ...] | None = None
    kind: str = "rgb8"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExportedNetwork:
    """The file's bytes, its spec, the parity figures (None unverified), and what was taken for granted, in words."""

    data: bytes
    spec: ModelSpec
    parity: Parity | None
    notes: Sequence[str] = field(default_factory=tuple)


def export_network(
    network: Network,
    options: NetworkOptions,
    *,
    original: Any = None,
    check: bool = True,
    calibration: Pictures | None = None,
    report: Report = silent,
) -> ExportedNetwork:
    """Explain a network, which is used up, and verify it.

    original: a session on the user's own file, whose outputs must stay as they are. Errors: ExportError, ParityError.
    """
    own = [name for name in options.outputs or () if name not in OUTPUTS]
    labels = options.labels or network.labels or ()
    report("finding the task and the layer", 0, 0)
    sources = [output.name or "" for output in network.outputs]
    prepared = prepare(network, kind=options.kind, task=options.task, layers=options.layers, named=own, labels=len(labels))
    if labels and prepared.task.kind != "regress" and len(labels) != prepared.classes:
        raise ExportError(f"the network has {prepared.classes} classes, there are {len(labels)} labels; expected one label per class")
    outputs = _outputs(options, prepared)
    kept = {name: value for name, value in prepared.own.items() if not own or name in own}
    spec = _spec(network, options, prepared, outputs, labels)
    before = prepared.snapshot() if check else None
    report("writing the way back", 0, 0)
    wanted = Wanted(prepared.layers, options.method, options.count, options.per_image, outputs, kept)
    model = prepared.write(wanted)
    notes = _notes(network, prepared)
    if before is None:
        return ExportedNetwork(to_bytes(model, spec), spec, None, notes)
    subject = Subject(
        before, prepared.task, prepared.layers, options.method, outputs, spec.labels, options.count, prepared.classes, options.per_image
    )
    report("comparing with autograd", 0, 0)
    batches = _batches(spec, calibration)
    check_score(before, prepared.task, {"image": batches[0][2]}, np.random.default_rng(0))
    data = to_bytes(model, spec)
    parity = verify_graph(data, subject, [(kinds, image) for kinds, _, image in batches], _run)
    if original is not None:
        names = {source: new for source, new in zip(sources, prepared.own, strict=False) if new in kept}
        parity = replace(parity, rows=(*parity.rows, *_unchanged(data, original, network, batches, names)))
    parity.check()
    spec = changed(spec, provenance=changed(spec.provenance, verified=True, parity=parity.worst()))
    return ExportedNetwork(to_bytes(model, spec), spec, parity, notes)


def _outputs(options: NetworkOptions, prepared: Prepared) -> tuple[str, ...]:
    """Fixed names in their fixed order."""
    fixed = [name for name in options.outputs or () if name in OUTPUTS]
    defaults = DEFAULT_OUTPUTS[prepared.task.kind]
    if len(prepared.layers) > 1:
        defaults = tuple(name for name in defaults if name != "weights")
    chosen = set(fixed or defaults)
    return tuple(name for name in OUTPUTS if name in chosen)


def _spec(network: Network, options: NetworkOptions, prepared: Prepared, outputs: tuple[str, ...], labels: Sequence[str]) -> ModelSpec:
    picture = network.picture
    height, width = network.size
    unnamed = "output" if prepared.task.kind == "regress" else "class"
    return ModelSpec(
        labels=tuple(labels) or tuple(f"{unnamed} {i}" for i in range(prepared.classes)),
        task=prepared.task.kind,
        input=InputSpec(
            kind=options.kind,
            height=height,
            width=width,
            channels=picture.channels,
            mean=_three(picture.mean),
            std=_three(picture.std),
            scale=picture.scale,
            resize=picture.resize,
            fill=picture.letterbox,
            batch=network.batch,
            dynamic=tuple(sorted(network.dynamic)),
            multiple=network.multiple,
        ),
        explanation=ExplanationSpec(
            layers=tuple(layer.name for layer in prepared.layers),
            map_sizes=_map_sizes([layer.size for layer in prepared.layers]),
            method=options.method,
            count=options.count,
            per_image=options.per_image,
            explained_output=prepared.task.output.name or "",
            outputs=outputs,
        ),
        network=NetworkSpec(producer=network.producer),
        provenance=Provenance(
            sha256=network.sha256, versions={name: version(name) for name in ("dkcam", "torch", "onnx", "onnx-ir", "onnxruntime")}
        ),
    )


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    first, *rest = values
    return (first, rest[0], rest[1]) if len(rest) == 2 else (first, first, first)


def _map_sizes(sizes: Sequence[tuple[Dimension, Dimension]]) -> tuple[tuple[int, int], ...]:
    """() where one of them is free."""
    known = [(rows, columns) for rows, columns in sizes if isinstance(rows, int) and isinstance(columns, int)]
    return tuple(known) if len(known) == len(sizes) else ()


def _notes(network: Network, prepared: Prepared) -> tuple[str, ...]:
    notes = []
    if network.picture.assumed:
        notes.append("mean and std are assumed to be ImageNet's; if the network was trained otherwise, say --mean, --std and --scale")
    if prepared.task.assumed:
        notes.append(prepared.task.assumed)
    return tuple(notes)


def to_bytes(model: ir.Model, spec: ModelSpec) -> bytes:
    """The file: same graph and spec, same bytes."""
    names = "{" + ", ".join(f"{i}: {label!r}" for i, label in enumerate(spec.labels)) + "}"
    model.metadata_props.clear()
    model.metadata_props.update({SPEC_KEY: spec.to_json(), "names": names})
    model.producer_name, model.producer_version = "dkcam", spec.provenance.versions.get("dkcam", "")
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


Batch = tuple[list[str], NDArray[np.uint8], NDArray[Any]]
"""Kinds of the pictures, the pictures uint8 [B, H, W, 3] RGB, and ``image`` as the graph takes it."""


def _batches(spec: ModelSpec, calibration: Pictures | None) -> list[Batch]:
    way = spec.input
    height, width = way.height, way.width
    if "size" in way.dynamic:
        height, width = height + way.multiple, width + 2 * way.multiple  # a size the graph was not described with
    batch = min(way.batch[1], 2) if "batch" in way.dynamic else way.batch[0]
    count = -(-max(len(CONDITIONS), batch) // batch) * batch
    if calibration is None:
        pictures = camera_pictures(np.random.default_rng(0), height, width, count)
    else:
        found = [np.asarray(cv2.resize(image, (width, height)), np.uint8) for image in calibration.spread(count).images]
        pictures = [("calibration", found[i % len(found)]) for i in range(count)]
    made = []
    for start in range(0, count, batch):
        some = pictures[start : start + batch]
        stack = np.stack([picture for _, picture in some])
        made.append(([kind for kind, _ in some], stack, graph_input(stack, way)))
    return made


def _run(data: bytes, name: str) -> Callable[[NDArray[np.generic], NDArray[np.int64], Sequence[str]], Outputs]:
    engine = open_bytes(data, name)
    return lambda image, classes, names: engine.run(image, classes)


def _unchanged(data: bytes, original: Any, network: Network, batches: Sequence[Batch], names: Mapping[str, str]) -> list[Any]:
    engine = open_bytes(data, "the new file")
    rows = []
    for kinds, pictures, image in batches[:1]:
        classes = np.full(engine.spec.explanation.count or 1, -1, np.int64)
        rows += compare(original, network_input(pictures, network.picture), engine.run(image, classes), names, kinds[0])
    return rows
