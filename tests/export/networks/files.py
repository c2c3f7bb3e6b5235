"""ONNX files made by hand: good ones of every origin, and hostile ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dkcam.export.networks.network import Network

Array = NDArray[Any]
FLOAT = TensorProto.FLOAT


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(**arrays: Array) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str | None] | None]],
    outputs: Mapping[str, tuple[int, Sequence[int | str | None] | None]],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 18,
    metadata: Mapping[str, str] | None = None,
    values: Mapping[str, tuple[int, Sequence[int | str | None] | None]] | None = None,
    ir_version: int = 8,
    **more: Any,
) -> onnx.ModelProto:
    infos = [[helper.make_tensor_value_info(n, *said) for n, said in part.items()] for part in (inputs, outputs, values or {})]
    graph = helper.make_graph(list(nodes), "graph", infos[0], infos[1], list(initializers), value_info=infos[2])
    imports = more.pop("opset_imports", [helper.make_opsetid("", opset)])
    proto = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, **more)
    helper.set_model_props(proto, dict(metadata or {}))
    return proto


def classifier(
    dims: Sequence[int | str | None] = (1, 3, 8, 8), *, extra: Sequence[onnx.NodeProto] = (), opset: int = 18, **more: Any
) -> onnx.ModelProto:
    """Conv → Relu → pool → Flatten → Gemm; ``extra`` nodes go in between Relu ("relu") and pool ("features")."""
    initializers = weights(w=random(4, 3, 3, 3), b=random(4), fc=random(5, 4, seed=1))
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu" if extra else "features"], "relu"),
        *extra,
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"], "fc", transB=1),
    ]
    given = [*more.pop("initializers", ()), *initializers]
    outputs = more.pop("outputs", {"logits": (FLOAT, [None, 5])})
    return model(nodes, more.pop("inputs", {"x": (FLOAT, dims)}), outputs, given, opset=opset, **more)


def write(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def run(proto: onnx.ModelProto | bytes | Path, **feed: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    given: Any = str(proto) if isinstance(proto, Path) else proto if isinstance(proto, bytes) else proto.SerializeToString()
    found: list[Array] = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"]).run(None, feed)
    return found


def picture(network: Network, batch: int | None = None, size: tuple[int, int] | None = None) -> Array:
    """Random numbers for the network's own input."""
    height, width = size or network.size
    shape = [0, 0, 0, 0]
    channels, rows, columns = network.picture.axes
    count = 1 if network.picture.channels == "gray" else 3
    shape[0], shape[channels], shape[rows], shape[columns] = batch or network.batch[0], count, height, width
    rng = np.random.default_rng(7)
    assert network.image.dtype is not None
    kind = network.image.dtype.numpy()
    return rng.integers(0, 256, shape).astype(kind) if kind.kind in "iu" else rng.normal(size=shape).astype(kind)


def same(original: Path, network: Network, *, batch: int | None = None, size: tuple[int, int] | None = None) -> float:
    """Largest difference of any output, relative to the output's largest value; shapes and number of outputs are the same."""
    proto = ir.to_proto(network.model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(str(original), providers=["CPUExecutionProvider"])
    given = picture(network, batch, size)
    before = session.run(None, {session.get_inputs()[0].name: given})
    after = run(proto, **{network.image.name or "": given})
    assert [one.shape for one in before] == [one.shape for one in after]
    assert [one.name for one in session.get_outputs()] == [value.name for value in network.outputs]
    return max(float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-9)) for a, b in zip(before, after, strict=True))


def kinds(network: Network) -> set[str]:
    return {node.op_type for node in network.graph}


def dims(value: ir.Value) -> list[int | str | None]:
    assert value.shape is not None
    return [d if isinstance(d, int) else d.value for d in value.shape]
