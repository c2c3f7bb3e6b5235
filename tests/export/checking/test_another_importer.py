"""The interpreter against onnx2torch, which imports ONNX files for other people: numbers and gradients of small networks."""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

from dkcam.export.checking.gradients import gradients

if importlib.util.find_spec("onnx2torch") is None:
    pytest.skip("onnx2torch is not installed: pip install --no-deps onnx2torch", allow_module_level=True)

NETWORKS = {
    "residual": """
        <float[8,3,3,3] w0, float[8] b0, float[8] s, float[8] t, float[8] m, float[8] variance,
         float[8,4,3,3] w1, float[5,8] w2, float[5] b2>
        {
            c0 = Conv <pads: ints = [1, 1, 1, 1], strides: ints = [2, 2], kernel_shape: ints = [3, 3]> (image, w0, b0)
            n0 = BatchNormalization (c0, s, t, m, variance)
            leaf = Relu(n0)
            c1 = Conv <pads: ints = [1, 1, 1, 1], group: int = 2, kernel_shape: ints = [3, 3]> (leaf, w1)
            a1 = Add(c1, leaf)
            r1 = LeakyRelu <alpha: float = 0.25> (a1)
            p1 = MaxPool <kernel_shape: ints = [3, 3], strides: ints = [2, 2], pads: ints = [1, 1, 1, 1]> (r1)
            g = GlobalAveragePool(p1)
            f = Flatten(g)
            scores = Gemm <transB: int = 1> (f, w2, b2)
        }""",
    "mobile": """
        <float[6,3,3,3] w0, float[6,1,5,5] w1, float[6] b1, float[6,6,1,1] w2,
         float[6,6,1,1] w3, float[5,6] w4, float lo = {0}, float hi = {6}>
        {
            c0 = Conv <pads: ints = [1, 1, 1, 1], kernel_shape: ints = [3, 3]> (image, w0)
            leaf = HardSwish(c0)
            d = Conv <pads: ints = [2, 2, 2, 2], group: int = 6, kernel_shape: ints = [5, 5]> (leaf, w1, b1)
            a = Clip(d, lo, hi)
            q = GlobalAveragePool(a)
            e0 = Conv <kernel_shape: ints = [1, 1]> (q, w2)
            e1 = HardSigmoid <alpha: float = 0.2, beta: float = 0.5> (e0)
            gated = Mul(a, e1)
            c3 = Conv <kernel_shape: ints = [1, 1]> (gated, w3)
            sg = Sigmoid(c3)
            silu = Mul(c3, sg)
            p = AveragePool <kernel_shape: ints = [2, 2], strides: ints = [2, 2]> (silu)
            g = GlobalAveragePool(p)
            f = Flatten(g)
            scores = Gemm <transB: int = 1> (f, w4)
        }""",
    "attention": """
        <float[8,3,4,4] w0, float[8] b0, float[8] s, float[8] t, float[8,8] wq, float[8,8] wk, float[8,8] wv, float root = {2.828427},
         float[8,5] w4, int64[3] tokens = {0, 0, -1}>
        {
            c0 = Conv <strides: ints = [4, 4], kernel_shape: ints = [4, 4]> (image, w0, b0)
            flat = Reshape(c0, tokens)
            leaf = Transpose <perm: ints = [0, 2, 1]> (flat)
            n = LayerNormalization <axis: int = -1> (leaf, s, t)
            q = MatMul(n, wq)
            k = MatMul(n, wk)
            v = MatMul(n, wv)
            kt = Transpose <perm: ints = [0, 2, 1]> (k)
            s0 = MatMul(q, kt)
            s1 = Div(s0, root)
            s2 = Softmax <axis: int = -1> (s1)
            y = MatMul(s2, v)
            r = Add(y, leaf)
            th = Tanh(r)
            e = Erf(th)
            m = ReduceMean <axes: ints = [1], keepdims: int = 0> (e)
            scores = MatMul(m, w4)
        }""",
    "decoder": """
        <float[4,3,3,3] w0, float[4,4,2,2] w1, float[4] b1, float[5,8,1,1] w2,
         float[0] roi, int64[2] space = {2, 3}, float[4] twice = {1, 1, 2, 2}>
        {
            leaf = Conv <strides: ints = [2, 2], pads: ints = [1, 1, 1, 1], kernel_shape: ints = [3, 3]> (image, w0)
            r = Elu <alpha: float = 0.7> (leaf)
            up = ConvTranspose <strides: ints = [2, 2], kernel_shape: ints = [2, 2]> (r, w1, b1)
            near = Resize <mode: string = "nearest", coordinate_transformation_mode: string = "asymmetric", nearest_mode: string = "floor">
                (r, roi, twice)
            both = Concat <axis: int = 1> (up, near)
            c2 = Conv <kernel_shape: ints = [1, 1]> (both, w2)
            soft = Tanh(c2)
            scores = ReduceSum <keepdims: int = 0> (soft, space)
        }""",
}


def network(name: str) -> onnx.ModelProto:
    """Parsed; weights that the text only declares are drawn."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> net (float[2,3,16,16] image) => (float[2,5] scores) {NETWORKS[name]}'
    )
    rng = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        drawn = rng.random(shape) + 0.5 if value.name == "variance" else rng.standard_normal(shape)
        model.graph.initializer.append(numpy_helper.from_array(drawn.astype(np.float32), value.name))
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx2torch imports torchvision for two operators that do not occur here."""
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.ops"):
            stub = types.ModuleType(name)
            stub.roi_align = None  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, name, stub)


@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_and_gradients(name: str) -> None:
    import onnx2torch

    model = network(name)
    module = onnx2torch.convert(model).double().eval()
    image = np.random.default_rng(1).standard_normal((2, 3, 16, 16))
    found = gradients(model, {"image": image}, "image", ["scores"])
    leaf = torch.from_numpy(image).requires_grad_()
    scores = module(leaf).flatten()
    torch.testing.assert_close(found.scores, scores.detach(), rtol=1e-12, atol=1e-12)
    expected = torch.stack([torch.autograd.grad(score, leaf, retain_graph=True)[0] for score in scores])
    assert expected.abs().amax((1, 2, 3, 4)).min() > 0
    torch.testing.assert_close(found.gradients, expected, rtol=1e-12, atol=1e-12 * float(expected.abs().max()))
