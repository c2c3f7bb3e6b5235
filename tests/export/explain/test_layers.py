from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import nn

from dkcam.errors import ExportError
from dkcam.export.explain.layers import Layer, Layers
from tests.export.explain.graphs import Convolutional, Transformer, graph_of


def layers_of(module: nn.Module, height: int = 64, width: int = 96) -> Layers:
    graph: ir.Graph = graph_of(module, height, width).graph
    return Layers(graph, graph.inputs[0], (height, width), [graph.outputs[0]])


class Pooled(nn.Module):
    """A pooling in one of the ways that networks write it, and a linear layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.fc = way, nn.Linear(12 if way != "flatten" else 12 * 16 * 24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = {
            "mean": lambda: x.mean((2, 3)),
            "max": lambda: x.amax((2, 3)),
            "adaptive": lambda: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
            "window": lambda: nn.functional.avg_pool2d(x, (16, 24)).flatten(1),
            "flatten": lambda: x.flatten(1),
            "tokens": lambda: x.flatten(2).transpose(1, 2).mean(1),
            "last": lambda: x.permute(0, 2, 3, 1).mean((1, 2)),
        }[self.way]()
        return self.fc(pooled)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", ["mean", "max", "adaptive", "window", "flatten", "tokens", "last"])
def test_the_default_is_the_last_map_before_space_is_given_up(way: str) -> None:
    found = layers_of(Convolutional(Pooled(way))).default()
    assert found.size == (16, 24)
    shape = list(found.value.shape or ())
    assert shape[found.channel] == 12 and tuple(shape[axis] for axis in found.space) == (16, 24)
    # nothing but moves of numbers lies between it and the ReLU of the last stage
    node = found.value.producer()
    while node is not None and node.op_type == "Transpose":
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    assert node is not None and node.op_type == "Relu"


@pytest.mark.parametrize(("registers", "mean", "skip"), [(0, False, 1), (4, False, 5), (0, True, 0)])
def test_tokens_have_the_grid_of_their_patches(registers: int, mean: bool, skip: int) -> None:
    found = layers_of(Transformer(registers, mean), 64, 96).default()
    assert (found.size, found.skip, found.space, found.channel) == ((4, 6), skip, (1,), 2)


def test_a_class_token_is_explained_where_it_still_reads() -> None:
    """Behind the last attention only the class token itself is read, and a map of the others is zero."""
    found = layers_of(Transformer()).default()
    assert found.name == "/blocks.2/norm1/LayerNormalization_output_0"


def test_layers_are_named_by_value_node_or_module() -> None:
    layers = layers_of(Convolutional(Pooled("mean")))
    by_module = layers.named("stage1")
    assert by_module.value is layers.named("/stage1/stage1.3/Relu").value is layers.named("/stage1/stage1.3/Relu_output_0").value
    assert layers.named("stage1.1").value is not by_module.value and by_module.size == (32, 48)


def test_an_unknown_layer_names_its_neighbours() -> None:
    with pytest.raises(ExportError, match=r"--layer stage3: no value, .* near: .*stage[12].*--list-layers"):
        layers_of(Convolutional(Pooled("mean"))).named("stage3")


def test_a_value_without_positions_is_no_layer() -> None:
    with pytest.raises(ExportError, match=r"its shape 1x4 has no positions; expected features"):
        layers_of(Convolutional(Pooled("mean"))).named("end.fc")


def test_candidates_are_the_ends_of_blocks_and_one_map_of_each_size() -> None:
    found = [layer.name for layer in layers_of(Convolutional(Pooled("mean"))).candidates()]
    assert found == ["/stage1/stage1.1/Relu_output_0", "/stage1/stage1.3/Relu_output_0", "/Add_output_0", "/stage2/stage2.1/Relu_output_0"]


def test_a_network_that_keeps_space_is_explained_at_its_coarsest_map() -> None:
    up = nn.Sequential(nn.Conv2d(12, 3, 1), nn.Upsample(scale_factor=4))
    layers = layers_of(Convolutional(up))
    assert layers.coarsest().name == "/end/end.0/Conv_output_0"


@pytest.mark.parametrize("size", [(33, 47), (224, 224), (100, 30)])
def test_rounding_does_not_hide_a_map(size: tuple[int, int]) -> None:
    found: Layer = layers_of(Convolutional(Pooled("mean")), *size).default()
    assert found.size == tuple(-(-side // 4) for side in size) and found.space == (2, 3)


@pytest.mark.parametrize("turned", [False, True], ids=["channels first", "channels last"])
def test_convolutions_without_padding_keep_no_ratio_and_are_maps_all_the_same(turned: bool) -> None:
    class Pilot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = ((3, 8, 5, 2), (8, 8, 5, 2), (8, 8, 5, 2), (8, 8, 3, 1), (8, 8, 3, 1))
            self.features = nn.Sequential(*(part for size in sizes for part in (nn.Conv2d(*size), nn.ELU())))
            self.fc = nn.Linear(8 * 18, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.features(x)
            return self.fc((x.permute(0, 2, 3, 1) if turned else x).flatten(1))  # type: ignore[no-any-return]

    layers = layers_of(Pilot(), 66, 200)
    found = layers.default()
    assert (found.size, found.space, found.channel) == (((1, 18), (1, 2), 3) if turned else ((1, 18), (2, 3), 1))
    assert list(dict.fromkeys(one.size for one in layers.candidates())) == [(31, 98), (14, 47), (5, 22), (3, 20), (1, 18)]
