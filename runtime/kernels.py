"""The per-frame work: frame → network input, heatmap → overlay. In C++ where the package was built with a compiler
(``dkcam.runtime._native``, see cpp_ext), else with OpenCV: the same within one grey level, slower.

Both use as many threads as OpenCV is told to (``cv2.setNumThreads``).
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.engines.engine import graph_input
from dkcam.runtime.geometry import PAD_GREY, Fit
from dkcam.spec import InputSpec

_import_error = ""
try:
    from dkcam.runtime import _native
except ImportError as error:
    _native, _import_error = None, str(error)  # type: ignore[assignment]

Picture = NDArray[np.uint8]


def native_module() -> Any:
    """``dkcam.runtime._native``, or None."""
    return _native


def is_native() -> bool:
    """Whether the C++ kernels are there."""
    return _native is not None


def why_not_native() -> str:
    """One line: why the C++ kernels are missing, as far as can be known, and what to do; "" where they are there."""
    if _native is not None:
        return ""
    if find_spec("dkcam.runtime._native") is not None:
        return f"dkcam's C++ kernels do not load ({_import_error}); install dkcam again"
    compiler = next((found for name in (os.environ.get("CXX") or "c++", "g++", "clang++") if (found := shutil.which(name))), None)
    tried = find_spec("dkcam._native_build_failed") is not None
    if compiler is None:
        return "dkcam was built without its C++ kernels, and there is no C++ compiler; after apt install g++, install dkcam again"
    if tried:
        return (
            f"the build of dkcam's C++ kernels failed when it was installed, and there is a compiler ({compiler}) now: "
            "pip install -v --force-reinstall --no-deps with what you installed it from shows the log"
        )
    return f"dkcam was built without its C++ kernels; there is a compiler ({compiler}), so install dkcam again"


def shrink(frame: Picture, out: Picture) -> None:
    """Resize BGR uint8 [H, W, 3] into RGB uint8 [h, w, 3]: area averages where no side grows, else linear."""
    high, wide = out.shape[:2]
    shrinks = high <= frame.shape[0] and wide <= frame.shape[1]
    if _native is not None and shrinks:
        _native.shrink(_with_rows(frame), out, _threads())
        return
    resized = cv2.resize(frame, (wide, high), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    out[:] = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)


def shrink_normalised(frame: Picture, out: NDArray[np.float32], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """As ``shrink``, then (value / 255 − mean) / std into float32 [3, h, w]."""
    high, wide = out.shape[1:]
    if _native is not None and high <= frame.shape[0] and wide <= frame.shape[1]:
        _native.shrink_normalised(_with_rows(frame), out, mean, std, _threads())
        return
    rgb = np.empty((high, wide, 3), np.uint8)
    shrink(frame, rgb)
    out[:] = ((rgb / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


def network_input(frame: Picture, fit: Fit, fill: int = PAD_GREY) -> Picture:
    """A frame uint8 [H, W, 3] BGR at network size, uint8 [h, w, 3] RGB. fill: grey of a letterbox's bars."""
    part = fit.part
    picture = np.empty((fit.height, fit.width, 3), np.uint8)
    if (part.height, part.width) != (fit.height, fit.width):
        picture[:] = fill
    cut = frame[part.top : part.bottom, part.left : part.right]
    shrink(cut, picture[part.to_top : part.to_top + part.height, part.to_left : part.to_left + part.width])
    return picture


def network_tensor(frame: Picture, fit: Fit, way: InputSpec) -> NDArray[np.float32]:
    """A frame uint8 [H, W, 3] BGR at network size, normalised: float32 [C, h, w] in the order of ``way.channels``."""
    if way.channels == "gray":
        return np.asarray(graph_input(network_input(frame, fit, way.fill)[None], way)[0], np.float32)
    part, (mean, std) = fit.part, way.of_unit
    planes = np.empty((3, fit.height, fit.width), np.float32)
    if (part.height, part.width) != (fit.height, fit.width):
        planes[:] = ((np.float32(way.fill) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32))[:, None, None]
    cut = frame[part.top : part.bottom, part.left : part.right]
    shrink_normalised(cut, planes[:, part.to_top : part.to_top + part.height, part.to_left : part.to_left + part.width], mean, std)
    return planes if way.channels == "rgb" else np.ascontiguousarray(planes[::-1])


def overlay(frame: Picture, heatmaps: NDArray[np.float32], fit: Fit, tables: NDArray[np.uint32], *, tint: bool) -> Picture:
    """Heatmaps float32 [K, h, w], each scaled by its own maximum, over a frame uint8 [H, W, 3].

    tables: uint32 [K, 256], an entry a level: bytes 0, 1, 2 are added to the channels after those were multiplied by
    (byte 3 + 1) / 256. Returns a new picture: [H, K·W, 3] side by side, or with ``tint`` [H, W, 3] with all in one.
    """
    height, width = frame.shape[:2]
    count = len(heatmaps)
    out = np.empty((height, width if tint else count * width, 3), np.uint8)
    if _native is not None:
        heat = np.ascontiguousarray(heatmaps, np.float32)
        _native.overlay(_with_rows(frame), heat, tables, out, (fit.height, fit.width), fit.scale, fit.offset, tint, _threads())
        return out
    for k in range(count):
        place = out if tint else out[:, k * width : (k + 1) * width]
        _blend(place if tint and k else frame, _levels(heatmaps[k], fit), tables[k], place)
    return out


def _levels(heat: NDArray[np.float32], fit: Fit) -> Picture:
    """One heatmap over the frame, 0 to 255 of its own maximum."""
    top = float(heat.max())
    scaled = heat * np.float32(255 / top) if top > 0 and np.isfinite(top) else np.zeros_like(heat)
    return np.asarray(cv2.convertScaleAbs(fit.spread(scaled)), np.uint8)


def _blend(frame: Picture, level: Picture, table: NDArray[np.uint32], out: Picture) -> None:
    entries = table.view(np.uint8).reshape(256, 1, 4)
    heat = np.ascontiguousarray(entries[..., :3])
    keep = np.ascontiguousarray(np.broadcast_to(entries[..., 3:], (256, 1, 3)))
    if out is not frame:
        out[:] = frame
    left, top, wide, high = cv2.boundingRect(level)  # of what is not 0: a sign's heat covers little of the frame
    if wide and high:
        part = (slice(top, top + high), slice(left, left + wide))
        kept = cv2.multiply(frame[part], cv2.applyColorMap(level[part], keep), scale=1 / 255)
        out[part] = cv2.add(kept, cv2.applyColorMap(level[part], heat))


def _with_rows(frame: Picture) -> Picture:
    """The frame itself where its rows are contiguous, else a copy."""
    return frame if frame.strides[1:] == (3, 1) and frame.strides[0] >= 0 else np.ascontiguousarray(frame)


def _threads() -> int:
    return max(1, cv2.getNumThreads())
