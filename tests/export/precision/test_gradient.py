"""Inner layers' gradients in low precision: autograd of a float64 twin that has the file's rounded weights and its switched units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dkcam.engines import open_bytes
from dkcam.engines.engine import graph_input
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.checkpoint_graph import write_graph
from dkcam.export.exporter import make_spec
from dkcam.export.options import ExportOptions
from tests.conftest import tiny_checkpoint
from tests.export.precision.test_graphs import SIZE, numerics_of, pictures
from tests.marks import some

KEPT = frozenset({"conv1", "layer4.0.conv2", "layer3.1.conv1"})
FILES = {
    "int8 cpu": ("int8 cpu", frozenset()),
    "int8 gpu": ("int8 gpu", frozenset()),
    "int8 cpu, some kept": ("int8 cpu", KEPT),
    "fp16": ("fp16", frozenset()),
}


def stored_weights(data: bytes) -> Mapping[str, Tensor]:
    """Convolution → the weights that the file multiplies by, float64."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer}
    found = {}
    for name, value in tensors.items():
        if name.endswith(".weight.whole"):
            steps = tensors[name.removesuffix("whole") + "step"]
            found[name.removesuffix(".weight.whole")] = value.astype(np.float64) * steps.astype(np.float64)[:, None, None, None]
        elif name.endswith(".weight") and value.ndim == 4:
            found[name.removesuffix(".weight")] = value.astype(np.float64)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def twin_gradient(checkpoint: Checkpoint, data: bytes, layer: str, said: Mapping[str, np.ndarray], number: int) -> np.ndarray:
    """The gradient of a class's logit at the layer [C, h, w], by torch, along the units that the file switched on.

    Between its kinks the network is linear: the pictures it is run on do not matter.
    """
    model = checkpoint.module().double().eval()
    weights = stored_weights(data)
    units = [torch.from_numpy(said[f"relu_{k}"]).double() for k in range(sum(name.startswith("relu_") for name in said))]
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(weights[name])
        elif isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())  # merged into the convolution
    calls = iter(units)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, given, out: given[0] * (next(calls) > 0))
    _, places = nn.functional.max_pool2d(units[0], 3, 2, 1, return_indices=True)
    model.maxpool.register_forward_hook(lambda module, given, out: given[0].flatten(2).gather(2, places.flatten(2)).reshape(places.shape))
    kept: list[Tensor] = []

    def leaf(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[-1]

    model.get_submodule(layer).register_forward_hook(leaf)
    top = model.backbone(torch.zeros(1, 3, *SIZE, dtype=torch.float64))
    features = units[-1].detach().requires_grad_()
    (at_top,) = torch.autograd.grad(model.head(features)[0, number], features)
    (gradient,) = torch.autograd.grad(top, kept[-1], at_top)
    return cast(np.ndarray, gradient[0].numpy())


@pytest.mark.parametrize("variant", ["plain", "dropkey"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("layer", some(["layer3", "layer2", "layer1", "relu"], ["layer3"]))
def test_the_gradient_is_that_of_the_file_s_own_network(layer: str, name: str, variant: str) -> None:
    checkpoint = tiny_checkpoint(variant)
    spec = make_spec(checkpoint, ExportOptions(size=SIZE, layer=layer, outputs=("gradient", "heatmap")))
    kind, kept = FILES[name]
    data = write_graph(checkpoint, spec, numerics_of(checkpoint, spec, kind, kept), probes=True)
    said = open_bytes(data, name).run(graph_input(pictures(1, seed=3)[0][None], spec.input), np.array([2]))
    expected = twin_gradient(checkpoint, data, layer, said, 2)
    assert np.abs(expected).max() > 0
    assert float(np.abs(said["gradient"][0, 0] - expected).max()) <= 1e-5 * float(np.abs(expected).max())
