"""An ONNX file -> a Network. Whatever cannot be explained is refused by name, in one line, before anything is written.

Nothing in the file is executed: it is parsed within bounds, checked, and brought to one form by onnx's own C++ code (checker,
shape inference, conversion of versions) and by NumPy for constants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from dkcam.errors import ExportError
from dkcam.export.networks import normalise
from dkcam.export.networks.bounds import LARGEST, MOST_NODES, check_parts
from dkcam.export.networks.declared import Declared, check_names, declare, used_inputs
from dkcam.export.networks.free_sizes import COARSE, Names, sizes
from dkcam.export.networks.inference import Fact, Inference
from dkcam.export.networks.metadata import labels_of
from dkcam.export.networks.network import Network
from dkcam.export.networks.picture import PictureFlags, picture_of
from dkcam.export.networks.place import Place, place_of
from dkcam.export.networks.refuse import check_calls, check_operators, first_line, refusal, shown
from dkcam.export.networks.weights import Array, Update, take_weights
from dkcam.files import kind_of, read_file
from dkcam.printable import printable
from dkcam.spec import SPEC_KEY

NO_FLAGS = PictureFlags()
MULTIPLY = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "LayerNormalization", "MatMul", "PRelu"}
)


def open_onnx(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    dynamic: Sequence[str] = (),
    batch: tuple[int, int] = (1, 1),
    picture: PictureFlags = NO_FLAGS,
) -> Network:
    """The network of a file. size: (height, width) where the file leaves it free, or another than its own. dynamic: of "batch" and
    "size", which stay free. batch: (least, most); without dynamic batch the least is what the network gets.

    Errors: ExportError, one line of at most 300 characters, for all that cannot be explained.
    """
    source = printable(path.name)
    data = read_file(path, "an ONNX file", ExportError, most=LARGEST - 1)
    digest = hashlib.sha256(data)
    parsed = [parse(data, source)]
    del data
    found = open_model(parsed.pop(), source, path.parent, size, dynamic, batch, picture, digest.update)
    return replace(found, sha256=digest.hexdigest())


def parse(data: bytes, source: str) -> onnx.ModelProto:
    """The messages of a file's bytes, within bounds. Errors: ExportError."""
    try:
        check_parts(data, source)
        proto = onnx.ModelProto()
        proto.ParseFromString(data)
    except (DecodeError, ExportError) as error:
        kind = kind_of(data)
        if kind != "a file of an unknown kind":
            raise refusal(f"{source} is {kind}; expected an ONNX file") from error
        if isinstance(error, ExportError):
            raise
        raise refusal(f"{source} is not a whole ONNX model: it is damaged; export it again") from error
    if not proto.graph.node:
        raise refusal(f"{source} is no ONNX model: it has no nodes; expected a network")
    return proto


def open_model(
    proto: onnx.ModelProto,
    source: str,
    folder: Path | None = None,
    size: tuple[int, int] | None = None,
    dynamic: Sequence[str] = (),
    batch: tuple[int, int] = (1, 1),
    picture: PictureFlags = NO_FLAGS,
    update: Update = bytes,
) -> Network:
    """As ``open_onnx``, of a parsed model, which is used up. folder: where its data lies. update: is given the bytes of that data."""
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    producer = printable(f"{proto.producer_name} {proto.producer_version}".strip()[:100])
    opset = _check_kind(proto, metadata, source)
    weights = take_weights(proto, folder, source, update)
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(proto)  # without the memory of its weights
    del proto
    check_names(skeleton, weights, source)
    declared = declare(skeleton)
    model = _model(skeleton, weights, source)
    normalise.check(model, source)
    model = normalise.inline_functions(model, source)
    normalise.standard_domain(model, source)
    image = used_inputs(model, declared, source)
    place = place_of(image, declared, metadata, source, size=size, dynamic=dynamic, batch=batch)
    model, image, multiple = _normal(model, image, place, declared, source)
    _check_weights(model, source)
    return Network(
        model=model,
        image=image,
        picture=picture_of(image, place.layout, place.channels, metadata, picture, source),
        outputs=tuple(model.graph.outputs),
        size=(place.height, place.width),
        batch=batch,
        dynamic=tuple(dynamic),
        multiple=multiple,
        labels=labels_of(metadata),
        metadata=metadata,
        producer=producer,
        opset=opset,
    )


def _check_kind(proto: onnx.ModelProto, metadata: Mapping[str, str], source: str) -> int:
    """The opset. Errors: ExportError for what dk-export wrote, for versions that are unknown, and for operators by name."""
    if SPEC_KEY in metadata:
        raise refusal(f"{source} was written by dk-export and has its heatmap already; give the model that it was made from")
    if proto.ir_version > onnx.IR_VERSION:
        raise refusal(
            f"{source} is of ONNX's format {proto.ir_version}, {onnx.IR_VERSION} at most; export it with an older one, or update onnx"
        )
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    check_operators(proto, source)
    if len(versions) != 1 or not 1 <= versions[0] <= newest:
        raise refusal(f"{source} is of opset {', '.join(map(str, versions)) or 'none'}; expected one from 11 to {newest}")
    check_calls(proto, source, MOST_NODES)
    return int(versions[0])


