"""The backbone with each convolution and its batch-norm merged into one, in float16 or int8.

The gradient at inner layers is pulled back in float32, through the very weights of the forward pass.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, fx, nn

from dkcam.export.backbone import Backbone, geometry
from dkcam.export.builder import Builder
from dkcam.export.model import ResNet
from dkcam.export.precision.numerics import Half, Int8, Numerics, Range


class MergedBackbone(Backbone):
    """See ``Backbone``. A convolution whose own output is the target layer stays as it is, before its batch-norm."""

    def __init__(self, model: ResNet, layer: str, builder: Builder, numerics: Numerics) -> None:
        super().__init__(model, layer, builder)
        self._numerics = numerics
        self._merged = {conv: bn for bn, conv in self._pairs().items() if conv is not self._target}
        self._low: set[fx.Node] = set()  # what an int8 operator produced
        self._rounded: dict[fx.Node, str] = {}  # values behind a pair of QuantizeLinear and DequantizeLinear
        self._float_weights: dict[str, str] = {}

    def convolutions(self) -> dict[str, int]:
        """Names of the convolutions that int8 can have, with their numbers of weights."""
        return {str(conv.target): cast(nn.Conv2d, self._modules[str(conv.target)]).weight.numel() for conv in self._merged}

    def _pairs(self) -> dict[fx.Node, fx.Node]:
        """Batch-norm → the convolution before it."""
        found = {}
        for node in self._steps:
            if node.op == "call_module" and isinstance(self._modules[str(node.target)], nn.BatchNorm2d):
                before = node.all_input_nodes[0]
                if isinstance(self._modules.get(str(before.target)), nn.Conv2d) and len(before.users) == 1:
                    found[node] = before
        return found

    def forward(self, image: str) -> tuple[str, str]:
        graph = self._graph
        graph.part = "backbone"
        half = isinstance(self._numerics, Half)
        self._values[self._input] = graph.op("Cast", image, to=TensorProto.FLOAT16) if half else image
        merged = {bn: conv for conv, bn in self._merged.items()}
        for node in self._steps:
            if node in self._merged:
                continue  # written with its batch-norm
            if node in merged:
                self._values[node] = self._merged_step(merged[node], node)
                self._values[merged[node]] = self._values[node]  # for its shape, on the way back
            else:
                self._values[node] = self._plain_step(node, half)
            self._round(node)
        if half:  # the nodes that nothing uses are left out of the file
            self._values = {node: graph.op("Cast", value, to=TensorProto.FLOAT) for node, value in self._values.items()}
        return self._values[self._steps[-1]], self._values[self._target]

    def _plain_step(self, node: fx.Node, half: bool) -> str:
        inputs = [self._values[source] for source in node.all_input_nodes]
        module = self._modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):  # not merged: float32
            wide = [self._graph.op("Cast", value, to=TensorProto.FLOAT) for value in inputs] if half else inputs
            value = self._forward_step(node, wide)
            return self._graph.op("Cast", value, to=TensorProto.FLOAT16) if half else value
        if all(source in self._low for source in node.all_input_nodes):
            self._low.add(node)
        return self._forward_step(node, inputs)

    def _merged_step(self, conv: fx.Node, bn: fx.Node) -> str:
        name, module = str(conv.target), cast(nn.Conv2d, self._modules[str(conv.target)])
        weight, bias = merge(module, cast(nn.BatchNorm2d, self._modules[str(bn.target)]))
        graph, source = self._graph, conv.all_input_nodes[0]
        if isinstance(self._numerics, Half):
            stored = graph.half(f"{name}.weight", weight)
            self._float_weights[name] = graph.op("Cast", stored, to=TensorProto.FLOAT)
            return graph.op("Conv", self._values[source], stored, graph.half(f"{name}.bias", bias), **geometry(module))
        if name in self._numerics.kept:
            self._float_weights[name] = graph.weight(f"{name}.weight", weight)
            return graph.op("Conv", self._values[source], self._float_weights[name], graph.weight(f"{name}.bias", bias), **geometry(module))
        self._low.add(bn)
        image, scale = self._rounded_value(source), self._scale(source)
        steps = np.maximum(np.abs(weight).max(axis=(1, 2, 3)), 1e-12).astype(np.float32) / np.float32(self._numerics.largest)
        whole = np.clip(np.rint(weight / steps[:, None, None, None]), -self._numerics.largest, self._numerics.largest).astype(np.int8)
        self._float_weights[name] = graph.dequantised(f"{name}.weight", whole, steps)
        if self._numerics.target == "cpu":
            fine = (steps.astype(np.float64) * scale).astype(np.float32)
            whole_bias = np.clip(np.rint(bias / fine.astype(np.float64)), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            added = graph.dequantised(f"{name}.bias", whole_bias, fine)
        else:
            added = graph.weight(f"{name}.bias", bias)
        return graph.op("Conv", image, self._float_weights[name], added, **geometry(module))

    def _round(self, node: fx.Node) -> None:
        """After an int8 operator and the ReLU that follows it the value is 8 bits wide."""
        numerics = self._numerics
        if not isinstance(numerics, Int8) or node not in self._low or node is self._steps[-1]:
            return
        following = [user for user in node.users if user.op == "call_module"]
        if any(isinstance(self._modules[str(user.target)], nn.ReLU) for user in following):
            return
        # before pooling, not after it: the gradient finds the largest element by comparing
        eight_bits = (nn.Conv2d, nn.MaxPool2d)
        if numerics.target == "gpu" and not any(isinstance(self._modules.get(str(user.target)), eight_bits) for user in node.users):
            return  # TensorRT adds the convolution's own, wider result
        self._values[node] = self._rounded_value(node)

    def _rounded_value(self, node: fx.Node) -> str:
        if node not in self._rounded:
            graph, target = self._graph, cast(Int8, self._numerics).target
            zero = graph.constant(np.array(self._zero(node), np.uint8 if target == "cpu" else np.int8))
            scale = graph.number(self._scale(node))
            self._rounded[node] = graph.op("DequantizeLinear", graph.op("QuantizeLinear", self._values[node], scale, zero), scale, zero)
        return self._rounded[node]

    def _range(self, node: fx.Node) -> Range:
        """Max pooling only picks values: it keeps its input's range."""
        if node.op == "call_module" and isinstance(self._modules[str(node.target)], nn.MaxPool2d):
            node = node.all_input_nodes[0]
        return cast(Int8, self._numerics).ranges[node.name]

    def _scale(self, node: fx.Node) -> float:
        low, high = self._range(node)
        if cast(Int8, self._numerics).target == "cpu":
            return float(np.float32(max(high - low, 1e-6) / 255))
        return float(np.float32(max(-low, high, 1e-6) / 127))

    def _zero(self, node: fx.Node) -> int:
        if cast(Int8, self._numerics).target == "gpu":
            return 0
        return int(np.clip(np.rint(-self._range(node)[0] / self._scale(node)), 0, 255))

    def _backward_step(self, node: fx.Node, gradient: str) -> str:
        if node in self._merged.values():
            return gradient  # part of the convolution's weights
        return super()._backward_step(node, gradient)

    def _backward_weight(self, node: fx.Node) -> str:
        return self._float_weights[str(node.target)] if node in self._merged else super()._backward_weight(node)


def merge(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [out, in, kh, kw] and bias [out] of a convolution with its batch-norm in inference mode, float32."""
    mean, variance = cast(Tensor, bn.running_mean).double(), cast(Tensor, bn.running_var).double()
    factor = bn.weight.double() / (variance + bn.eps).sqrt()
    weight = conv.weight.double() * factor[:, None, None, None]
    bias = bn.bias.double() - mean * factor
    return weight.detach().float().numpy(), bias.detach().float().numpy()
