"""Labelled pictures, whatever form their labels come in, and everything that was wrong with them."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dkcam.rendered import Box


@dataclass(frozen=True)
class Problem:
    """kind: "missing picture", "unreadable picture", "not a number", "empty box", "outside", "partly outside",
    "unknown class", "damaged label". where: file and line or number. text: what came.
    """

    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class Picture:
    """path: the file. name: as the labels call it. boxes: in pixels, as they are in the labels' file."""

    path: Path
    name: str
    boxes: tuple[Box, ...]


@dataclass
class Dataset:
    """format: "coco", "voc", "yolo", "kitti" or "csv". pictures: in the order of their names, those without boxes too."""

    source: Path
    format: str
    pictures: list[Picture] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        """Problems by kind."""
        return dict(sorted(Counter(problem.kind for problem in self.problems).items()))

    def note(self, kind: str, where: str, text: str) -> None:
        self.problems.append(Problem(kind, where, text))


def checked_box(dataset: Dataset, where: str, label: str, place: Sequence[object]) -> Box | None:
    """A box of four numbers left, top, right, bottom; None, with a problem noted, for one that is none."""
    numbers = []
    for value in place:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):  # a whole number of hundreds of digits
            number = math.nan
        numbers.append(number)
    if len(numbers) != 4 or not all(math.isfinite(number) for number in numbers):
        dataset.note("not a number", where, f"box of {label!r} is {reprlib.repr(list(place))}")
        return None
    left, top, right, bottom = numbers
    if right <= left or bottom <= top:
        dataset.note("empty box", where, f"box of {label!r} is {right - left:g} x {bottom - top:g} pixels")
        return None
    return Box(label, left, top, right, bottom)


def inside(dataset: Dataset, picture: Picture, height: int, width: int) -> tuple[Box, ...]:
    """The boxes cut to the picture; those that reach beyond it are noted, those wholly outside left out."""
    kept = []
    for box in picture.boxes:
        cut = Box(box.label, max(box.left, 0.0), max(box.top, 0.0), min(box.right, float(width)), min(box.bottom, float(height)))
        place = f"box of {box.label!r} is {box.left:g},{box.top:g} to {box.right:g},{box.bottom:g} in {width} x {height} pixels"
        if cut.right <= cut.left or cut.bottom <= cut.top:
            dataset.note("outside", picture.name, place)
            continue
        if max(-box.left, -box.top, box.right - width, box.bottom - height) > 1:  # a pixel is rounding
            dataset.note("partly outside", picture.name, place)
        kept.append(cut)
    return tuple(kept)