def _model(skeleton: onnx.ModelProto, weights: Mapping[str, Array], source: str) -> ir.Model:
    """The graph with its weights, in the order it runs."""
    graph = skeleton.graph
    kept = [value for value in graph.input if value.name not in weights]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del graph.input[:]
    graph.input.extend(copies)
    for name, array in weights.items():
        graph.input.append(onnx.helper.make_tensor_value_info(name, int(ir.DataType.from_numpy(array.dtype)), array.shape))
    try:
        model = ir.from_proto(skeleton)
    except Exception as error:  # the library's own complaints about what is no graph
        raise refusal(f"{source} is damaged: {first_line(error)}; export it again") from error
    given = list(model.graph.inputs)
    model.graph.inputs.clear()
    model.graph.inputs.extend(given[: len(copies)])
    for value in given[len(copies) :]:
        if value.uses() or value.is_graph_output():
            value.const_value = ir.tensor(weights[value.name or ""], name=value.name)
            model.graph.register_initializer(value)
    model.ir_version = max(model.ir_version, 8)
    normalise.sort(model.graph, source)
    return model


def _normal(model: ir.Model, image: ir.Value, place: Place, declared: Declared, source: str) -> tuple[ir.Model, ir.Value, int]:
    """(model, image, multiple): shapes known, constants folded, opset 18 or newer, no composites, no identities."""
    multiple = _settle(model, image, place, declared, source, COARSE)
    changed = normalise.inline_composites(normalise.raise_opset(model, source), source)
    if changed is not model:
        model = changed
        image = model.graph.inputs[0]
        multiple = _settle(model, image, place, None, source, multiple)
    normalise.constant_shapes(model)
    normalise.drop_identities(model, source)
    normalise.prune(model, source)
    normalise.name_nodes(model)
    return model, image, multiple


def _settle(model: ir.Model, image: ir.Value, place: Place, declared: Declared | None, source: str, step: int) -> int:
    """Shapes and constants, written into the model; returns what free heights and widths have to be multiples of, ``step`` or less."""
    facts, names, multiple = _look(model, image, place, source, step)

    def dimensions(fact: Fact) -> list[int | str | None] | None:
        return None if fact.unranked else [names.name(values) for values in fact.columns]

    normalise.describe(model, facts, dimensions)
    place.check_outputs(model.graph.outputs, declared, source)
    if declared is not None and place.own:
        declared.check(facts, source)
    normalise.fold(model, facts)
    return multiple


def _look(model: ir.Model, image: ir.Value, place: Place, source: str, step: int) -> tuple[Mapping[ir.Value, Fact], Names, int]:
    """What inference finds at the sizes that are needed, how to name dimensions from it, and the stride of free sizes."""

    def look(step: int) -> tuple[dict[ir.Value, Fact], Names]:
        looked = sizes((place.batch, place.height, place.width), place.dynamic, step)
        try:
            return Inference(model, image, [place.shape(*size) for size in looked], source).run(), Names(looked, place.dynamic)
        except ExportError as error:
            raise place.explained(error, source) from error

    facts, names = look(step)
    if "size" not in place.dynamic or step < COARSE:
        return facts, names, step if "size" in place.dynamic else 1
    columns = {values for fact in facts.values() for values in fact.columns}
    multiple = max(1, int(np.lcm.reduce([names.stride(values) for values in columns])))
    while multiple < COARSE:
        finer, finer_names = look(multiple)
        if all(_agree(fact, finer[value], names, finer_names) for value, fact in facts.items()):
            facts, names = finer, finer_names
            break
        multiple *= 2
    if place.height % multiple or place.width % multiple:
        given = f"{place.height}x{place.width}"
        raise refusal(f"--dynamic size: {source} takes multiples of {multiple} as heights and widths, not {given}; give --size")
    return facts, names, multiple


def _agree(one: Fact, other: Fact, names: Names, finer: Names) -> bool:
    """Whether two looks name the dimensions of a value alike."""
    return [names.name(values) for values in one.columns] == [finer.name(values) for values in other.columns]


def _check_weights(model: ir.Model, source: str) -> None:
    """Errors: ExportError for Inf where it is multiplied; a mask that is added may have it."""
    for node in model.graph:
        for value in node.inputs if node.op_type in MULTIPLY else ():
            if value is None or value.const_value is None:
                continue
            array = value.const_value.numpy()
            if array.dtype.kind == "f" and array.size and not np.isfinite([array.min(), array.max()]).all():
                raise refusal(
                    f"{source} has Inf or NaN in the weight {shown(value.name)} of {shown(node.op_type)}; expected finite numbers"
                )
