"""TensorRT's parser takes and its builder builds what the passes write; it needs no GPU."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dkcam.export.passes.half import half
from dkcam.export.passes.merge_batch_norm import merge_batch_norm
from dkcam.export.passes.store_half import store_half
from tests.export.passes.networks import NETWORKS, file_of, network
from tests.export.passes.test_half import features
from tests.export.passes.test_int8 import lowered
from tests.export.passes.test_store_half import halved

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install tensorrt-rtx-cu13)")


def build(model: ir.Model) -> None:
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(file_of(model)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert builder.build_serialized_network(network, builder.create_builder_config()) is not None


@pytest.mark.parametrize("name", NETWORKS)
def test_merged(name: str) -> None:
    model = network(name)
    merge_batch_norm(model)
    build(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_half_weights(name: str) -> None:
    model = halved(name)
    assert store_half(model)
    build(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_float16(name: str) -> None:
    model = network(name)
    merge_batch_norm(model)
    assert half(model, [features(name, model)])
    build(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_int8(name: str) -> None:
    build(lowered(name, "gpu"))
