"""The numbers of an ONNX file, taken out of it: from here on they travel as NumPy arrays by name, and the graph is small.

Data beside the file must lie in its folder, be as long as it says, and be no link that leads out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dkcam.errors import ExportError
from dkcam.export.networks.bounds import LARGEST
from dkcam.export.networks.refuse import nodes_of, refusal, shown
from dkcam.files import read_file

Array = NDArray[Any]
Update = Callable[[bytes], object]

_T = onnx.TensorProto
TYPES = frozenset(
    {
        *(_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE, _T.BOOL),
        *(_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64),
    }
)
VALUES = ("value", "value_float", "value_floats", "value_int", "value_ints")  # of a Constant node


def take_weights(proto: onnx.ModelProto, folder: Path | None, source: str, update: Update) -> dict[str, Array]:
    """Removes the initializers and Constant nodes of the main graph from ``proto`` and returns their numbers by name.

    folder: where data beside the file lies. update: is given the bytes of that data, for a hash.

    Errors: ExportError for damaged, sparse, textual or 4- and 8-bit floating-point tensors, NaN, two of one name, data elsewhere.
    """
    graph = proto.graph
    if graph.sparse_initializer:
        raise refusal(
            f"{source} has sparse weights ({shown(graph.sparse_initializer[0].values.name)}); expected dense ones; export it again"
        )
    blobs = _read_outside(proto, folder, source, update)
    found: dict[str, Array] = {}
    for name, tensor in _tensors(graph):
        if not name or name in found:
            raise refusal(f"{source} has two weights of the name {shown(name)}; expected one of each; export it again")
        found[name] = _array(tensor, name, blobs, source)
    del graph.initializer[:]
    kept = [node for node in graph.node if not _is_constant(node)]
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
    return found


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if _is_constant(node):
            attribute = node.attribute[0]
            if attribute.name == "value":
                yield node.output[0], attribute.t
            else:
                values: Any = helper.get_attribute_value(attribute)
                yield node.output[0], numpy_helper.from_array(np.array(values, np.float32 if "float" in attribute.name else np.int64))


def _is_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and len(node.output) == 1 and len(node.attribute) == 1 and node.attribute[0].name in VALUES


def _array(tensor: onnx.TensorProto, name: str, blobs: dict[str, bytes], source: str) -> Array:
    if tensor.data_type not in TYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type) if tensor.data_type in onnx.TensorProto.DataType.values() else "unknown"
        raise refusal(f"{source} has the tensor {shown(name)} of type {kind}; expected floats of 16 to 64 bits and whole numbers")
    try:
        outside = tensor.data_location == onnx.TensorProto.EXTERNAL
        array = _outside(tensor, blobs) if outside else numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        dims = [int(d) for d in tensor.dims[:8]]
        raise refusal(f"{source} has the damaged weight {shown(name)}: its data does not fill {dims}; export it again") from error
    if array.dtype.kind == "f" and array.size and math.isnan(float(array.min())):
        raise refusal(f"{source} has NaN in the weight {shown(name)}; expected numbers; was its training cut off?")
    return array


# data beside the file


def _read_outside(proto: onnx.ModelProto, folder: Path | None, source: str, update: Update) -> dict[str, bytes]:
    """Each file of data, read whole."""
    inside = [tensor for _, tensor in _tensors(proto.graph)]
    places = sorted({_entries(tensor).get("location", "") for tensor in inside if tensor.data_location == onnx.TensorProto.EXTERNAL})
    for part in (proto.graph, *proto.functions):
        for node in nodes_of(part):
            for attribute in node.attribute:
                for tensor in (attribute.t, *attribute.tensors):
                    if tensor.data_location == onnx.TensorProto.EXTERNAL and not (part is proto.graph and _is_constant(node)):
                        raise refusal(f"{source} keeps data of the node {shown(node.name)} in another file; expected weights alone there")
    if places and folder is None:
        raise refusal(f"{source} keeps weights in {shown(places[0])}, but was not given as a file; give the path of the file")
    assert folder is not None or not places
    paths = {place: _path(folder, place, source) for place in places if folder is not None}
    total = sum(path.stat().st_size for path in paths.values())
    if total > LARGEST:
        raise refusal(f"{source} has {total / 2**30:.1f} GiB of weights beside it; expected {LARGEST >> 30} GiB at most")
    blobs = {}
    for place, path in paths.items():
        blobs[place] = read_file(path, f"the weights of {source}", ExportError, most=LARGEST)
        update(blobs[place])
    return blobs


def _path(folder: Path, place: str, source: str) -> Path:
    plain = PurePosixPath(place)
    outside = plain.is_absolute() or PureWindowsPath(place).is_absolute() or ".." in plain.parts or "\\" in place or "\0" in place
    if outside or not plain.parts:
        raise refusal(f"{source} keeps weights in {shown(place)}; expected a file in its own folder; save it with its data beside it")
    path = folder / plain
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise refusal(f"{source} keeps weights in {shown(place)}, which is not there; put that file beside it") from error
    if not real.is_relative_to(folder.resolve()):
        raise refusal(f"{source} keeps weights in {shown(place)}, a link out of its folder; copy the data there")
    if not real.is_file():
        raise refusal(f"{source} keeps weights in {shown(place)}, which is no file; put the data beside it")
    return path


def _entries(tensor: onnx.TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _outside(tensor: onnx.TensorProto, blobs: dict[str, bytes]) -> Array:
    """A view of the data. ValueError where it does not fill the tensor, NumPy's own where it ends too early."""
    entries = _entries(tensor)
    blob = blobs[entries.get("location", "")]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    dims = tuple(int(d) for d in tensor.dims)
    offset = int(entries.get("offset", "0")[:20])
    count = math.prod(dims)
    size = count * dtype.itemsize
    if min(dims, default=0) < 0 or offset < 0 or int(entries.get("length", str(size))[:20]) != size:
        raise ValueError("the data does not fill the tensor")
    return np.frombuffer(blob, dtype, count, offset).reshape(dims)
