"""A network of any batch, height and width, pulled back through the operators of a ResNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper, parser

from dkcam.export.checking.interpreter import evaluate
from dkcam.export.derivative.cotangent import Cotangent, full
from dkcam.export.derivative.sweep import sweep
from dkcam.export.networks.onnx_file import open_onnx
from dkcam.export.writer import Writer
from tests.export.derivative.harness import interpreted, read, runtime, trt

NETWORK = """
<ir_version: 9, opset_import: ["" : 18]>
resnet (float[B, 3, H, W] x) => (float[B, 8, 1, 1] y) {
    c0 = Conv <strides = [2, 2], pads = [3, 3, 3, 3]> (x, w0)
    r0 = Relu (c0)
    p0 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (r0)
    c1 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (p0, w1)
    c2 = Conv <strides = [2, 2]> (p0, w2)
    s = Add (c1, c2)
    r1 = Relu (s)
    c3 = Conv <pads = [1, 1, 1, 1], group = 2> (r1, w3)
    p1 = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (c3)
    y = GlobalAveragePool (p1)
}
"""
WEIGHTS = {"w0": (6, 3, 7, 7), "w1": (8, 6, 3, 3), "w2": (8, 6, 1, 1), "w3": (8, 4, 3, 3)}


@pytest.mark.parametrize("target", ["x", "r0", "p0", "s"])
def test_a_network_of_any_size(target: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    proto = parser.parse_model(NETWORK)
    proto.graph.initializer.extend(numpy_helper.from_array(random.standard_normal(s).astype(np.float32), n) for n, s in WEIGHTS.items())
    onnx.save(proto, tmp_path / "resnet.onnx")
    network = open_onnx(tmp_path / "resnet.onnx", size=(64, 96), dynamic=("batch", "size"), batch=(1, 4))
    graph = network.graph
    values = {value.name: value for value in [network.image, *(one for node in graph for one in node.outputs)]}
    seed = ir.Value(name="seed", shape=ir.Shape(["K", "batch", 8, 1, 1]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(seed)
    arrived = sweep(writer := Writer(graph, 18, "gradient"), {values["y"]: Cotangent(seed)}, [values[target]])[values[target]]
    gradient = full(writer, arrived.whole(writer), values[target])
    graph.outputs[:] = [gradient]
    name = str(gradient.name)
    # sizes are multiples of the strides: nothing is cut off by what the size is
    assert all(value.const_value is not None for node in graph if node.op_type == "Slice" for value in node.inputs[1:] if value is not None)
    model = ir.to_proto(network.model)
    assert trt is None or not read(model)[0]
    for batch, height, width in ((1, 64, 96), (2, network.multiple * 3, network.multiple * 2)):
        feed = {"x": random.standard_normal((batch, 3, height, width)), "seed": random.standard_normal((3, batch, 8, 1, 1))}
        feed = {key: array.astype(np.float32) for key, array in feed.items()}
        held = evaluate(network.model, {"x": feed["x"]}, [target, "y"], leaves=[target])
        rows = [torch.autograd.grad(held["y"], held[target], torch.from_numpy(row).double(), retain_graph=True)[0] for row in feed["seed"]]
        expected = torch.stack(rows).numpy()
        found = {"float64": interpreted(network.model, feed, [name])[name]}
        found.update({f"level {level}": runtime(model, feed, [name], level)[name] for level in range(4)})
        for how, value in found.items():
            assert np.abs(value - expected).max() <= (2e-7 if how == "float64" else 1e-4) * np.abs(expected).max(), (how, height, width)
