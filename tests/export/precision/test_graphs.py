"""float16 and int8 graphs of every kind: they run, and stay near the float32 graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from dkcam.agreement import pearson
from dkcam.engines import open_bytes
from dkcam.engines.engine import graph_input
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.checkpoint_graph import subject_of, write_graph
from dkcam.export.exporter import make_spec
from dkcam.export.options import ExportOptions
from dkcam.export.passes.int8 import wanted
from dkcam.export.precision import Half, Int8, Numerics
from dkcam.export.precision.calibrate import calibrate
from dkcam.export.precision.lower import merge
from dkcam.export.precision.numerics import Range
from dkcam.rendered import random_scene, render
from dkcam.spec import ModelSpec
from tests.conftest import tiny_checkpoint
from tests.marks import some

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


def pictures(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.ascontiguousarray(render(random_scene(rng), *size)[0][..., ::-1]) for _ in range(count)]


def ranges(checkpoint: Checkpoint, spec: ModelSpec, target: str) -> Mapping[str, Range]:
    """Of one of ``tiny_checkpoint``; calibrating takes longer than the tests that need it."""
    return _ranges(checkpoint.config.variant, spec.to_json(), target)


@cache
def _ranges(variant: str, text: str, target: str) -> Mapping[str, Range]:
    spec = ModelSpec.from_json(text, "the test")
    subject = subject_of(tiny_checkpoint(variant), spec)
    merge(subject.model, Int8(target, {}), subject.boundary, subject.keep)
    names = wanted(subject.model, subject.boundary, target, subject.keep)
    way, batch = spec.input, spec.input.batch[0]
    return calibrate(
        subject.model,
        names,
        [{"image": graph_input(np.stack([p] * batch), way)} for p in pictures(6, size=(way.height, way.width))],
    )


def numerics_of(checkpoint: Checkpoint, spec: ModelSpec, name: str, kept: frozenset[str] = frozenset()) -> Numerics:
    if name == "fp16":
        return Half()
    target = name.split()[1]
    return Int8(target, ranges(checkpoint, spec, target), kept)


@pytest.mark.parametrize("precision", ["fp16", "int8 cpu", "int8 gpu"])
@pytest.mark.parametrize("kind", some(KINDS, ["default", "masks", "layer3"]))
def test_every_kind_stays_near_float32(kind: str, precision: str) -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, **KINDS[kind]))
    exact = open_bytes(write_graph(checkpoint, spec), "fp32")
    low = open_bytes(write_graph(checkpoint, spec, numerics_of(checkpoint, spec, precision)), precision)
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
    everything = frozenset(name for name in dict(checkpoint.module().named_modules()) if "conv" in name or "downsample.0" in name)
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, layer=layer, outputs=("gradient",)))
    kept = numerics_of(checkpoint, spec, "int8 gpu", everything)
    image = graph_input(pictures(1)[0][None], spec.input)
    merged = open_bytes(write_graph(checkpoint, spec, kept), "merged").run(image, np.array([2]))["gradient"]
    plain = open_bytes(write_graph(checkpoint, spec), "plain").run(image, np.array([2]))["gradient"]
    assert float(np.abs(merged - plain).max()) <= 1e-3 * float(np.abs(plain).max())


def test_the_two_int8_flavours_keep_their_rules() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE))
    for target, kind, largest in (("cpu", TensorProto.UINT8, 63), ("gpu", TensorProto.INT8, 127)):
        model = onnx.load_from_string(write_graph(checkpoint, spec, numerics_of(checkpoint, spec, f"int8 {target}")))
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
    numerics = numerics_of(checkpoint, spec, "int8 cpu", frozenset({"conv1", "layer2.0.conv2"}))
    model = onnx.load_from_string(write_graph(checkpoint, spec, numerics))
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"conv1.weight", "layer2.0.conv2.weight"} <= names and "layer2.0.conv2.weight.whole" not in names
    assert sum(name.endswith("weight.whole") for name in names) == 51


def test_the_same_bytes_every_time() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, layer="layer3"))
    for numerics in (Half(), numerics_of(checkpoint, spec, "int8 cpu")):
        assert write_graph(checkpoint, spec, numerics) == write_graph(checkpoint, spec, numerics)
