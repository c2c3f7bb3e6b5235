"""The gradient of the backbone, written out as ordinary layers, so that ONNX needs no backward pass.

A ResNet backbone uses five operators. Each has a one-line vector-Jacobian product in inference mode:

    convolution   g → transposed convolution with the same weights
    batch-norm    g → g · γ / √(σ² + ε)
    ReLU          g → g where the output is positive, else 0
    addition      g → g to both sides
    max pooling   g → to the first largest element of each window

Walking the traced graph backwards with these rules gives exactly what autograd computes, for any number of
cotangents in one batch, with every size free, and in operators that ONNX Runtime and TensorRT both have.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from dkcam.errors import ExportError
from dkcam.export.model import ResNet


class _Backbone(nn.Module):
    """Only the backbone of a model, so that tracing sees nothing else."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        for name, child in model.named_children():
            if name != "fc":
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return ResNet.backbone(cast(ResNet, self), x)


class DifferentiableBackbone(nn.Module):
    """Runs the backbone and pulls gradients at its output back to a target layer.

    layer: "layer1" … "layer4" or a dotted module name ("layer3.2.conv2"). A module that is called several times
    ("layer1.0.relu") means its last call. Errors: ExportError when the backbone has no such module.
    """

    def __init__(self, model: ResNet, layer: str) -> None:
        super().__init__()
        self.body = _Backbone(model)
        graph = fx.Tracer().trace(self.body)
        self._steps = [node for node in graph.nodes if node.op in ("call_module", "call_function")]
        self._input = next(node for node in graph.nodes if node.op == "placeholder")
        inside = [n for n in self._steps if n.op == "call_module" and f"{n.target}.".startswith(f"{layer}.")]
        if not inside:
            raise ExportError(f"layer {layer!r} is not in the model; expected layer1 to layer4 or a module such as layer3.2.conv2")
        self._target = inside[-1]
        self._modules_by_name: dict[str, nn.Module] = dict(self.body.named_modules())
        # what lies after the target, and depends on it: only there a gradient flows
        self._dependent = {self._target}
        for node in self._steps:
            if any(source in self._dependent for source in node.all_input_nodes):
                self._dependent.add(node)

    @property
    def is_output(self) -> bool:
        """Whether the target layer is the backbone's own output (layer4)."""
        return self._target is self._steps[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[fx.Node, Tensor]]:
        """Normalised images float [B, 3, H, W] → (output [B, C, H/32, W/32], target features, values for pull_back)."""
        values: dict[fx.Node, Tensor] = {self._input: x}
        for node in self._steps:
            inputs = [values[source] for source in node.all_input_nodes]
            if node.op == "call_module":
                values[node] = self._modules_by_name[str(node.target)](inputs[0])
            elif node.target in (operator.add, torch.add):
                values[node] = inputs[0] + inputs[1]
            else:
                raise ExportError(f"the backbone uses {node.target}, for which no gradient rule is known")
        return values[self._steps[-1]], values[self._target], values

    def pull_back(self, gradient: Tensor, values: dict[fx.Node, Tensor]) -> Tensor:
        """Gradients float [B, M, C, h, w] at the output → float [B, M, C', h', w'] at the target layer."""
        arrived: dict[fx.Node, Tensor] = {self._steps[-1]: gradient}
        for node in reversed(self._steps):
            if node is self._target:
                break
            if node not in self._dependent or node not in arrived:
                continue
            here = arrived.pop(node)
            if node.op == "call_module":
                module = self._modules_by_name[str(node.target)]
                here = _rule(module, here, values[node.all_input_nodes[0]], values[node])
            for source in node.all_input_nodes:
                if source in self._dependent:
                    arrived[source] = arrived[source] + here if source in arrived else here
        return arrived[self._target]


def _rule(module: nn.Module, gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Vector-Jacobian product of one module for gradients [B, M, C, h, w]; before [B, C', h', w'], after [B, C, h, w]."""
    if isinstance(module, nn.ReLU):
        return gradient * (after > 0).to(gradient.dtype).unsqueeze(1)
    if isinstance(module, nn.BatchNorm2d):
        variance, scale = cast(Tensor, module.running_var), module.weight
        return gradient * (scale * torch.rsqrt(variance + module.eps))[:, None, None]
    batch, count = gradient.shape[:2]
    flat = gradient.flatten(0, 1)
    if isinstance(module, nn.Conv2d):
        # input sizes are even wherever the stride is 2 (the image's are multiples of 32): one row and column to add
        extra = [stride - 1 for stride in module.stride]
        flat = functional.conv_transpose2d(
            flat, module.weight, None, module.stride, cast(Any, module.padding), extra, module.groups, module.dilation
        )
    elif isinstance(module, nn.MaxPool2d):
        flat = _max_pool_rule(flat, before, after, batch, count)
    else:
        raise ExportError(f"the backbone uses {type(module).__name__}, for which no gradient rule is known")
    return flat.unflatten(0, (batch, count))


def _max_pool_rule(flat: Tensor, before: Tensor, after: Tensor, batch: int, count: int) -> Tensor:
    """3×3, stride 2, padding 1. Among equal elements the first in reading order gets the gradient, as in PyTorch."""
    channels = before.shape[1]
    padded = functional.pad(before, (1, 1, 1, 1), value=-1.0)  # the input is a ReLU's output, so -1 is never largest
    height, width = before.shape[2], before.shape[3]
    gradient = flat.unflatten(0, (batch, count))
    taken = torch.zeros_like(after)
    total: Tensor | None = None
    for row in range(3):
        for column in range(3):
            corner = padded[:, :, row : row + height : 2, column : column + width : 2]
            chosen = (corner == after).to(after.dtype) * (1 - taken)
            taken = taken + chosen
            spot = torch.zeros(channels, 1, 3, 3, dtype=flat.dtype)
            spot[:, :, row, column] = 1
            part = functional.conv_transpose2d((gradient * chosen.unsqueeze(1)).flatten(0, 1), spot, None, 2, 1, 1, channels)
            total = part if total is None else total + part
    assert total is not None
    return total
