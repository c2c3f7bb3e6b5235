"""float16 and int8 graphs of every kind: they run, and stay near the float32 graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from dkcam.agreement import pearson
from dkcam.engines import open_bytes
from dkcam.engines.engine import graph_input
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.exporter import make_spec
from dkcam.export.graph import write_graph
from dkcam.export.options import ExportOptions
from dkcam.export.precision import Half, Int8, Numerics
from dkcam.export.precision.backbone import merge
from dkcam.export.precision.calibrate import calibrate
from dkcam.rendered import random_scene, render
from tests.conftest import tiny_checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "tensor": {"input": "tensor"},
    "masks": {"samples": 3},
    "layer3": {"layer": "layer3"},
    "layer1": {"layer": "layer1", "method": "layercam"},
    "a convolution": {"layer": "layer3.2.conv2"},
    "stem": {"layer": "relu"},
    "free": {"dynamic": ("batch", "size"), "batch": (1, 4)},
    "gradient": {"outputs": ("heatmap", "gradient", "features")},
    "logits": {"outputs": ("logits",)},
}
SIZE = (96, 128)


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.ascontiguousarray(render(random_scene(rng), *SIZE)[0][..., ::-1]) for _ in range(count)]


@cache
def ranges(variant: str) -> Mapping[str, tuple[float, float]]:
    """Of ``tiny_checkpoint(variant)``; calibrating takes longer than the tests that need it."""
    checkpoint = tiny_checkpoint(variant)
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, input="tensor"))
    return calibrate(checkpoint.module(), [graph_input(p[None], spec.input)[0] for p in pictures(6)])


def int8(checkpoint: Checkpoint, target: str, kept: frozenset[str] = frozenset()) -> Int8:
    return Int8(target, ranges(checkpoint.config.variant), kept)


def numerics_of(checkpoint: Checkpoint, name: str) -> Numerics:
    return Half() if name == "fp16" else int8(checkpoint, name.split()[1])


@pytest.mark.parametrize("precision", ["fp16", "int8 cpu", "int8 gpu"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_stays_near_float32(kind: str, precision: str) -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, **KINDS[kind]))
    exact = open_bytes(write_graph(checkpoint, spec), "fp32")
    low = open_bytes(write_graph(checkpoint, spec, numerics=numerics_of(checkpoint, precision)), precision)
    mask = np.random.default_rng(1).random((3, 12, 12)) < 0.3 if spec.masks else None
    found: dict[str, list[float]] = {}
    for picture in pictures(3, seed=9):
        image = graph_input(picture[None], spec.input)
        expected, given = exact.run(image, np.array([1]), mask), low.run(image, np.array([1]), mask)
        for name in spec.explanation.outputs:
            assert given[name].shape == expected[name].shape and given[name].dtype == expected[name].dtype
            if expected[name].std() > 0 and name != "explained":
                pair = (array.astype(np.float64).ravel() for array in (given[name], expected[name]))
                found.setdefault(name, []).append(pearson(*pair))
    # gradients of inner layers pass ReLUs that rounding switches; scores and layer4's maps are smooth
    switched = {"heatmap", "weights", "gradient"} if spec.explanation.layers[0] != "layer4" else set()
    for name, values in found.items():
        if precision == "fp16":
            assert min(values) >= (0.9 if name in switched else 0.999), (name, values)
        elif name not in switched | {"heatmap_std"}:
            assert min(values) >= 0.9, (name, values)


@pytest.mark.parametrize("layer", ["layer3", "layer2"])
def test_the_gradient_belongs_to_the_low_precision_network(layer: str) -> None:
    """For int8 the pulled-back gradient is that of the network with the rounded weights: autograd of a float twin agrees."""
    checkpoint = tiny_checkpoint("plain")
    numerics = int8(checkpoint, "gpu")
    everything = frozenset(name for name in dict(checkpoint.module().named_modules()) if "conv" in name or "downsample.0" in name)
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, layer=layer, outputs=("gradient",)))
    kept = replace(numerics, kept=everything)
    image = graph_input(pictures(1)[0][None], spec.input)
    merged = open_bytes(write_graph(checkpoint, spec, numerics=kept), "merged").run(image, np.array([2]))["gradient"]
    plain = open_bytes(write_graph(checkpoint, spec), "plain").run(image, np.array([2]))["gradient"]
    assert float(np.abs(merged - plain).max()) <= 1e-3 * float(np.abs(plain).max())


def test_merging_is_exact() -> None:
    model = tiny_checkpoint().module().double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = model.bn1(model.conv1(x))
    weight, bias = (torch.from_numpy(value).double() for value in merge(model.conv1, model.bn1))
    given = torch.nn.functional.conv2d(x, weight, bias, 2, 3)
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)


def test_the_two_int8_flavours_keep_their_rules() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE))
    for target, kind, largest in (("cpu", TensorProto.UINT8, 63), ("gpu", TensorProto.INT8, 127)):
        model = onnx.load_from_string(write_graph(checkpoint, spec, numerics=int8(checkpoint, target)))
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        zeros = [weights[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert len(zeros) >= 49 and {zero.data_type for zero in zeros} == {kind}
        if target == "gpu":
            assert all(not onnx.numpy_helper.to_array(zero).any() for zero in zeros)
        whole = [onnx.numpy_helper.to_array(t) for name, t in weights.items() if name.endswith("weight.whole")]
        assert len(whole) == 53 and all(w.dtype == np.int8 and np.abs(w.astype(int)).max() == largest for w in whole)


def test_kept_layers_are_float32_in_the_file() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE))
    model = onnx.load_from_string(write_graph(checkpoint, spec, numerics=int8(checkpoint, "cpu", frozenset({"conv1", "layer2.0.conv2"}))))
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"conv1.weight", "layer2.0.conv2.weight"} <= names and "layer2.0.conv2.weight.whole" not in names
    assert sum(name.endswith("weight.whole") for name in names) == 51


def test_the_same_bytes_every_time() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, layer="layer3"))
    for numerics in (Half(), int8(checkpoint, "cpu")):
        assert write_graph(checkpoint, spec, numerics=numerics) == write_graph(checkpoint, spec, numerics=numerics)
