"""The backbone as ONNX, forwards, and backwards from its output to any layer.

A ResNet backbone uses five operators. Each has a one-line vector-Jacobian product in inference mode:

    convolution   g → transposed convolution with the same weights
    batch-norm    g → g · γ / √(σ² + ε)
    ReLU          g → g where the output is positive, else 0
    addition      g → g to both sides
    max pooling   g → to the first largest element of each window

Walking the traced graph backwards with these rules gives what autograd computes, for any number of cotangents in
one batch, with every size free, in operators that ONNX Runtime and TensorRT both have.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, fx, nn

from dkcam.errors import ExportError
from dkcam.export.builder import Builder
from dkcam.export.model import ResNet


class Body(nn.Module):
    """Only the backbone of a model, so that tracing sees nothing else."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        for name, child in model.named_children():
            if name != "fc":
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return ResNet.backbone(cast(ResNet, self), x)


class Backbone:
    """Writes a model's backbone and the gradient at a layer into a graph.

    layer: "layer1" … "layer4" or a dotted module name ("layer3.2.conv2"); a module that is called several times
    ("layer1.0.relu") means its last call. Errors: ExportError when the backbone has no such module.
    """

    def __init__(self, model: ResNet, layer: str, builder: Builder) -> None:
        body = Body(model)
        self._graph = builder
        self._modules = dict(body.named_modules())
        traced = fx.Tracer().trace(body)
        self._steps = [node for node in traced.nodes if node.op in ("call_module", "call_function")]
        self._input = next(node for node in traced.nodes if node.op == "placeholder")
        inside = [n for n in self._steps if n.op == "call_module" and f"{n.target}.".startswith(f"{layer}.")]
        if not inside:
            raise ExportError(f"--layer {layer}: not in the model; expected layer1 to layer4, or a module such as layer3.2.conv2")
        self._target = inside[-1]
        self._values: dict[fx.Node, str] = {}
        # what lies after the target and depends on it: only there a gradient flows
        self._dependent = {self._target}
        for node in self._steps:
            if any(source in self._dependent for source in node.all_input_nodes):
                self._dependent.add(node)

    @property
    def is_output(self) -> bool:
        """Whether the target layer is the backbone's own output (layer4)."""
        return self._target is self._steps[-1]

    def forward(self, image: str) -> tuple[str, str]:
        """Normalised images [B, 3, H, W] → (output [B, C, H/32, W/32], the target layer's features)."""
        self._graph.part = "backbone"
        self._values[self._input] = image
        for node in self._steps:
            inputs = [self._values[source] for source in node.all_input_nodes]
            self._values[node] = self._forward_step(node, inputs)
        return self._values[self._steps[-1]], self._values[self._target]

    def activations(self) -> list[str]:
        """Names of every ReLU's output [B, C, h, w], in the order the model calls them. Call after ``forward``."""
        return [self._values[n] for n in self._steps if n.op == "call_module" and isinstance(self._modules[str(n.target)], nn.ReLU)]

    def _forward_step(self, node: fx.Node, inputs: list[str]) -> str:
        graph = self._graph
        if node.op == "call_function":
            if node.target not in (operator.add, torch.add):
                raise ExportError(f"the backbone uses {node.target}, which has no rule here")
            return graph.op("Add", *inputs)
        name, module = str(node.target), self._modules[str(node.target)]
        if isinstance(module, nn.Conv2d):
            return graph.op("Conv", inputs[0], self._weight(f"{name}.weight", module.weight), **geometry(module))
        if isinstance(module, nn.BatchNorm2d):
            parts = ("weight", "bias", "running_mean", "running_var")
            weights = [self._weight(f"{name}.{part}", cast(Tensor, getattr(module, part))) for part in parts]
            return graph.op("BatchNormalization", inputs[0], *weights, epsilon=module.eps)
        if isinstance(module, nn.ReLU):
            return graph.op("Relu", inputs[0])
        if isinstance(module, nn.MaxPool2d):
            return graph.op("MaxPool", inputs[0], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        raise ExportError(f"the backbone uses {type(module).__name__}, which has no rule here")

    def _weight(self, name: str, values: Tensor) -> str:
        return self._graph.weight(name, values.detach().float().numpy())

    def pull_back(self, gradient: str) -> str:
        """Gradients [B, M, C, h, w] at the output → [B, M, C', h', w'] at the target layer. Call after ``forward``."""
        self._graph.part = "gradient"
        arrived = {self._steps[-1]: gradient}
        for node in reversed(self._steps):
            if node is self._target:
                break
            if node not in self._dependent:
                continue
            here = arrived.pop(node)
            if node.op == "call_module":
                here = self._backward_step(node, here)
            for source in node.all_input_nodes:
                if source in self._dependent:
                    arrived[source] = self._graph.op("Add", arrived[source], here) if source in arrived else here
        return arrived[self._target]

    def _backward_step(self, node: fx.Node, gradient: str) -> str:
        graph, module = self._graph, self._modules[str(node.target)]
        before, after = self._values[node.all_input_nodes[0]], self._values[node]
        if isinstance(module, nn.ReLU):
            open_ = graph.op("Cast", graph.op("Greater", after, graph.number(0.0)), to=TensorProto.FLOAT)
            return graph.op("Mul", gradient, graph.unsqueeze(open_, 1))
        if isinstance(module, nn.BatchNorm2d):
            scale = module.weight.double() / (cast(Tensor, module.running_var).double() + module.eps).sqrt()
            return graph.op("Mul", gradient, graph.constant(scale.detach().float().numpy()[:, None, None]))
        if isinstance(module, nn.Conv2d):
            # input sizes are even wherever the stride is 2 (the image's are multiples of 32): one row and column to add
            extra = [stride - 1 for stride in module.stride]
            flat = self._merge(gradient, after)
            flat = graph.op("ConvTranspose", flat, self._backward_weight(node), output_padding=extra, **geometry(module))
            return self._split(flat, before)
        return self._max_pool_step(gradient, before, after)

    def _backward_weight(self, node: fx.Node) -> str:
        """A convolution's weights, float32."""
        return self._weight(f"{node.target}.weight", cast(nn.Conv2d, self._modules[str(node.target)]).weight)

    def _max_pool_step(self, gradient: str, before: str, after: str) -> str:
        """3×3, stride 2, padding 1. Among equal elements the first in reading order gets the gradient, as in PyTorch."""
        graph = self._graph
        # its input is a ReLU's output, so the border of −1 is never the largest
        border = graph.ints(0, 0, 1, 1, 0, 0, 1, 1)
        padded = graph.op("Pad", before, border, graph.number(-1.0))
        channels = cast(nn.Conv2d, self._modules["conv1"]).out_channels
        total, taken = "", ""
        for row in range(3):
            for column in range(3):
                # every second element from (row, column) on; the last one or two of the padded input are left over
                ends = graph.ints(row - 2 if row < 2 else 2**31, column - 2 if column < 2 else 2**31)
                corner = graph.op("Slice", padded, graph.ints(row, column), ends, graph.ints(2, 3), graph.ints(2, 2))
                chosen = graph.op("Cast", graph.op("Equal", corner, after), to=TensorProto.FLOAT)
                if taken:
                    chosen = graph.op("Mul", chosen, graph.op("Sub", graph.number(1.0), taken))
                taken = graph.op("Add", taken, chosen) if taken else chosen
                spot = np.zeros((channels, 1, 3, 3), np.float32)
                spot[:, :, row, column] = 1
                part = self._merge(graph.op("Mul", gradient, graph.unsqueeze(chosen, 1)), after)
                shape: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "group": channels}
                part = graph.op("ConvTranspose", part, graph.constant(spot), output_padding=[1, 1], **shape)
                total = graph.op("Add", total, part) if total else part
        return self._split(total, before)

    def _merge(self, gradient: str, like: str) -> str:
        """[B, M, C, h, w] → [B·M, C, h, w], where ``like`` is [B, C, h, w]."""
        return self._graph.reshape(gradient, -1, self._graph.dims(like, 1, 4))

    def _split(self, flat: str, like: str) -> str:
        """[B·M, C, h, w] → [B, M, C, h, w], where ``like`` is [B, C, h, w]."""
        return self._graph.reshape(flat, self._graph.dims(like, 0, 1), -1, self._graph.dims(like, 1, 4))


def geometry(module: nn.Conv2d) -> dict[str, Any]:
    """A convolution's ONNX attributes."""
    padding = cast(tuple[int, int], module.padding)
    return {
        "kernel_shape": list(module.kernel_size),
        "strides": list(module.stride),
        "pads": [*padding, *padding],
        "group": module.groups,
    }
