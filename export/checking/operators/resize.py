"""Resize, axis by axis: every mode is a product with one matrix [outputs, inputs] an axis. GridSample.

Written from the text of ONNX's own definition of the operator, not over torch's interpolate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from dkcam.export.checking.operators.table import Call, ints, operator

HALF = 1e-5  # what a half way between two neighbours may be off by rounding, in float32


@dataclass(frozen=True)
class Axis:
    """One axis to resize. ``scale`` and ``start``, ``end`` (of the region cut out, 0..1) as the node gives them."""

    inputs: int
    outputs: int
    scale: float
    start: float
    end: float


@operator("Resize")
def resize(call: Call, x: Tensor, region: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    coordinates, mode = call.attribute("coordinate_transformation_mode", "half_pixel"), call.attribute("mode", "nearest")
    nearest, policy = call.attribute("nearest_mode", "round_prefer_floor"), call.attribute("keep_aspect_ratio_policy", "stretch")
    outside, fill = bool(call.attribute("exclude_outside", 0)), call.attribute("extrapolation_value", 0.0)
    a, smooth = call.attribute("cubic_coeff_a", -0.75), bool(call.attribute("antialias", 0))
    over = [axis % x.ndim for axis in call.attribute("axes", list(range(x.ndim)))]
    if mode not in ("nearest", "linear", "cubic"):
        raise call.refuse(f"mode = {mode!r}")
    for at, axis in zip(_axes(call, x, over, coordinates, policy, region, scales, sizes), over, strict=True):
        if at.inputs == at.outputs and (at.scale == 1 if coordinates != "tf_crop_and_resize" else (at.start, at.end) == (0, 1)):
            continue
        if smooth and at.inputs == at.outputs:
            raise call.refuse("antialias on an axis that keeps its length under a scale, where runtimes differ")
        kind = torch.float32 if mode == "nearest" else torch.float64  # runtimes pick neighbours in float32, halves included
        places = _places(call, at, coordinates, torch.arange(at.outputs, dtype=kind))
        if mode == "nearest":
            x = x.index_select(axis, _nearest(call, places, nearest).clamp(0, at.inputs - 1).to(torch.int64))
        else:
            matrix = _matrix(places, at, mode, a, outside, smooth).to(x.dtype)
            x = (x.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        if coordinates == "tf_crop_and_resize":
            beyond = ((places < 0) | (places > at.inputs - 1)).reshape(-1, *[1] * (x.ndim - 1 - axis))
            x = torch.where(beyond, torch.tensor(fill, dtype=x.dtype), x)
    return x


def _axes(
    call: Call,
    x: Tensor,
    over: list[int],
    coordinates: str,
    policy: str,
    region: Tensor | None,
    scales: Tensor | None,
    sizes: Tensor | None,
) -> list[Axis]:
    count = len(over)
    lengths = [x.shape[axis] for axis in over]
    ends = [(0.0, 1.0)] * count
    if coordinates == "tf_crop_and_resize":
        if region is None or region.numel() != 2 * count:
            raise call.refuse(f"tf_crop_and_resize needs a roi of {2 * count} numbers")
        if scales is not None and scales.numel():
            raise call.refuse("tf_crop_and_resize with scales, where runtimes differ on the size")
        flat = region.tolist()
        ends = list(zip(flat[:count], flat[count:], strict=True))
    if scales is not None and scales.numel():
        factors = [float(s) for s in scales.tolist()]
        outputs = [math.floor(np.float32(n) * np.float32(f)) for n, f in zip(lengths, factors, strict=True)]  # 3 · 1.6666666 is 5
    elif sizes is not None and sizes.numel():
        outputs = ints(sizes)
        factors = [o / n for o, n in zip(outputs, lengths, strict=True)]
        if policy in ("not_larger", "not_smaller"):
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors, outputs = [factor] * count, [math.floor(factor * n + 0.5) for n in lengths]
        elif policy != "stretch":
            raise call.refuse(f"keep_aspect_ratio_policy = {policy!r}")
    else:
        raise call.refuse("it has neither scales nor sizes")
    return [Axis(n, o, f, s, e) for n, o, f, (s, e) in zip(lengths, outputs, factors, ends, strict=True)]


def _places(call: Call, axis: Axis, mode: str, x: Tensor) -> Tensor:
    """x_original for every x_resized."""
    inputs, outputs, scale = axis.inputs, axis.outputs, axis.scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and outputs > 1):
        return (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return torch.zeros_like(x)
    if mode == "half_pixel_symmetric":
        width = torch.tensor(scale, dtype=x.dtype) * inputs
        return inputs / 2 * (1 - outputs / width) + (x + 0.5) / scale - 0.5
    if mode == "align_corners":
        return torch.zeros_like(x) if outputs == 1 else x * (inputs - 1) / (outputs - 1)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = torch.tensor(axis.start, dtype=x.dtype), torch.tensor(axis.end, dtype=x.dtype)
        if outputs > 1:
            return start * (inputs - 1) + x * (end - start) * (inputs - 1) / (outputs - 1)
        return (0.5 * (start + end) * (inputs - 1)).expand(x.shape)
    raise call.refuse(f"coordinate_transformation_mode = {mode!r}")


def _nearest(call: Call, places: Tensor, mode: str) -> Tensor:
    if mode == "round_prefer_floor":
        return torch.ceil(places - 0.5 - HALF)
    if mode == "round_prefer_ceil":
        return torch.floor(places + 0.5 + HALF)
    if mode == "floor":
        return torch.floor(places)
    if mode == "ceil":
        return torch.ceil(places)
    raise call.refuse(f"nearest_mode = {mode!r}")


def _matrix(places: Tensor, axis: Axis, mode: str, a: float, outside: bool, smooth: bool) -> Tensor:
    """[outputs, inputs]: the kernel's value at the distance of every neighbour, those outside moved to the edge or left out."""
    stretch = max(1.0, 1 / axis.scale) if smooth else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) * stretch) + 1
    neighbours = torch.floor(places)[:, None] + torch.arange(-reach, reach + 1)
    distance = (neighbours - places[:, None]).abs() / stretch
    weights = (1 - distance).clamp(min=0) if mode == "linear" else _cubic(distance, a)
    if outside:
        weights = weights * ((neighbours >= 0) & (neighbours <= axis.inputs - 1))
    if outside or smooth:
        weights = weights / weights.sum(1, keepdim=True)
    columns = neighbours.clamp(0, axis.inputs - 1).to(torch.int64)
    return torch.zeros(axis.outputs, axis.inputs, dtype=places.dtype).scatter_add(1, columns, weights)


def _cubic(d: Tensor, a: float) -> Tensor:
    """Keys' kernel: 1 at 0, 0 at 1 and from 2 on."""
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


@operator("GridSample")
def grid_sample(call: Call, x: Tensor, grid: Tensor) -> Tensor:
    mode, edge = call.attribute("mode", "linear"), call.attribute("padding_mode", "zeros")
    names = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic", "bicubic": "bicubic"}
    if mode not in names or (names[mode] == "bicubic" and x.ndim != 4):
        raise call.refuse(f"mode = {mode!r} on {x.ndim - 2} axes of space")
    if edge not in ("zeros", "border", "reflection"):
        raise call.refuse(f"padding_mode = {edge!r}")
    corners = bool(call.attribute("align_corners", 0))
    return functional.grid_sample(x, grid, mode=names[mode], padding_mode=edge, align_corners=corners)
