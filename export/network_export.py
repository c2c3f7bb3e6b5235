"""The whole way from any network to a file's bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from dkcam.export.assemble import Wanted, to_bytes
from dkcam.export.camera import CONDITIONS, camera_pictures
from dkcam.export.checking.comparison import Subject
from dkcam.export.checking.engine import Outputs, open_session
from dkcam.export.checking.original import Session, compare, network_input
from dkcam.export.checking.score_check import check_score
from dkcam.export.checking.verify_detect import ANY, check_scores, verify_detect
from dkcam.export.checking.verify_graph import verify_graph
from dkcam.export.derivative.rule import UnsupportedOperator
from dkcam.export.derivative.sweep import activated
from dkcam.export.exported import Exported
from dkcam.export.networks.network import Network
from dkcam.export.options import ExportOptions
from dkcam.export.parity import Row
from dkcam.export.passes.store_half import store_half
from dkcam.export.pictures import Pictures
from dkcam.export.precision.build import Subject as LowSubject
from dkcam.export.precision.build import build
from dkcam.export.precision.numerics import Numerics
from dkcam.export.prepare import DEFAULT_OUTPUTS, OWN, Prepared, own_name, prepare
from dkcam.export.writer import Dimension
from dkcam.fields import MAPS, OUTPUTS
from dkcam.printable import printable
from dkcam.spec import ExplanationSpec, InputSpec, ModelSpec, NetworkSpec, Provenance

TRIED = 8  # layers, where the one that was asked for cannot be explained


def with_sample(network: Network) -> Network:
    """The network with its outputs for one rendered scene, which tell a detector's boxes in pixels from those in 0..1."""
    if network.sample is not None or any(output.shape is None or len(output.shape) not in (2, 3) for output in network.outputs):
        return network
    ((_, picture),) = camera_pictures(np.random.default_rng(0), *network.size, 1)
    batch = network.batch[0]
    given = network_input(np.repeat(picture[None], batch, axis=0), network.picture)
    session = open_session(bytes(ir.to_proto(network.model).SerializeToString()))
    names = [output.name or "" for output in network.outputs]
    said = session.run(names, {network.image.name: given})
    return replace(network, sample=dict(zip(names, said, strict=True)))


def describe(network: Network, options: ExportOptions) -> tuple[Prepared, ModelSpec]:
    """The network made ready, which uses it up, and the spec of its file before verification. Errors: ExportError."""
    fixed, own = _asked(options, network.names)
    labels = options.labels or network.labels or ()
    prepared = prepare(
        network, kind=options.input, task=options.task, layers=options.layers, named=own, labels=len(labels), decode=options.decode
    )
    if labels and prepared.task.kind in ("classify", "dense") and len(labels) != prepared.classes:
        raise ExportError(f"the network has {prepared.classes} classes, there are {len(labels)} labels; expected one label per class")
    if options.explain is not None and prepared.task.kind in ("classify", "dense") and options.explain > prepared.classes:
        raise ExportError(f"--classes {options.explain}: the network has {prepared.classes} classes")
    if options.samples or options.mask_ratio is not None:
        raise ExportError("--samples and --mask-ratio are about DropKey masks, which our ResNet-50 alone has; leave them out")
    return prepared, _spec(network, options, prepared, _outputs(fixed, prepared), labels)


