"""Heatmap and labels drawn into a frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.errors import InputError
from dkcam.runtime.explanation import Detection, Explanation
from dkcam.runtime.kernels import overlay
from dkcam.runtime.result import Alarm

Picture = NDArray[np.uint8]

COLORMAPS = {
    "turbo": cv2.COLORMAP_TURBO,
    "jet": cv2.COLORMAP_JET,
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "plasma": cv2.COLORMAP_PLASMA,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "hot": cv2.COLORMAP_HOT,
}
LAYOUTS = ("side", "tint")
ALARM_COLOURS = {"fail": (40, 40, 255), "warn": (0, 190, 255)}  # BGR
TINTS = ((40, 40, 255), (255, 160, 30), (60, 220, 60), (30, 200, 255), (255, 60, 220))  # BGR


def check_style(alpha: float, colormap: str, layout: str) -> None:
    """Errors: InputError for an opacity outside 0..1, an unknown colour map or layout."""
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}, expected 0 (frame only) to 1 (heat covers the frame)")
    if colormap not in COLORMAPS:
        raise InputError(f"colormap is {colormap!r}, expected one of {', '.join(COLORMAPS)}")
    if layout not in LAYOUTS:
        raise InputError(f"layout is {layout!r}, expected side or tint")


def draw(
    frame: Picture | None,
    explanation: Explanation,
    *,
    alpha: float = 0.6,
    colormap: str = "turbo",
    layout: str = "side",
    fps: float | None = None,
    age_s: float | None = None,
) -> Picture:
    """The frame with heat drawn over it: opacity grows with heat up to ``alpha``, cold places stay as filmed.

    frame: uint8 [H, W, 3] BGR, the one that was explained; None takes it from GPU memory, where it lies there.
    Each heatmap is scaled by its own maximum. layout: with K
    classes "side" gives K pictures side by side, uint8 [H, K·W, 3]; "tint" one picture, a colour per class. A detector's boxes
    are in one picture, uint8 [H, W, 3]: "side" shows the largest heat of all of them, "tint" each one's in its colour. fps, age_s
    (since the frame was captured): shown when given.
    """
    check_style(alpha, colormap, layout)
    if frame is None and explanation.on_gpu is None:
        raise InputError("overlay() without a frame draws where the frame lies in GPU memory, and this one does not; give the frame")
    if frame is not None and frame.shape[:2] != (explanation.fit.frame_height, explanation.fit.frame_width):
        raise InputError(
            f"frame is {frame.shape[0]}x{frame.shape[1]}, expected the explained "
            f"{explanation.fit.frame_height}x{explanation.fit.frame_width}"
        )
    width = explanation.fit.frame_width
    if explanation.task == "detect":
        picture = _with_boxes(frame, explanation, alpha, colormap, layout)
    else:
        tint = layout == "tint" and len(explanation.explained) > 1
        colours = [TINTS[k % len(TINTS)] if tint else None for k in range(len(explanation.explained))]
        picture = _heated(frame, explanation, explanation.heatmap, colours, alpha, colormap)
        _write_scores(picture, explanation, tint=tint)
    told = [] if fps is None else [f"{fps:.0f} fps", explanation.device]
    if age_s is not None:
        told.append(f"age {age_s * 1e3:.0f} ms" if age_s < 10 else f"age {age_s:.0f} s")
    if told:
        _write(picture[:, :width], "  ".join(told), -1)
    return picture


def _heated(
    frame: Picture | None,
    explanation: Explanation,
    heatmaps: NDArray[np.float32],
    colours: Sequence[tuple[int, int, int] | None],
    alpha: float,
    colormap: str,
) -> Picture:
    """Heatmaps [K, h, w] over the frame: in colours of their own in one picture, or side by side (None each)."""
    tint = colours[0] is not None
    tables = np.stack([map_table(colormap, alpha) if colour is None else _tint_table(colour, alpha) for colour in colours])
    if frame is not None:
        return overlay(frame, heatmaps, explanation.fit, tables, tint=tint)
    assert explanation.on_gpu is not None
    return explanation.on_gpu.kernels.overlay(explanation.on_gpu.frame, heatmaps, explanation.fit, tables, tint=tint)


def _write_scores(picture: Picture, explanation: Explanation, *, tint: bool) -> None:
    """What each heatmap is of, and how much masks change it."""
    width, spread = explanation.fit.frame_width, explanation.heatmap_std
    for k, score in enumerate(explanation.explained_scores()):
        place = picture if tint else picture[:, k * width : (k + 1) * width]
        colour = TINTS[k % len(TINTS)] if tint else (255, 255, 255)
        words = score.words
        if explanation.task == "regress":
            words += ", what raises it" if explanation.rises(k) else ", what lowers it"
        if spread is not None:
            _outline(place, explanation.fit.spread(spread[k]), colour)
            words += f"  stability {explanation.stability(k):.2f}"
        _write(place, words, k if tint else 0, colour)


def _with_boxes(frame: Picture | None, explanation: Explanation, alpha: float, colormap: str, layout: str) -> Picture:
    """A detector's boxes with label and score, and their heat; where someone chose one, the heat of that one alone."""
    found, shown = explanation.detections, explanation.shown
    colours = {each.row: TINTS[k % len(TINTS)] for k, each in enumerate(found)}
    maps = explanation.heatmap[[each.row for each in shown]]
    if layout == "tint" and shown:
        picture = _heated(frame, explanation, maps, [colours[each.row] for each in shown], alpha, colormap)
    else:
        # each over its own maximum, so that a weak box's heat is seen beside a strong one's
        tops = maps.max((1, 2), keepdims=True)
        scaled = np.divide(maps, tops, out=np.zeros_like(maps), where=np.isfinite(tops) & (tops > 0))
        largest = scaled.max(0, keepdims=True, initial=0.0)
        picture = _heated(frame, explanation, largest, [None], alpha, colormap)
    for each in reversed(found):  # the best on top
        _box(picture, each, colours[each.row], chosen=explanation.focus == each.row)
    return picture


