"""Traffic signs as vector drawings, after the German catalogue (VzKat): shapes, colours and symbols."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

RED: Colour = (38, 28, 190)
BLUE: Colour = (165, 85, 15)
YELLOW: Colour = (20, 190, 245)
WHITE: Colour = (245, 245, 245)
BLACK: Colour = (20, 20, 20)
GREY: Colour = (120, 120, 120)

_SIDE = 256  # drawing side in pixels; scaled down with area averaging, which smooths the edges


class _Canvas:
    """A BGRA drawing board whose coordinates run from 0 to 1 on both axes."""

    def __init__(self) -> None:
        self.pixels: Picture = np.zeros((_SIDE, _SIDE, 4), np.uint8)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        corners = np.array([[x * _SIDE, y * _SIDE] for x, y in points], np.int32)
        cv2.fillPoly(self.pixels, [corners], (*colour, 255), cv2.LINE_AA)

    def circle(self, radius: float, colour: Colour, centre: tuple[float, float] = (0.5, 0.5)) -> None:
        middle = (int(centre[0] * _SIDE), int(centre[1] * _SIDE))
        cv2.circle(self.pixels, middle, int(radius * _SIDE), (*colour, 255), -1, cv2.LINE_AA)

    def line(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        first, last = ((int(x * _SIDE), int(y * _SIDE)) for x, y in (start, end))
        cv2.line(self.pixels, first, last, (*colour, 255), max(1, int(width * _SIDE)), cv2.LINE_AA)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def text(self, words: str, height: float, colour: Colour, centre: tuple[float, float] = (0.5, 0.5)) -> None:
        font, thickness = cv2.FONT_HERSHEY_DUPLEX, max(2, int(height * _SIDE * 0.17))
        scale = height * _SIDE / 22.0
        (wide, high), _ = cv2.getTextSize(words, font, scale, thickness)
        origin = (int(centre[0] * _SIDE - wide / 2), int(centre[1] * _SIDE + high / 2))
        cv2.putText(self.pixels, words, origin, font, scale, (*colour, 255), thickness, cv2.LINE_AA)


def _regular(corners: int, radius: float, turn: float, drop: float = 0.0) -> list[tuple[float, float]]:
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    return [(0.5 + radius * float(np.cos(a)), 0.5 + drop + radius * float(np.sin(a))) for a in angles]


def _red_ring(canvas: _Canvas) -> None:
    canvas.circle(0.49, RED)
    canvas.circle(0.37, WHITE)


def _car(canvas: _Canvas, x: float, colour: Colour) -> None:
    canvas.box(x - 0.10, 0.47, x + 0.10, 0.60, colour)
    canvas.box(x - 0.07, 0.39, x + 0.07, 0.48, colour)
    canvas.box(x - 0.09, 0.59, x - 0.04, 0.64, colour)
    canvas.box(x + 0.04, 0.59, x + 0.09, 0.64, colour)


def _speed_limit(canvas: _Canvas, rng: np.random.Generator) -> None:
    _red_ring(canvas)
    number = str(int(rng.choice([20, 30, 50, 60, 70, 80, 100, 120])))
    canvas.text(number, 0.36 if len(number) == 2 else 0.27, BLACK)


def _no_overtaking(canvas: _Canvas, rng: np.random.Generator) -> None:
    _red_ring(canvas)
    _car(canvas, 0.38, RED)
    _car(canvas, 0.62, BLACK)


def _end_of_restriction(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.circle(0.49, BLACK)
    canvas.circle(0.46, WHITE)
    kind = int(rng.integers(3))
    if kind == 0:
        canvas.text(str(int(rng.choice([60, 80]))), 0.34, GREY)
    elif kind == 1:
        _car(canvas, 0.38, GREY)
        _car(canvas, 0.62, GREY)
    for shift in (-0.12, -0.06, 0.0, 0.06, 0.12):
        canvas.line((0.22 + shift, 0.80 + shift), (0.78 + shift, 0.20 + shift), 0.025, BLACK)
    ring = np.zeros((_SIDE, _SIDE), np.uint8)
    cv2.circle(ring, (_SIDE // 2, _SIDE // 2), int(0.49 * _SIDE), 255, -1, cv2.LINE_AA)
    canvas.pixels[..., 3] = np.minimum(canvas.pixels[..., 3], ring)  # cut the bars off at the rim


def _priority_road(canvas: _Canvas, rng: np.random.Generator) -> None:
    for radius, colour in ((0.50, BLACK), (0.48, WHITE), (0.34, BLACK), (0.325, YELLOW)):
        canvas.polygon(_regular(4, radius, 0.0), colour)


def _triangle(canvas: _Canvas, turn: float, drop: float) -> None:
    canvas.polygon(_regular(3, 0.57, turn, drop), RED)
    canvas.polygon(_regular(3, 0.34, turn, drop), WHITE)


def _yield(canvas: _Canvas, rng: np.random.Generator) -> None:
    _triangle(canvas, np.pi / 2, -0.13)


def _warning(canvas: _Canvas, rng: np.random.Generator) -> None:
    _triangle(canvas, -np.pi / 2, 0.13)
    kind = int(rng.integers(4))
    if kind == 0:
        canvas.box(0.47, 0.40, 0.53, 0.66, BLACK)
        canvas.circle(0.035, BLACK, (0.5, 0.74))
    elif kind == 1:
        canvas.line((0.42, 0.74), (0.58, 0.56), 0.05, BLACK)
        canvas.line((0.58, 0.56), (0.46, 0.46), 0.05, BLACK)
    elif kind == 2:
        for y, colour in ((0.48, RED), (0.60, YELLOW), (0.72, (60, 140, 40))):
            canvas.circle(0.05, colour, (0.5, y))
    else:
        canvas.circle(0.045, BLACK, (0.52, 0.48))
        canvas.line((0.51, 0.52), (0.46, 0.64), 0.06, BLACK)
        canvas.line((0.46, 0.64), (0.40, 0.76), 0.04, BLACK)
        canvas.line((0.47, 0.62), (0.56, 0.76), 0.04, BLACK)


def _stop(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.polygon(_regular(8, 0.53, np.pi / 8), WHITE)
    canvas.polygon(_regular(8, 0.505, np.pi / 8), RED)
    canvas.text("STOP", 0.25, WHITE)


def _no_entry(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.circle(0.49, WHITE)
    canvas.circle(0.475, RED)
    canvas.box(0.16, 0.42, 0.84, 0.58, WHITE)


def _arrow(canvas: _Canvas, angle: float, centre: tuple[float, float], length: float, head: float) -> None:
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    middle = np.array(centre)
    tail, tip = middle - along * length / 2, middle + along * length / 2
    neck = tip - along * head
    canvas.line((tail[0], tail[1]), (neck[0], neck[1]), head * 0.5, WHITE)
    corners = [tip, neck + across * head * 0.8, neck - across * head * 0.8]
    canvas.polygon([(float(p[0]), float(p[1])) for p in corners], WHITE)


def _mandatory_direction(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.circle(0.49, WHITE)
    canvas.circle(0.47, BLUE)
    angle = float(rng.choice([0.0, np.pi, -np.pi / 2, np.pi / 4, 3 * np.pi / 4, np.pi / 4]))
    _arrow(canvas, angle, (0.5, 0.5), 0.70, 0.24)


def _roundabout(canvas: _Canvas, rng: np.random.Generator) -> None:
    canvas.circle(0.49, WHITE)
    canvas.circle(0.47, BLUE)
    for start in (-90.0, 30.0, 150.0):
        centre = (_SIDE // 2, _SIDE // 2)
        cv2.ellipse(canvas.pixels, centre, (70, 70), start, 0, 75, (*WHITE, 255), int(0.075 * _SIDE), cv2.LINE_AA)
        end = np.deg2rad(start + 85)
        tip = (0.5 + 0.274 * float(np.cos(end)), 0.5 + 0.274 * float(np.sin(end)))
        _arrow(canvas, float(end) + np.pi / 2, tip, 0.15, 0.14)


_DRAWINGS: dict[str, Callable[[_Canvas, np.random.Generator], None]] = {
    "speed limit": _speed_limit,
    "no overtaking": _no_overtaking,
    "end of restriction": _end_of_restriction,
    "priority road": _priority_road,
    "yield": _yield,
    "stop": _stop,
    "no entry": _no_entry,
    "warning": _warning,
    "mandatory direction": _mandatory_direction,
    "roundabout": _roundabout,
}
SIGN_NAMES = tuple(_DRAWINGS)


def draw_sign(name: str, rng: np.random.Generator, side: int = _SIDE) -> Picture:
    """One sign seen from the front.

    name: one of SIGN_NAMES. rng: picks the number, symbol or arrow. side: pixels, 1 to 256.
    Returns uint8 [side, side, 4], BGR plus coverage (0 outside the sign, 255 on it). Errors: KeyError for a name
    that is not in SIGN_NAMES.
    """
    canvas = _Canvas()
    _DRAWINGS[name](canvas, rng)
    colour = canvas.pixels.astype(np.float32)
    colour[..., :3] *= colour[..., 3:] / 255.0  # premultiplied, so that averaging keeps the rim's colour
    small = cv2.resize(colour, (side, side), interpolation=cv2.INTER_AREA)
    cover = np.maximum(small[..., 3:], 1.0) / 255.0
    small[..., :3] = np.minimum(small[..., :3] / cover, 255.0)
    return np.asarray(small, np.uint8)
