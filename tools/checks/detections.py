"""A detector's boxes on labelled pictures: does the heat of each lie in the box that it speaks for?

Each detection is one record. Its figures of place ask about its own box, whether or not it is right; those that begin with
``label_`` about the labelled box that it matches, which is what was to be found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dkcam.image_file import read_image
from dkcam.rendered import Box
from dkcam.runtime.explainer import Explains
from dkcam.runtime.explanation import Detection, Explanation
from dkcam.runtime.geometry import overlap
from dkcam.tools.checks.dataset import Dataset, inside
from dkcam.tools.checks.measure import BATCH, Record, edges, places, region_in_input
from dkcam.tools.checks.rules import Rules
from dkcam.tools.checks.samples import Labels, Sample
from dkcam.tools.metrics.place import centred_gaussian, chance, entropy, heat_in

MATCHES = 0.5  # overlap of a detection with the labelled box that it means, at least
BOXES = 16  # the best of a picture, which is what TensorRT's profiles allow


@dataclass
class Tally:
    """Detections that match a label, and those that match none; labelled boxes that no detection matches; detections of classes
    that the data set does not label, which are not judged.
    """

    matched: int = 0
    unmatched: int = 0
    missed: int = 0
    unlabelled: int = 0

    def line(self) -> str:
        """What a person reads."""
        found = self.matched + self.unmatched
        text = f"{found} detections: {self.matched} match a label, {self.unmatched} match none; {self.missed} labelled boxes were not found"
        return text + (f"; {self.unlabelled} detections are of classes without labels here" if self.unlabelled else "")


@dataclass(frozen=True)
class _Picture:
    image: NDArray[np.uint8]
    name: str
    truth: tuple[tuple[int, Box], ...]  # class and place


def measure_detections(
    explainer: Explains, dataset: Dataset, labels: Labels, rules: Rules, *, tally: Tally, advance: Callable[[], None]
) -> Iterator[Record]:
    """A record for each detection of a class that the data set labels. tally: counts up; whole when all records were taken."""
    known = {number for picture in dataset.pictures for box in picture.boxes if (number := labels.of(box.label)) is not None}
    asked = [-1 - rank for rank in range(explainer.spec.explanation.count or BOXES)]
    batch: list[_Picture] = []

    def judged() -> Iterator[Record]:
        prepared = [explainer.prepare(picture.image) for picture in batch]
        for picture, said in zip(batch, explainer.infer_many(prepared, asked), strict=True):
            yield from _records(picture, said, known, rules, tally)
        batch.clear()

    for picture in dataset.pictures:
        image = read_image(picture.path)
        if image is None:
            dataset.note("unreadable picture", picture.name, f"{picture.path} is no picture")
            continue
        frame = np.asarray(image, np.uint8)
        boxes = [(labels.of(box.label), box) for box in inside(dataset, picture, *frame.shape[:2])]
        batch.append(_Picture(frame, picture.name, tuple((number, box) for number, box in boxes if number is not None)))
        if len(batch) == BATCH:
            yield from judged()
        advance()
    yield from judged()


def _records(picture: _Picture, said: Explanation, known: set[int], rules: Rules, tally: Tally) -> Iterator[Record]:
    found = [each for each in said.detections if each.index in known]
    tally.unlabelled += len(said.detections) - len(found)
    own = [_in_pixels(each, picture.image) for each in found]
    meant = match(found, own, picture.truth)
    tally.matched += sum(which is not None for which in meant)
    tally.unmatched += sum(which is None for which in meant)
    tally.missed += len(picture.truth) - sum(which is not None for which in meant)
    if not found:
        return
    contrast = edges(picture.image, said.heatmap.shape[1:], said.fit)
    for number, each in enumerate(found):
        others = [other for other in said.detections if other.row != each.row]
        wrong = said.heatmap[others[0].row] if others else None
        which = meant[number]
        label = None if which is None else picture.truth[which][1]
        yield _record(picture, said, each, own[number], label, wrong, contrast, rules)


def match(found: Sequence[Detection], own: Sequence[Box], truth: Sequence[tuple[int, Box]]) -> list[int | None]:
    """For each detection, the best first, which labelled box it means: of its class, the one that it overlaps most, by ``MATCHES``
    or more; each is meant once. own: the detections' boxes in pixels, as the labelled ones.
    """
    free = set(range(len(truth)))
    meant: list[int | None] = []
    for each, box in zip(found, own, strict=True):
        near = [(overlap(_corners(box), _corners(truth[which][1])), which) for which in free if truth[which][0] == each.index]
        share, which = max(near, default=(0.0, -1))
        meant.append(which if share >= MATCHES else None)
        free.discard(which if share >= MATCHES else -1)
    return meant


def _record(
    picture: _Picture,
    said: Explanation,
    found: Detection,
    own: Box,
    label: Box | None,
    wrong: NDArray[np.float32] | None,
    contrast: NDArray[np.float64],
    rules: Rules,
) -> Record:
    heat, fit = said.heatmap[found.row], said.fit
    area, shown = fit.area(own, heat.shape), fit.shown(heat.shape)
    frame = picture.image.shape[0], picture.image.shape[1]
    sample = Sample(picture.image, picture.name, None, label.label if label else "no label", found.index, (own,), frame)
    values = {"accuracy": float(label is not None), "confidence": found.probability, "entropy": entropy(heat)}
    values |= places(heat, [area], shown)
    if label is not None:
        there = places(heat, [fit.area(label, heat.shape)], shown)
        values |= {f"label_{name}": value for name, value in there.items()}
        values["overlap"] = overlap(_corners(own), _corners(label))
    for name in rules.regions:
        values[f"region:{name}"] = heat_in(heat, region_in_input(rules, name, sample, fit))
    controls = {
        "chance": chance(heat, area, shown=shown),
        "centred Gaussian": places(centred_gaussian(*heat.shape), [area], shown),
        "edges": places(contrast, [area], shown),
    }
    if wrong is not None:
        controls["another box"] = places(wrong, [area], shown)
    down, right = fit.scale
    size = math.sqrt((own.right - own.left) * right * (own.bottom - own.top) * down)
    beside = (label,) if label else ()
    return Record(sample, found.label, found.label, found.probability, heat, fit, size, values, controls, beside)


def _in_pixels(found: Detection, image: NDArray[np.uint8]) -> Box:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = found.box
    return Box(found.label, x1 * width, y1 * height, x2 * width, y2 * height)


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom
