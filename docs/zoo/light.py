"""The graphs inside the onnx package: written by Caffe2 in 2017, with one number for all weights of a layer. Here they get random ones."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from zoo.statistics import LOGITS, pictures

Arrays = dict[str, NDArray[Any]]
SIDE = 224


def fill(name: str, path: Path) -> None:
    model = onnx.load(Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx")
    _draw(model, zlib.crc32(name.encode()))
    images = [image[None] for image in pictures((SIDE, SIDE), 12).numpy()]
    _settle(model, images)
    _finish(model, images)
    onnx.save(model, path)


def _draw(model: onnx.ModelProto, seed: int) -> None:
    """Weights of He's scale in place of the nodes that make constants."""
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    read = {name: (node.op_type, at) for node in model.graph.node for at, name in enumerate(node.input)}
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape" and node.input[0] in shapes]:
        model.graph.node.remove(node)
        shape = [int(side) for side in shapes[node.input[0]]]
        kind, at = read[node.output[0]]
        model.graph.initializer.append(numpy_helper.from_array(_drawn(rng, kind, at, shape), node.output[0]))


def _drawn(rng: np.random.Generator, kind: str, at: int, shape: list[int]) -> NDArray[np.float32]:
    if kind == "BatchNormalization":
        return (rng.uniform(0.8, 1.2, shape) if at in (1, 4) else rng.normal(0, 0.1, shape)).astype(np.float32)
    if at == 1 and len(shape) > 1:
        return rng.normal(0, np.sqrt((2.0 if kind == "Conv" else 1.0) / np.prod(shape[1:])), shape).astype(np.float32)
    return rng.normal(0, 0.05, shape).astype(np.float32)


def _settle(model: onnx.ModelProto, images: Sequence[NDArray[np.float32]]) -> None:
    """Batch-norms get the statistics of these pictures: one run with each norm using the picture's own, which are written down."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    nodes = list(probe.graph.node)
    del probe.graph.node[:]
    norms = [node for node in nodes if node.op_type == "BatchNormalization"]
    for node in nodes:
        if node not in norms:
            probe.graph.node.append(node)
            continue
        x, scale, bias = node.input[:3]
        name = node.output[0]
        epsilon = next((float(one.f) for one in node.attribute if one.name == "epsilon"), 1e-5)
        probe.graph.node.append(helper.make_node("InstanceNormalization", [x, scale, bias], [name], epsilon=epsilon))
        probe.graph.node.append(helper.make_node("ReduceMean", [x], [f"{name}.mean"], axes=[0, 2, 3], keepdims=0))
        probe.graph.node.append(helper.make_node("Mul", [x, x], [f"{name}.squares"]))
        probe.graph.node.append(helper.make_node("ReduceMean", [f"{name}.squares"], [f"{name}.square"], axes=[0, 2, 3], keepdims=0))
    wanted = [f"{node.output[0]}.{what}" for node in norms for what in ("mean", "square")]
    if not wanted:
        return
    unused = {name for node in norms for name in node.input[3:]}
    kept = [tensor for tensor in probe.graph.initializer if tensor.name not in unused]
    del probe.graph.initializer[:]
    probe.graph.initializer.extend(kept)
    for value in [value for value in probe.graph.input if value.name in unused]:
        probe.graph.input.remove(value)
    found = _run(probe, images, wanted)
    changed: Arrays = {}
    for node in norms:
        mean, square = (np.mean(found[f"{node.output[0]}.{what}"], 0) for what in ("mean", "square"))
        changed[node.input[3]], changed[node.input[4]] = mean, np.maximum(square - mean**2, 1e-4)
    _change(model, changed)


def _finish(model: onnx.ModelProto, images: Sequence[NDArray[np.float32]]) -> None:
    """The last layer's scores have mean 0 and a standard deviation that tells pictures apart."""
    last = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv")][-1]
    values = np.concatenate(_run(model, images, [last.output[0]])[last.output[0]])
    axes = (0, 2, 3) if values.ndim == 4 else (0,)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    moved = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    name = moved.get(last.input[1], last.input[1])
    scale = LOGITS / np.maximum(values.std(axes), 1e-6)
    if weights[name].shape[0] != len(scale):  # reshaped in the graph: one factor for all
        scale = np.full_like(scale, np.median(scale))
        changed = weights[name] * scale[0]
    else:
        changed = weights[name] * scale.reshape(-1, *[1] * (weights[name].ndim - 1))
    _change(model, {name: changed, last.input[2]: (weights[last.input[2]] - values.mean(axes)) * scale})


def _change(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))


def _run(model: onnx.ModelProto, images: Sequence[NDArray[np.float32]], names: Sequence[str]) -> dict[str, list[NDArray[Any]]]:
    """Values of these names, for each picture."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    weights = {tensor.name for tensor in model.graph.initializer}
    image = next(value.name for value in model.graph.input if value.name not in weights)
    runs = [session.run(list(names), {image: one}) for one in images]
    return {name: [run[at] for run in runs] for at, name in enumerate(names)}
