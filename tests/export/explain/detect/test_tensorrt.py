"""TensorRT builds detectors of every layout; it needs no GPU."""

from __future__ import annotations

import pytest

from dkcam.export.explain.cam import METHODS
from tests.export.explain.detect.test_detect import CASES, explained, opened
from tests.export.test_tensorrt_parser import parse
from tests.marks import some

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (pip install tensorrt-rtx-cu13)")


@pytest.mark.parametrize("kind", some(CASES, ["yolov8", "yolox"]))
def test_every_layout_is_built(kind: str) -> None:
    build(explained(*opened(CASES[kind])).SerializeToString())


@pytest.mark.parametrize("batch", some([2, "free"], [2]))
def test_batches_are_built(batch: int | str) -> None:
    build(explained(*opened(CASES["yolox"], batch), each=True).SerializeToString())


@pytest.mark.parametrize("method", some(METHODS, ["layercam"]))
def test_every_method_is_built(method: str) -> None:
    build(explained(*opened(CASES["yolov8"]), method, 10).SerializeToString())


def build(data: bytes) -> None:
    """Parsing alone would take what no kernel runs."""
    builder, network = parse(data)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for one in (network.get_input(i) for i in range(network.num_inputs)):
        shape = tuple(one.shape)
        if -1 in shape:
            profile.set_shape(one.name, *(tuple(size if d == -1 else d for d in shape) for size in (1, 2, 4)))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
