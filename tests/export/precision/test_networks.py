"""Networks of every kind in float16 and int8, explained: quantise or halve first, then differentiate."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dkcam.agreement import pearson
from dkcam.export.assemble import Wanted
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.passes.int8 import wanted
from dkcam.export.passes.store_half import store_half
from dkcam.export.precision.calibrate import calibrate
from dkcam.export.precision.lower import lower, merge
from dkcam.export.precision.numerics import Half, Int8, Numerics
from dkcam.export.prepare import Prepared, prepare
from tests.export.passes.networks import LEVELS, NETWORKS, bytes_of, file_of, image, session
from tests.export.passes.test_tensorrt import build

KINDS = ("fp16", "int8 cpu", "int8 gpu")
EARLY = {  # a value far from the scores
    "plain": "/1/MaxPool",
    "residual": "/2/first/first.2/Relu",
    "silu": "/1/up/up.2/Mul",
    "hardswish": "/1/deep/deep.2/HardSwish",
    "tokens": "/Add_1",
    "unet": "/left/left.2/Relu",
}


def prepared(name: str, layer: str = "") -> Prepared:
    network = open_model(onnx.load_from_string(bytes_of(name)), name)
    return prepare(network, kind="tensor", task="auto", layers=(layer,) if layer else (), named=(), labels=0)


def keep(subject: Prepared) -> tuple[str, ...]:
    return tuple(layer.name for layer in subject.layers)


@cache
def numerics_of(name: str, layer: str, kind: str) -> Numerics:
    if kind == "fp16":
        return Half()
    subject, target = prepared(name, layer), kind.split()[1]
    merge(subject.model, Int8(target, {}), subject.boundary(), keep(subject))
    names = wanted(subject.model, subject.boundary(), target, keep(subject))
    return Int8(target, calibrate(subject.model, names, [{"image": image(seed)} for seed in range(6)]))


def explained(name: str, layer: str, kind: str | None, count: int | None = None) -> ir.Model:
    subject = prepared(name, layer)
    if kind is not None:
        lower(subject.model, numerics_of(name, layer, kind), subject.boundary(), keep(subject))
    model = subject.write(Wanted(subject.layers, count=count, outputs=("logits", "explained", "heatmap", "gradient")))
    store_half(model)
    return model


def said(model: ir.Model, level: str = "ORT_ENABLE_ALL") -> dict[str, np.ndarray]:
    opened = session(model, level)
    values = opened.run(None, {"image": image(99), "classes": np.array([2, -1])})
    return dict(zip([output.name for output in opened.get_outputs()], values, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_layer(name: str, kind: str) -> None:
    exact, low = explained(name, "", None), explained(name, "", kind)
    expected = said(exact)
    for level in LEVELS:
        found = said(low, level)
        for key in ("logits", "heatmap", "gradient"):
            assert found[key].dtype == np.float32 and found[key].shape == expected[key].shape
            # a segmentation's map is an inner one: rounding switches ReLUs on the way there
            assert pearson(found[key], expected[key]) > (0.9999 if kind == "fp16" else 0.9 if name == "unet" else 0.98), (key, level)
        # where a pooled linear head follows, the gradient is that of the head, in float32
        if name != "unet" and name != "tokens":
            np.testing.assert_allclose(found["gradient"], expected["gradient"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_early_layer(name: str, kind: str) -> None:
    """Through every kind of operator between. ReLUs that rounding switches move gradients by whole units."""
    expected, found = said(explained(name, EARLY[name], None)), said(explained(name, EARLY[name], kind))
    assert np.abs(expected["gradient"]).max() > 0
    smooth = name in ("tokens", "silu", "hardswish")
    assert pearson(found["gradient"], expected["gradient"]) > (0.999 if kind == "fp16" else 0.98 if smooth else 0.9)


@pytest.mark.parametrize("kind", ["fp16", "int8 gpu"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tensorrt_builds(name: str, kind: str) -> None:
    build(explained(name, EARLY[name], kind, count=2))


def test_gradients_are_computed_in_float32() -> None:
    """No operator of the way back has a float16 input or output but the Cast that reads the network's."""
    for kind in KINDS:
        model = explained("residual", EARLY["residual"], kind)
        written = [node for node in model.graph if (node.name or "").startswith(("gradient/", "heatmap/"))]
        assert len(written) > 20
        for node in written:
            kinds = {value.dtype for value in (*node.inputs, *node.outputs) if value is not None}
            assert ir.DataType.FLOAT16 not in kinds or node.op_type == "Cast"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_every_time(kind: str) -> None:
    assert file_of(explained("silu", EARLY["silu"], kind)) == file_of(explained("silu", EARLY["silu"], kind))