def _box(picture: Picture, found: Detection, colour: tuple[int, int, int], *, chosen: bool) -> None:
    height, width = picture.shape[:2]
    left, top, right, bottom = (round(value * (side - 1)) for value, side in zip(found.box, (width, height) * 2, strict=True))
    line = max(1, round(height / 360)) * (2 if chosen else 1)
    cv2.rectangle(picture, (left, top), (right, bottom), (0, 0, 0), line + 2)
    cv2.rectangle(picture, (left, top), (right, bottom), colour, line)
    scale = height / 720
    if scale < 0.12:
        return  # too small to read
    size, thickness = max(0.35, 0.7 * scale), max(1, round(1.5 * scale))
    (wide, high), base = cv2.getTextSize(found.words, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    pad = max(2, round(4 * scale))
    x = max(0, min(left, width - wide - 2 * pad))
    y = top - high - base - pad if top >= high + base + pad else min(top + line, height - high - base - pad)
    strip = picture[max(y, 0) : y + high + base + pad, x : x + wide + 2 * pad]
    strip[:] = strip // 4
    cv2.putText(picture, found.words, (x + pad, y + high + pad // 2), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA)


def stale(picture: Picture, words: str) -> Picture:
    """A copy that nobody takes for current: without colour, dark, with STALE and ``words`` across its middle."""
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) // 2
    out = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    height, width = out.shape[:2]
    bar = slice(height * 3 // 8, height * 5 // 8)
    out[bar] = (20, 20, 160)
    words = f"STALE  {words}"
    (wide, high), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    size = min(width * 0.85 / wide, height * 0.12 / high)
    (wide, high), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, max(1, round(2 * size)))
    place = (max(0, (width - wide) // 2), (height + high) // 2)
    cv2.putText(out, words, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), max(1, round(2 * size)), cv2.LINE_AA)
    return out


def mark(picture: Picture, alarms: Sequence[Alarm]) -> None:
    """A frame around a picture, and the names of the rules that are broken: red for fail, amber for warn. Changes it."""
    worst = "fail" if any(alarm.severity == "fail" for alarm in alarms) else "warn"
    height, width = picture.shape[:2]
    cv2.rectangle(picture, (0, 0), (width - 1, height - 1), ALARM_COLOURS[worst], max(2, height // 60))
    for k, alarm in enumerate(alarms):
        _write(picture, f"{alarm.rule}: {alarm.value:.2f}, {alarm.expected}", -2 - k, ALARM_COLOURS[alarm.severity])


def caption(picture: Picture, words: str) -> None:
    """White text on a dark strip, at the top left. Changes the picture."""
    _write(picture, words, 0)


def _outline(picture: Picture, spread: NDArray[np.float32], colour: tuple[int, int, int]) -> None:
    """Where the masks disagree most: a line around what has more than half of the largest spread."""
    top = float(spread.max())
    if top > 0:
        lines, _ = cv2.findContours((spread > top / 2).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, colour, max(1, picture.shape[0] // 360), cv2.LINE_AA)


@lru_cache(maxsize=16)
def map_table(colormap: str, alpha: float) -> NDArray[np.uint32]:
    colours = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], COLORMAPS[colormap]).astype(np.float32)
    return _table(colours[:, 0], alpha)


@lru_cache(maxsize=16)
def _tint_table(colour: tuple[int, int, int], alpha: float) -> NDArray[np.uint32]:
    return _table(np.broadcast_to(np.array(colour, np.float32), (256, 3)), alpha)


def _table(colours: NDArray[np.float32], alpha: float) -> NDArray[np.uint32]:
    """Premultiplied colours and what remains of the frame for each level, as ``kernels.overlay`` takes them; level 0 is cold."""
    opacity = alpha * np.clip(np.arange(256, dtype=np.float32) / 255 * 1.5, 0, 1)[:, None]
    entries = np.concatenate([colours * opacity, 255 * (1 - opacity)], axis=1)
    return np.ascontiguousarray(np.rint(entries), np.uint8).view("<u4")[:, 0].astype(np.uint32)


def _write(picture: Picture, words: str, line: int, colour: tuple[int, int, int] = (255, 255, 255)) -> None:
    """White or coloured text on a dark strip, sized with the picture; line −1 is the last, −2 the one above."""
    scale = picture.shape[0] / 720
    if scale < 0.12:
        return  # too small to read
    size, thickness = max(0.35, 1.0 * scale), max(1, round(2 * scale))
    (wide, high), base = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, thickness)
    step = high + base + round(12 * scale)
    top = picture.shape[0] + line * step if line < 0 else line * step
    if not 0 <= top <= picture.shape[0] - step:
        return  # no room
    strip = picture[top : top + step, : wide + round(24 * scale)]
    strip[:] = strip // 3
    cv2.putText(
        picture, words, (round(12 * scale), top + high + round(6 * scale)), cv2.FONT_HERSHEY_SIMPLEX, size, colour, thickness, cv2.LINE_AA
    )
