"""Shapes, order of axes, cutting and joining; constants and what is made of shapes."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as functional
from torch import Tensor

from dkcam.export.checking.operators.table import Call, ints, number, operator


@operator("Reshape")
def reshape(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    sizes = ints(shape)
    if not call.attribute("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(tuple(sizes))


@operator("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.attribute("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(call.attribute("perm", list(reversed(range(x.ndim)))))


@operator("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    if axes is None:
        return x.squeeze()
    over = [axis % x.ndim for axis in ints(axes)]
    if any(x.shape[axis] != 1 for axis in over):
        raise call.refuse(f"axes {over} of shape {list(x.shape)} are not all 1")
    return x.reshape(tuple(size for axis, size in enumerate(x.shape) if axis not in over))


@operator("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor) -> Tensor:
    added = ints(axes)
    for axis in sorted(axis % (x.ndim + len(added)) for axis in added):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(x.shape, tuple(ints(shape))))


@operator("Tile")
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats))


@operator("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    return torch.cat(values, call.required("axis"))


@operator("Split")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis, count = call.attribute("axis", 0), call.attribute("num_outputs", len(call.node.outputs))
    if count != len(call.node.outputs):
        raise call.refuse(f"num_outputs is {count}, outputs are {len(call.node.outputs)}")
    if sizes is not None:
        return torch.split(x, ints(sizes), axis)
    whole = x.shape[axis]
    part = -(-whole // count)
    return torch.split(x, [max(min(part, whole - at * part), 0) for at in range(count)], axis)


@operator("Slice")
def cut(call: Call, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    first, last = ints(starts), ints(ends)
    over = list(range(len(first))) if axes is None else ints(axes)
    for start, end, axis, step in zip(first, last, over, [1] * len(first) if steps is None else ints(steps), strict=True):
        if step == 0 or (step < 0 and end >= 2**31 - 1):
            raise call.refuse(f"a step of {step} to {end}")  # the far end ahead, backwards: runtimes differ
        size = x.shape[axis]
        low, high = (0, size) if step > 0 else (-1, size - 1)
        start = min(max(start + size if start < 0 else start, max(low, 0)), high)
        end = min(max(end + size if end < 0 else end, low), high if step > 0 else size)
        count = max(-((start - end) // step), 0)
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, start + count * step, step),)].narrow(axis, 0, count)
        else:
            x = x.index_select(axis, start + step * torch.arange(count))
    return x


@operator("Pad")
def pad(call: Call, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    over = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in ints(axes)]
    given, mode = ints(pads), call.attribute("mode", "constant")
    if len(given) != 2 * len(over):
        raise call.refuse(f"{len(given)} pads for {len(over)} axes")
    both = {axis: (given[at], given[at + len(over)]) for at, axis in enumerate(over)}
    if mode == "constant":
        flat = [n for axis in reversed(range(x.ndim)) for n in both.get(axis, (0, 0))]
        if value is not None and value.requires_grad:
            return torch.where(functional.pad(torch.ones_like(x), flat) > 0, functional.pad(x, flat), value.reshape(()))
        fill = 0.0 if value is None else value.item()
        return functional.pad(x, flat, value=fill) if x.dtype != torch.bool else functional.pad(x.byte(), flat, value=fill).bool()
    if mode not in ("edge", "reflect", "wrap"):
        raise call.refuse(f"mode = {mode!r}")
    for axis, pair in both.items():
        size = x.shape[axis]
        if min(pair) < 0 or (max(pair) > size - (mode == "reflect") and mode != "edge"):
            raise call.refuse(f"mode = {mode!r} with pads {pair} of {size}")
        x = x.index_select(axis, torch.from_numpy(np.pad(np.arange(size), pair, mode)))  # type: ignore[call-overload]
    return x


@operator("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    block, mode = call.required("blocksize"), call.attribute("mode", "DCR")
    batch, channels, height, width = x.shape
    fewer = channels // block**2
    if mode == "DCR":
        x = x.reshape(batch, block, block, fewer, height, width).permute(0, 3, 4, 1, 5, 2)
    elif mode == "CRD":
        x = x.reshape(batch, fewer, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    else:
        raise call.refuse(f"mode = {mode!r}")
    return x.reshape(batch, fewer, height * block, width * block)


@operator("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    block = call.required("blocksize")
    mode = call.attribute("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise call.refuse(f"mode = {mode!r}")
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // block, block, width // block, block)
    x = x.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else x.permute(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, channels * block**2, height // block, width // block)


@operator("Trilu")
def triangle(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else number(k)
    return torch.triu(x, diagonal) if call.attribute("upper", 1) else torch.tril(x, diagonal)


@operator("Shape")
def shape_of(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[call.attribute("start", 0) : call.attribute("end", x.ndim)], dtype=torch.int64)


@operator("Size")
def size_of(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@operator("Constant")
def constant(call: Call) -> Tensor:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        found = call.maybe(name)
        if found is not None:
            if name == "value":
                return call.tensor(found)
            return torch.tensor(found, dtype=call.dtype if "float" in name else torch.int64)
    raise call.refuse("it holds no numbers")


@operator("ConstantOfShape")
def constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value: ir.TensorProtocol | None = call.maybe("value")
    fill = torch.zeros((), dtype=call.dtype) if value is None else call.tensor(value).reshape(())
    return fill.expand(tuple(ints(shape))).clone()


@operator("Range")
def count_up(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    return first + torch.arange(max(math.ceil((last - first) / step), 0), dtype=start.dtype) * step


@operator("EyeLike")
def eye_like(call: Call, x: Tensor) -> Tensor:
    kind, rows, columns = call.maybe("dtype"), *x.shape
    diagonal = torch.arange(columns) - torch.arange(rows)[:, None] == call.attribute("k", 0)
    return diagonal.to(x.dtype if kind is None else call.torch_type(kind))
