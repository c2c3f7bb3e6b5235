from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.explain.cam import METHODS, explain
from dkcam.export.explain.layers import Layer
from dkcam.export.reference import cam
from dkcam.export.writer import Writer

Floats = NDArray[np.float32]
B, K, C, H, W = 2, 3, 5, 4, 6
SHAPES = {"nchw": (B, C, H, W), "nhwc": (B, H, W, C), "tokens": (B, 2 + H * W, C)}
# which axes of g and d are even; axes by name: b batch, c channel, s space
FORMS = [("", None), ("s", None), ("s", ""), ("", "s"), ("bs", "c"), ("c", "s"), ("s", "bc"), ("s", "s")]


def layer_of(kind: str, value: ir.Value) -> Layer:
    if kind == "tokens":
        return Layer(value, (1,), 2, 2, (H, W))
    return Layer(value, (2, 3), 1) if kind == "nchw" else Layer(value, (1, 2), 3)


def sizes(kind: str, even: str) -> list[int]:
    axes = {"nchw": "bcss", "nhwc": "bssc", "tokens": "bsc"}[kind]
    return [1 if axis in even else size for axis, size in zip(axes, SHAPES[kind], strict=True)]


def positions(kind: str, values: Floats) -> Floats:
    """[…, B, C, H, W] of a value in the layer's order."""
    if kind == "nchw":
        return values
    if kind == "nhwc":
        return np.moveaxis(values, -1, -3)
    return np.moveaxis(values[..., 2:, :], -1, -2).reshape(*values.shape[:-2], C, H, W)


def run(kind: str, method: str, features: Floats, g: Floats, d: Floats | None, free: bool) -> dict[str, Floats]:
    def given(name: str, array: Floats, names: str = "") -> ir.Value:
        shape = [f"{names}{i}" if names and size != 1 else size for i, size in enumerate(array.shape)]
        if names == "k":  # K alone is free in g
            shape = ["K", *array.shape[1:]]
        return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))

    value, cotangent_g = given("features", features), given("g", g, "k" if free else "")
    inputs = [value, cotangent_g]
    cotangent_d = None
    if d is not None:
        cotangent_d = given("d", d)
        inputs.append(cotangent_d)
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 18}, name="cam")
    maps = explain(Writer(graph, 18), layer_of(kind, value), Cotangent(cotangent_g, cotangent_d), method)
    outputs = {"heatmap": maps.heatmap, "weights": maps.weights, "gradient": maps.gradient, "features": maps.features}
    graph.outputs.extend(outputs.values())
    model = ir.Model(graph, ir_version=8)
    RemoveUnusedNodesPass()(model)
    data = ir.to_proto(model).SerializeToString()
    found: dict[str, Floats] = {}
    for level in onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feed = {"features": features, "g": g, **({"d": d} if d is not None else {})}
        found = dict(zip(outputs, session.run(None, {one.name: feed[one.name] for one in session.get_inputs()}), strict=True))
    return found


@pytest.mark.parametrize(("kind", "method", "free"), [(k, m, f) for k, m in itertools.product(SHAPES, METHODS) for f in (False, True)])
def test_maps_are_those_of_the_whole_gradient(kind: str, method: str, free: bool) -> None:
    rng = np.random.default_rng(0)
    for even_g, even_d in FORMS:
        # as after a ReLU: with features of both signs Grad-CAM++ divides by numbers near zero
        features = np.abs(rng.standard_normal(SHAPES[kind])).astype(np.float32)
        g = rng.standard_normal([K, *sizes(kind, even_g)]).astype(np.float32)
        d = None if even_d is None else rng.standard_normal(sizes(kind, even_d)).astype(np.float32)
        said = run(kind, method, features, g, d, free)
        whole = np.broadcast_to(g if d is None else g * d, (K, *SHAPES[kind]))
        truth = torch.from_numpy(np.array(positions(kind, whole))).double()
        plain = torch.from_numpy(np.array(positions(kind, features))).double()
        heat = torch.stack([cam(method, plain, one) for one in truth], 1).numpy()
        assert heat.max() > 0
        case = f"{kind} {method} g even over {even_g!r}, d over {even_d!r}"
        assert np.abs(said["heatmap"] - heat).max() <= 2e-5 * np.abs(heat).max(), case
        assert np.allclose(said["weights"], truth.mean((3, 4)).movedim(0, 1).numpy(), atol=1e-5), case
        assert np.allclose(said["gradient"], truth.movedim(0, 1).numpy(), atol=1e-6), case
        assert np.array_equal(said["features"], plain.numpy()), case
