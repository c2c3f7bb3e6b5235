"""Graphs written in a test, run."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass
from torch import nn

from dkcam.export.networks.network import Network
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.writer import Writer

Array = NDArray[Any]
TYPES = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16, "int64": ir.DataType.INT64}


def blank(inputs: Mapping[str, tuple[Sequence[int | str], str]]) -> tuple[ir.Model, Writer, dict[str, ir.Value]]:
    """A model of inputs alone, name → (shape, type), and a writer for it."""
    values = {name: ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(TYPES[kind])) for name, (shape, kind) in inputs.items()}
    graph = ir.Graph(list(values.values()), [], nodes=[], opset_imports={"": 18}, name="graph")
    return ir.Model(graph, ir_version=9), Writer(graph, 18), values


def finished(model: ir.Model, outputs: Mapping[str, ir.Value]) -> onnx.ModelProto:
    """The model with these outputs alone, checked."""
    graph = model.graph
    for node in graph:
        for value in node.outputs:
            if value.name in outputs:
                value.name = f"{value.name}.inner"
    graph.outputs.clear()
    for name, value in outputs.items():
        node = ir.node("Identity", [value], num_outputs=1)
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, value.type, value.shape
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(proto: onnx.ModelProto, feed: Mapping[str, Array], level: int = 99) -> dict[str, Array]:
    """All outputs by ONNX Runtime. level: of optimisation; 0, 1, 2 or 99 for all."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    found = session.run(None, {name: value for name, value in feed.items() if name in names})
    return dict(zip([one.name for one in session.get_outputs()], found, strict=True))


def traced(module: nn.Module, size: tuple[int, int], names: Sequence[str], batch: int | str = 1) -> Network:
    """A module on pictures [batch, 3, H, W], through torch's older exporter and the importer. batch: a number, or "free"."""
    buffer = io.BytesIO()
    count = batch if isinstance(batch, int) else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.rand(count, 3, *size),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            output_names=list(names),
            dynamic_axes={name: {0: "batch"} for name in ("image", *names)} if batch == "free" else None,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    free = ("batch",) if batch == "free" else ()
    return open_model(proto, "test.onnx", dynamic=free, batch=(1, 4) if free else (count, count))
