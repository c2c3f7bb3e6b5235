"""Our own network as a graph: ResNet-50 from its module, traced, each operator under its module's name."""

from __future__ import annotations

import operator
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from dkcam.errors import ExportError
from dkcam.export.model import ResNet
from dkcam.export.writer import Writer


class Body(nn.Module):
    """Only the backbone of a model, so that tracing sees nothing else."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        for name, child in model.named_children():
            if name != "fc":
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return ResNet.backbone(cast(ResNet, self), x)


def write_backbone(writer: Writer, model: ResNet, image: ir.Value) -> ir.Value:
    """Normalised images float32 [B, 3, H, W] → layer4's output [B, C, H/32, W/32]. Nodes carry their module's path."""
    body = Body(model)
    modules = dict(body.named_modules())
    values: dict[fx.Node, ir.Value] = {}
    last = image
    for step in fx.Tracer().trace(body).nodes:
        if step.op == "placeholder":
            values[step] = image
        elif step.op in ("call_module", "call_function"):
            given = [values[source] for source in step.all_input_nodes]
            path = str(step.target) if step.op == "call_module" else ""
            last = values[step] = _step(writer, step, path, modules.get(path), given)
    return last


def _step(writer: Writer, step: fx.Node, path: str, module: nn.Module | None, given: list[ir.Value]) -> ir.Value:
    if module is None:
        if step.target not in (operator.add, torch.add):
            raise ExportError(f"the backbone uses {step.target}, which has no rule here")
        # torch writes the block's path in the node's name alone: "layer1_0_…"
        return writer.op("Add", *given)
    if isinstance(module, nn.Conv2d):
        made = writer.op("Conv", given[0], weight(writer, f"{path}.weight", module.weight), **geometry(module))
    elif isinstance(module, nn.BatchNorm2d):
        parts = ("weight", "bias", "running_mean", "running_var")
        weights = [weight(writer, f"{path}.{part}", cast(Tensor, getattr(module, part))) for part in parts]
        made = writer.op("BatchNormalization", given[0], *weights, epsilon=module.eps)
    elif isinstance(module, nn.ReLU):
        made = writer.op("Relu", given[0])
    elif isinstance(module, nn.MaxPool2d):
        made = writer.op("MaxPool", given[0], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    else:
        raise ExportError(f"the backbone uses {type(module).__name__}, which has no rule here")
    node = made.producer()
    assert node is not None
    node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", path, node.name])
    return made


def weight(writer: Writer, name: str, values: Tensor) -> ir.Value:
    """A trained weight, float32, under its own name."""
    if name in writer.graph.initializers:
        return writer.graph.initializers[name]
    array = values.detach().float().contiguous().numpy()
    tensor = ir.tensor(array, name=name)
    found = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    writer.graph.register_initializer(found)
    return found


def geometry(module: nn.Conv2d) -> dict[str, Any]:
    """A convolution's ONNX attributes."""
    padding = cast(tuple[int, int], module.padding)
    return {
        "kernel_shape": list(module.kernel_size),
        "strides": list(module.stride),
        "pads": [*padding, *padding],
        "group": module.groups,
    }
