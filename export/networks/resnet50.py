"""Our own network as a graph: ResNet-50 from its module, traced, each operator under its module's path."""

from __future__ import annotations

import operator
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from dkcam.errors import ExportError
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.explain.dropkey import Attention
from dkcam.export.model import ResNet
from dkcam.export.networks.network import Network
from dkcam.export.networks.picture import PictureInput
from dkcam.export.sizes import STRIDE
from dkcam.export.writer import Dimension, Writer, dimension_of, product_of, shape_of

OPSET = 18
IR_VERSION = 8  # the oldest that opset 18 needs: read by ONNX Runtime 1.14 and newer


class Body(nn.Module):
    """Only the backbone of a model, so that tracing sees nothing else."""

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        for name, child in model.named_children():
            if name != "fc":
                self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        return ResNet.backbone(cast(ResNet, self), x)


def network_of(checkpoint: Checkpoint, size: tuple[int, int], batch: tuple[int, int], dynamic: tuple[str, ...]) -> Network:
    """The backbone of a checkpoint, its one output layer4's; ``write_head`` adds the scores. size: multiples of 32."""
    free = "size" in dynamic
    height, width = ("height", "width") if free else size
    shape = ["batch" if "batch" in dynamic else batch[0], 3, height, width]
    image = ir.Value(name="pixels", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([image], [], nodes=[], opset_imports={"": OPSET}, name="dkcam")
    top = write_backbone(Writer(graph, OPSET, "backbone"), checkpoint.module(), image)
    graph.outputs.append(top)
    return Network(
        model=ir.Model(graph, ir_version=IR_VERSION),
        image=image,
        picture=PictureInput("nchw", ir.DataType.FLOAT, "rgb", 1 / 255, checkpoint.mean, checkpoint.std, resize=checkpoint.resize),
        outputs=(top,),
        size=size,
        batch=batch,
        dynamic=dynamic,
        multiple=STRIDE,
        labels=checkpoint.labels,
        sha256=checkpoint.sha256,
    )


def write_head(writer: Writer, checkpoint: Checkpoint, features: ir.Value, samples: int) -> tuple[ir.Value, Attention | None]:
    """(logits float32 [B, n], the paper's head or None): what comes after layer4. samples: DropKey masks, 0 for none."""
    writer.part = "head"
    module, config = checkpoint.module(), checkpoint.config
    rows, bias = weight(writer, "fc.weight", module.fc.weight), weight(writer, "fc.bias", module.fc.bias)
    if config.variant != "dropkey":
        pooled = writer.reshape(writer.op("GlobalAveragePool", features), writer.dims(features, 0, 2))
        return writer.op("Gemm", pooled, rows, bias, transB=1), None
    key_mask = None
    if samples:
        positions = dimension_of(*product_of(shape_of(features)[2:]))
        tokens = positions if config.grid is None else config.grid[0] * config.grid[1]
        key_mask = ir.Value(name="key_mask", shape=ir.Shape([samples, tokens, tokens]), type=ir.TensorType(ir.DataType.BOOL))
        writer.graph.inputs.append(key_mask)
    head = Attention.write(writer, features, rows, bias, config.grid, key_mask)
    return head.logits(writer), head


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
            last = values[step] = _step(writer, step, path, modules[path] if path else None, given)
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
    made.shape = ir.Shape(_shape(given[0], module))
    node.metadata_props["pkg.torch.onnx.name_scopes"] = repr(["", path, node.name])
    return made


def _shape(given: ir.Value, module: nn.Module) -> list[Dimension]:
    """Of a module's output. Sides are multiples of every stride, so that a free one is halved without a rest."""
    batch, channels, *sides = shape_of(given)
    stride = module.stride if isinstance(module, (nn.Conv2d, nn.MaxPool2d)) else 1
    step = stride if isinstance(stride, int) else stride[0]
    return [batch, module.out_channels if isinstance(module, nn.Conv2d) else channels, *(_over(side, step) for side in sides)]


def _over(side: Dimension, step: int) -> Dimension:
    """ "height/4" over 2: "height/8"."""
    if isinstance(side, int):
        return side // step
    name, _, below = side.partition("/")
    return f"{name}/{int(below or 1) * step}" if step > 1 else side


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
