"""What the model is shown: whole pictures, or a window around each object; and what is true of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dkcam.image_file import read_image
from dkcam.rendered import Box
from dkcam.tools.checks.dataset import Dataset, inside
from dkcam.tools.checks.dataset import Picture as Labelled
from dkcam.tools.checks.rules import Rules, normal
from dkcam.tools.scenes.example import SignSize
from dkcam.tools.scenes.window import TRIES, Place, cut, in_window, place_window


@dataclass(frozen=True)
class Sample:
    """image: uint8 [H, W, 3] BGR. name: the picture's. window: where it was cut, or None. kind: the data set's word.

    label: the model's class that is true here, None where there is no object and no background class. boxes: of that class.
    also: other classes that are seen too. frame: height and width of the whole picture.
    """

    image: NDArray[np.uint8]
    name: str
    window: Place | None
    kind: str
    label: int | None
    boxes: tuple[Box, ...]
    frame: tuple[int, int]
    also: frozenset[int] = frozenset()

    def seen(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Corners [n, 2], 0..1 of the whole picture, as (x, y) in the sample's pixels."""
        places = corners * (self.frame[1], self.frame[0])
        return places if self.window is None else np.asarray((places - self.window[:2]) * self.window[2], np.float64)


@dataclass(frozen=True)
class Windows:
    """A window of height x width pixels around each object, which is 20 to 60 pixels wide there, off centre; seeded."""

    height: int
    width: int
    size: SignSize = field(default_factory=SignSize)
    seed: int = 0


class Classes(Protocol):
    """Which class a data set's word means, None for none; background: of pictures without objects, where there is one."""

    background: int | None

    def of(self, kind: str) -> int | None: ...


class Labels:
    """Data-set classes as the model's: by the rules' map, else by equal names. unmatched: those without one, with counts."""

    def __init__(self, rules: Rules, labels: Sequence[str], dataset: Dataset) -> None:
        numbers = {normal(label): number for number, label in enumerate(labels)}
        self._numbers, self._map = numbers, rules.labels
        self.background = numbers.get(normal(rules.background)) if rules.background else None
        self.unmatched: dict[str, int] = {}
        for picture in dataset.pictures:
            for box in picture.boxes:
                if self.of(box.label) is None:
                    self.unmatched[box.label] = self.unmatched.get(box.label, 0) + 1

    def of(self, kind: str) -> int | None:
        return self._numbers.get(normal(self._map.get(normal(kind), kind)))


def samples(dataset: Dataset, labels: Classes, windows: Windows | None) -> Iterator[Sample]:
    """Every sample, in the pictures' order; pictures that cannot be read are noted as problems."""
    for number, picture in enumerate(dataset.pictures):
        image = read_image(picture.path)
        if image is None:
            dataset.note("unreadable picture", picture.name, f"{picture.path} is no picture")
            continue
        frame = np.asarray(image, np.uint8)
        boxes = inside(dataset, picture, *frame.shape[:2])
        yield from _windows(dataset, labels, picture, frame, boxes, windows, number) if windows else _whole(labels, picture, frame, boxes)


def _whole(labels: Classes, picture: Labelled, frame: NDArray[np.uint8], boxes: Sequence[Box]) -> Iterator[Sample]:
    found: dict[int, list[Box]] = {}
    for box in boxes:
        label = labels.of(box.label)
        if label is not None:
            found.setdefault(label, []).append(box)
    for label, own in found.items():
        yield Sample(frame, picture.name, None, own[0].label, label, tuple(own), frame.shape[:2], frozenset(found) - {label})
    if not boxes:
        yield Sample(frame, picture.name, None, "background", labels.background, (), frame.shape[:2])


def _windows(
    dataset: Dataset,
    labels: Classes,
    picture: Labelled,
    frame: NDArray[np.uint8],
    boxes: Sequence[Box],
    windows: Windows,
    number: int,
) -> Iterator[Sample]:
    size = windows.height, windows.width
    for which, box in enumerate(boxes):
        label = labels.of(box.label)
        if label is None:
            continue
        rng = np.random.default_rng((windows.seed, number, which))
        others = [other for other in boxes if labels.of(other.label) != label]
        for _ in range(TRIES):
            place = place_window(frame.shape[:2], box, others, rng, size, windows.size.pick(rng, *size))
            if place is not None:
                yield Sample(cut(frame, place, *size), picture.name, place, box.label, label, (in_window(box, place),), frame.shape[:2])
                break
        else:
            dataset.note("no window", picture.name, f"{box.label!r} cannot be shown at 20 pixels or more without another object")
    if not boxes:
        scale = max(windows.height / frame.shape[0], windows.width / frame.shape[1])
        rng = np.random.default_rng((windows.seed, number))
        zoom = max(scale, float(rng.uniform(0.5, 1.0)))
        left = rng.uniform(0, max(frame.shape[1] - windows.width / zoom, 0))
        top = rng.uniform(0, max(frame.shape[0] - windows.height / zoom, 0))
        place = (float(left), float(top), zoom)
        yield Sample(cut(frame, place, *size), picture.name, place, "background", labels.background, (), frame.shape[:2])


def by_label(values: Mapping[str, int]) -> str:
    """'bend 3, cattle 1' for messages."""
    return ", ".join(f"{name} {count}" for name, count in sorted(values.items(), key=lambda item: (-item[1], item[0])))
