"""What ONNX's Resize does along one axis, as a matrix [out, in], from the operator's definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dkcam.export.writer import Array

COORDINATES = frozenset(
    {
        "half_pixel",
        "half_pixel_symmetric",
        "pytorch_half_pixel",
        "align_corners",
        "asymmetric",
        "tf_half_pixel_for_nn",
        "tf_crop_and_resize",
    }
)
ROUNDINGS = frozenset({"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"})
KINDS = frozenset({"nearest", "linear", "cubic"})


@dataclass(frozen=True)
class Mode:
    """The operator's attributes: kind of KINDS, coordinates of COORDINATES, rounding of ROUNDINGS; a: Keys' coefficient; outside:
    exclude_outside; smooth: antialias."""

    kind: str
    coordinates: str
    rounding: str
    a: float = -0.75
    outside: bool = False
    smooth: bool = False

    @property
    def crops(self) -> bool:
        return self.coordinates == "tf_crop_and_resize"


@dataclass(frozen=True)
class Line:
    """One axis. scale: outputs over inputs, as the file has it; start, end: of the region that is cut out, 0..1 of the inputs."""

    inputs: int
    outputs: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def places(mode: Mode, line: Line, kind: Any) -> Array:
    """Where each element of the output lies among those of the input: [out], computed in np.float32 or np.float64."""
    found: Array = _places(mode, line, kind)
    return found


def _places(mode: Mode, line: Line, kind: Any) -> Any:
    into, out, scale, half = kind(line.inputs), kind(line.outputs), kind(line.scale), kind(0.5)
    x = np.arange(line.outputs, dtype=kind)
    match mode.coordinates:
        case "pytorch_half_pixel" | "align_corners" if line.outputs == 1:
            return x * 0
        case "half_pixel" | "pytorch_half_pixel":
            return (x + half) / scale - half
        case "half_pixel_symmetric":
            return into * half * (1 - out / (scale * into)) + (x + half) / scale - half
        case "align_corners":
            return x * (into - 1) / (out - 1)
        case "asymmetric":
            return x / scale
        case "tf_half_pixel_for_nn":
            return (x + half) / scale
    start, end = kind(line.start), kind(line.end)
    if line.outputs == 1:
        return x * 0 + half * (start + end) * (into - 1)
    return start * (into - 1) + x * (end - start) * (into - 1) / (out - 1)


def nearest(mode: Mode, line: Line) -> Array:
    """The number of the nearest element for each of the output, int64 [out], −1 where there is none.

    In float32, as runtimes have it: where a place lies half-way or on an element depends on it.
    """
    at = places(mode, line, np.float32)
    half = np.float32(0.5)
    match mode.rounding:
        case "round_prefer_floor":
            found = np.ceil(at - half)
        case "round_prefer_ceil":
            found = np.floor(at + half)
        case "floor":
            found = np.floor(at)
        case _:
            found = np.ceil(at)
    return np.where(_inside(mode, line, at), found.clip(0, line.inputs - 1).astype(np.int64), -1)


def matrix(mode: Mode, line: Line) -> Array:
    """float64 [out, in]."""
    found = np.zeros((line.outputs, line.inputs))
    rows, last = np.arange(line.outputs), line.inputs - 1
    if mode.kind == "nearest":
        chosen = nearest(mode, line)
        found[rows[chosen >= 0], chosen[chosen >= 0]] = 1
        return found
    at = places(mode, line, np.float64)
    wide = max(1.0, 1 / line.scale) if mode.smooth else 1.0  # the kernel, stretched over all that an element of the output stands for
    reach = math.ceil(2 * wide) + 1
    neighbours = np.floor(at)[:, None] + np.arange(-reach, reach + 1)
    distance = np.abs(neighbours - at[:, None]) / wide
    weights = np.maximum(1 - distance, 0) if mode.kind == "linear" else _cubic(distance, mode.a)
    if mode.outside:
        weights = weights * ((neighbours >= 0) & (neighbours <= last))
    weights = weights / weights.sum(1, keepdims=True)
    np.add.at(found, (rows[:, None], neighbours.clip(0, last).astype(np.int64)), weights)
    return np.asarray(found * _inside(mode, line, at)[:, None])


def _inside(mode: Mode, line: Line, at: Array) -> Array:
    """Which elements of the output come from the input: a region that is cut out may reach beyond it."""
    return np.asarray((at >= 0) & (at <= line.inputs - 1)) if mode.crops else np.ones(len(at), bool)


def _cubic(distance: Array, a: float) -> Array:
    """Keys' kernel: 1 at 0, 0 at 1 and from 2 on."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
