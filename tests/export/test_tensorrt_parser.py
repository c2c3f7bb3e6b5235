"""TensorRT's ONNX parser takes every kind of graph; it needs no GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dkcam.export.checkpoint_graph import write_graph
from dkcam.export.exporter import make_spec
from dkcam.export.options import ExportOptions
from tests.conftest import tiny_checkpoint
from tests.export.precision.test_graphs import numerics_of
from tests.marks import some

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install tensorrt-rtx-cu13)")

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "tensor": {"input": "tensor"},
    "masks": {"samples": 3},
    "layer3": {"layer": "layer3"},
    "layer1": {"layer": "layer1"},
    "stem": {"layer": "relu"},
    "free": {"dynamic": ("batch", "size"), "batch": (1, 4)},
    "free masks layer3": {"dynamic": ("batch", "size"), "batch": (1, 4), "samples": 2, "layer": "layer3"},
    "gradient": {"outputs": ("heatmap", "gradient", "features")},
    "logits": {"outputs": ("logits",)},
    **{method: {"method": method} for method in ("gradcam++", "xgradcam", "layercam", "hirescam")},
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "half weights"])
@pytest.mark.parametrize("kind", some(KINDS, list(KINDS)[:6]))
def test_the_parser_takes(kind: str, half: bool) -> None:
    checkpoint = tiny_checkpoint()
    if half:
        checkpoint = replace(
            checkpoint, weights={k: v.half().float() if v.is_floating_point() else v for k, v in checkpoint.weights.items()}
        )
    parse(write_graph(checkpoint, make_spec(checkpoint, ExportOptions(size=(64, 96), **KINDS[kind]))))


@pytest.mark.parametrize("precision", ["fp16", "int8 gpu"])
@pytest.mark.parametrize("kind", some(KINDS, ["default", "masks"]))
def test_the_parser_takes_low_precision(kind: str, precision: str) -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96), **KINDS[kind]))
    parse(write_graph(checkpoint, spec, numerics_of(checkpoint, spec, precision)))


@pytest.mark.parametrize("variant", ["plain", "dropout"])
def test_the_parser_takes_the_other_heads(variant: str) -> None:
    checkpoint = tiny_checkpoint(variant)
    parse(write_graph(checkpoint, make_spec(checkpoint, ExportOptions(size=(64, 96)))))


def parse(data: bytes) -> tuple[trt.Builder, trt.INetworkDefinition]:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(data), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert network.num_outputs > 0
    return builder, network