def _asked(options: ExportOptions, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(fixed outputs, outputs of the network by its own names) among those asked for.

    A name that is both means the network's where it has several outputs and no map is asked for: ``--outputs logits`` of a network
    that gives logits and features.
    """
    asked = list(options.outputs or ())
    own = [name.removeprefix(OWN) for name in asked if name.startswith(OWN) and name not in names]
    rest = [name for name in asked if name in names or not name.startswith(OWN)]
    if len(names) > 1 and all(name in names for name in rest) and not set(rest) & set(MAPS):
        return [], own + rest
    return [name for name in rest if name in OUTPUTS], own + [name for name in rest if name not in OUTPUTS]


def export_network(
    network: Network,
    options: ExportOptions,
    *,
    original: Session | None = None,
    check: bool = True,
    calibration: Pictures | None = None,
    report: Report = silent,
) -> Exported:
    """Explain a network and verify the file; the network stays as it is.

    original: the network as the user has it, whose outputs must stay as they are. Errors: ExportError, ParityError.
    """
    try:
        return _export(network, options, original, check, calibration, report)
    except UnsupportedOperator as error:
        raise ExportError(f"{error}; {_nearest(with_sample(network), options, error.node)}") from error


def _export(
    network: Network, options: ExportOptions, original: Session | None, check: bool, calibration: Pictures | None, report: Report
) -> Exported:
    report("finding the task and the layer", 0, 0)
    network = with_sample(network)
    prepared, spec = describe(network.copy(), options)
    notes, low = _notes(network, prepared), None
    if options.precision != "fp32":
        lowered = LowSubject(
            prepared.snapshot(),
            prepared.boundary(),
            tuple(layer.name for layer in prepared.layers),
            lambda numerics: _write(network, options, spec, numerics),
        )
        low = build(lowered, spec, calibration, check=check, report=report)
        spec = low.describe(spec)
    if not check:
        return Exported(_write(network, options, spec, low.numerics if low else None), spec, None, low, notes)
    report("comparing with autograd", 0, 0)
    batches = _batches(spec, calibration)
    data = _write(network, options, spec, None)
    subject = Subject(prepared.model, prepared.task, prepared.layers, spec, prepared.classes)
    judged = [(kinds, image) for kinds, _, image in batches]
    if prepared.plan is not None:
        unsure = prepared.with_threshold(ANY).plan
        assert unsure is not None
        check_scores(prepared.model, unsure, {"image": batches[0][2]}, np.random.default_rng(0))
        parity = verify_detect(_write(network, options, spec, None, ANY), subject, unsure, judged, _run)
    else:
        check_score(prepared.model, prepared.task, {"image": batches[0][2]}, np.random.default_rng(0))
        parity = verify_graph(data, subject, judged, _run)
    names = {name: own_name(name) for name in network.names if own_name(name) in prepared.own}
    if original is not None and names:
        rows, why = _unchanged(data, original, network, batches[0], names)
        parity, notes = replace(parity, rows=(*parity.rows, *rows)), (*notes, *why)
    parity.check()
    if parity.plainly:
        notes += (
            f"on {parity.plainly} of {sum(parity.images.values())} pictures ONNX Runtime's optimisations decide which of two all but equal "
            "values is the larger; their maps are verified without its optimisations",
        )
    spec = changed(spec, provenance=changed(spec.provenance, verified=True, parity=parity.worst()))
    return Exported(_write(network, options, spec, low.numerics if low else None), spec, parity, low, notes)


def _nearest(network: Network, options: ExportOptions, refused: ir.Node) -> str:
    """Which layer after a node can be explained, in words."""
    prepared, _ = describe(network.copy(), options)
    nodes = list(prepared.model.graph)
    behind = activated(nodes, [output for node in nodes if node.name == refused.name for output in node.outputs])
    after = [layer.name for layer in prepared.found.candidates() if layer.value in behind]
    for name in after[:TRIED]:
        there = replace(options, layer=name)
        with contextlib.suppress(ExportError):
            _write(network, there, describe(network.copy(), there)[1], None)
            return f"the nearest layer after it that works: --layer {printable(name)}"
    return "no layer after it works" if after else "no layer comes after it"


def _write(network: Network, options: ExportOptions, spec: ModelSpec, numerics: Numerics | None, conf: float | None = None) -> bytes:
    """The file's bytes in these numerics, None for float32. conf: another threshold of a detector's scores."""
    prepared, _ = describe(network.copy(), options)
    prepared = prepared if conf is None else prepared.with_threshold(conf)
    if numerics is not None:
        prepared = prepared.lowered(numerics)
    told = spec.explanation
    wanted = Wanted(prepared.layers, told.method, told.count, told.per_image, told.outputs, prepared.own)
    model = prepared.write(wanted)
    store_half(model)
    return to_bytes(model, spec)


def _outputs(fixed: Sequence[str], prepared: Prepared) -> tuple[str, ...]:
    """Fixed names in their fixed order."""
    defaults = DEFAULT_OUTPUTS[prepared.task.kind]
    if len(prepared.layers) > 1 or prepared.plan is not None:
        defaults = tuple(name for name in defaults if name != "weights")
    chosen = set(fixed or defaults)
    return tuple(name for name in OUTPUTS if name in chosen)


def _spec(network: Network, options: ExportOptions, prepared: Prepared, outputs: tuple[str, ...], labels: Sequence[str]) -> ModelSpec:
    picture = network.picture
    height, width = network.size
    unnamed = "output" if prepared.task.kind == "regress" else "class"
    return ModelSpec(
        labels=tuple(labels) or tuple(f"{unnamed} {i}" for i in range(prepared.classes)),
        task=prepared.task.kind,
        input=InputSpec(
            kind=options.input,
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
            count=options.explain,
            per_image=options.per_image,
            explained_output=prepared.task.output.name or "",
            outputs=outputs,
        ),
        network=NetworkSpec(producer=network.producer),
        provenance=Provenance(
            sha256=network.sha256,
            precision=options.precision,
            target=(options.target or "cpu") if options.precision == "int8" else "any",
            versions={name: version(name) for name in ("dkcam", "torch", "onnx", "onnx-ir", "onnxruntime")},
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
    if network.picture.assumed and network.picture.channels == "gray":
        notes.append(
            "pictures are assumed to go in as grey values of 0..1; if the network was trained otherwise, say --mean, --std and --scale"
        )
    elif network.picture.assumed:
        notes.append("mean and std are assumed to be ImageNet's; if the network was trained otherwise, say --mean, --std and --scale")
    if prepared.task.assumed:
        notes.append(prepared.task.assumed)
    return tuple(notes)


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


def _unchanged(
    data: bytes, original: Session, network: Network, batch: Batch, names: Mapping[str, str]
) -> tuple[list[Row], tuple[str, ...]]:
    """A row for each of the network's own outputs, and a note where it could not be asked."""
    kinds, pictures, image = batch
    given = network_input(pictures, network.picture)
    if not original.takes(given):
        size = "x".join(map(str, given.shape))
        return [], (f"the network as it is does not take {size}, so its own outputs could not be compared with the new file's",)
    engine = open_bytes(data, "the new file")
    classes = np.full(engine.spec.explanation.count or 1, -1, np.int64)
    return compare(original, given, engine.run(image, classes), names, kinds[0]), ()
