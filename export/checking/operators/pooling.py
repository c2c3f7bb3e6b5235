"""Pooling. MaxPool: the first of equals in row-major order gets the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from dkcam.export.checking.operators.product import padded, windows
from dkcam.export.checking.operators.reduction import extreme
from dkcam.export.checking.operators.table import Call, operator

MAXIMA = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


@dataclass(frozen=True)
class Windows:
    """One entry an axis of space. ``reach``: padding after the axis that the last window needs, whatever was declared."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    low: list[int]
    high: list[int]
    outputs: list[int]
    reach: list[int]


def _windows(call: Call, sizes: Sequence[int]) -> Windows:
    kernel = call.required("kernel_shape")
    strides, dilations, low, high = windows(call, sizes, kernel)
    auto = call.attribute("auto_pad", "NOTSET")
    needs = zip(sizes, kernel, strides, dilations, strict=True)
    if auto.startswith("SAME") and any((n - 1) // s * s + d * (k - 1) + 1 < n for n, k, s, d in needs):
        raise call.refuse(f"auto_pad = {auto!r} where nothing is to be padded and numbers are left over: runtimes differ")
    ceil = call.attribute("ceil_mode", 0) and auto == "NOTSET"
    outputs, reach = [], []
    for size, k, stride, dilation, before, after in zip(sizes, kernel, strides, dilations, low, high, strict=True):
        span = dilation * (k - 1) + 1
        free = size + before + after - span
        count = (-(-free // stride) if ceil else free // stride) + 1
        if ceil and (count - 1) * stride >= size + before:
            count -= 1  # a window that would start in the padding after the axis
        if count < 1:
            raise call.refuse(f"a window of {span} on {size} numbers with pads {before}, {after}")
        outputs.append(count)
        reach.append((count - 1) * stride + span - size - before)
    return Windows(kernel, strides, dilations, low, high, outputs, reach)


@operator("MaxPool", branches=(0,))
def max_pool(call: Call, x: Tensor) -> Tensor | tuple[Tensor, ...]:
    if call.attribute("storage_order", 0):
        raise call.refuse("storage_order = 1")
    found = _windows(call, x.shape[2:])
    rank = len(found.kernel)
    if not 1 <= rank <= 3:
        raise call.refuse(f"{rank} axes of space")
    source = x if x.is_floating_point() else x.to(torch.float64)
    arguments = found.kernel, found.strides, 0, found.dilations
    fill = -math.inf
    pool = MAXIMA[rank - 1]
    if len(call.node.outputs) == 1 and not call.seen:
        y: Tensor = pool(padded(source, found.low, found.reach, fill), *arguments)
        return y.to(x.dtype)

    def place(x: Tensor) -> Tensor:
        places: Tensor = pool(padded(x.to(source.dtype), found.low, found.reach, fill), *arguments, return_indices=True)[1]
        return places

    inside = call.choose(place, x)
    sizes, flat, left = list(x.shape[2:]), torch.zeros_like(inside), inside
    step = 1
    for axis in reversed(range(rank)):
        whole = sizes[axis] + found.low[axis] + found.reach[axis]
        flat = flat + (left % whole - found.low[axis]) * step
        left, step = left // whole, step * sizes[axis]
    y = x.flatten(2).gather(2, flat.flatten(2)).reshape(inside.shape)
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * rank)
    return y, flat + planes * step


def _sums(x: Tensor, found: Windows) -> Tensor:
    """Sums over windows, one axis after the other; padding counts as 0."""
    x = padded(x, found.low, found.reach)
    for axis, (k, stride, dilation, count) in enumerate(zip(found.kernel, found.strides, found.dilations, found.outputs, strict=True), 2):
        parts = [x[(slice(None),) * axis + (slice(at * dilation, at * dilation + (count - 1) * stride + 1, stride),)] for at in range(k)]
        x = sum(parts[1:], parts[0])
    return x


@operator("AveragePool")
def average_pool(call: Call, x: Tensor) -> Tensor:
    found, include = _windows(call, x.shape[2:]), call.attribute("count_include_pad", 0)
    y = _sums(x, found)
    for axis, (size, low, high) in enumerate(zip(x.shape[2:], found.low, found.high, strict=True)):
        first, last = (-low, size + high) if include else (0, size)
        starts = torch.arange(found.outputs[axis]) * found.strides[axis] - low
        places = starts[:, None] + torch.arange(found.kernel[axis]) * found.dilations[axis]
        counts = ((places >= first) & (places < last)).sum(1).to(x.dtype)
        y = y / counts.reshape(-1, *[1] * (x.ndim - 3 - axis))
    return y


def _root(x: Tensor, p: int) -> Tensor:
    """x^(1/p) with derivative 0 at 0, as norms have it."""
    if p == 1:
        return x
    empty = x == 0
    return torch.where(empty, torch.zeros_like(x), torch.where(empty, torch.ones_like(x), x).pow(1 / p))


@operator("LpPool")
def lp_pool(call: Call, x: Tensor) -> Tensor:
    p = call.attribute("p", 2)
    return _root(_sums(x.abs().pow(p), _windows(call, x.shape[2:])), p)


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Tensor) -> Tensor:
    p = call.attribute("p", 2)
    return _root(x.abs().pow(p).sum(tuple(range(2, x.ndim)), keepdim=True), p)


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool", branches=(0,))
def global_max_pool(call: Call, x: Tensor) -> Tensor:
    return extreme(call, x, tuple(range(2, x.ndim)), True, torch.amax)  # shared among equals, as ReduceMax has it
