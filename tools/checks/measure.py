"""A model's answers on samples, as figures; beside each, controls that a claim has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.agreement import pearson
from dkcam.cells import Area, pointing
from dkcam.errors import ModelFileError
from dkcam.rendered import Box
from dkcam.runtime.explainer import Explains
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import Fit
from dkcam.tools.checks.rules import Rules, filled
from dkcam.tools.checks.samples import Sample
from dkcam.tools.corruptions import parse_corruption
from dkcam.tools.metrics.causal import deletion, insertion
from dkcam.tools.metrics.place import centred_gaussian, chance, energy, energy_ratio, entropy, heat_in, iou

BATCH = 16
CONTROLS = ("chance", "centred Gaussian", "edges", "wrong class", "another box")
PLACES = ("pointing", "energy", "energy_ratio", "iou")  # the measures that have controls

Map = NDArray[np.floating[Any]]


@dataclass
class Record:
    """One sample's figures. values: by ``Rule.key``. controls: name → the same figures of ``PLACES``. size: of the object,
    square root of its area in the model's pixels, nan without one. beside: of a detection, the labelled box that it matches.
    """

    sample: Sample
    label: str
    predicted: str
    probability: float
    heatmap: Map
    fit: Fit
    size: float
    values: dict[str, float]
    controls: dict[str, dict[str, float]] = field(default_factory=dict)
    beside: tuple[Box, ...] = ()


def measure(
    explainer: Explains, found: Iterator[Sample], rules: Rules, *, against: Explains | None = None, advance: Callable[[], None]
) -> Iterator[Record]:
    """Run the model, and the one to compare with, over all samples in batches."""
    if explainer.spec.explanation.count not in (None, 1):
        raise ModelFileError(f"this model explains exactly {explainer.spec.explanation.count} classes at once; export it without --classes")
    batch: list[Sample] = []
    for sample in found:
        batch.append(sample)
        if len(batch) == BATCH:
            yield from _batch(explainer, batch, rules, against)
            batch = []
        advance()
    if batch:
        yield from _batch(explainer, batch, rules, against)


def _explained(explainer: Explains, batch: Sequence[Sample]) -> list[tuple[Explanation, Map, Map | None]]:
    """Each sample's explanation, the heatmap of its true class (else the top one), and of a wrong class."""
    prepared = [explainer.prepare(sample.image) for sample in batch]
    if explainer.spec.explanation.count == 1:
        single = [explainer.infer_many([each], [_wanted(sample)])[0] for each, sample in zip(prepared, batch, strict=True)]
        return [(said, said.heatmap[0], None) for said in single]
    asked = sorted({_wanted(sample) for sample in batch} | {-1, -2}) if len(explainer.spec.labels) > 1 else [-1]
    result = []
    for said, sample in zip(explainer.infer_many(prepared, asked), batch, strict=True):
        true = _wanted(sample)
        wrong = next((asked.index(k) for k in (-1, -2) if k in asked and int(said.explained[asked.index(k)]) != true), None)
        if true == -1:
            wrong = asked.index(-2) if -2 in asked else None
        result.append((said, said.heatmap[asked.index(true)], said.heatmap[wrong] if wrong is not None else None))
    return result


def _wanted(sample: Sample) -> int:
    return -1 if sample.label is None else sample.label


def _batch(explainer: Explains, batch: Sequence[Sample], rules: Rules, against: Explains | None) -> Iterator[Record]:
    other = _explained(against, batch) if against else [None] * len(batch)
    for sample, (said, heat, wrong), second in zip(batch, _explained(explainer, batch), other, strict=True):
        record = _record(sample, said, heat, wrong, rules)
        if second is not None:
            record.values["agreement"] = float(second[0].probabilities.argmax() == said.probabilities.argmax())
            if heat.shape == second[1].shape and (heat.std() > 0 or second[1].std() > 0):
                record.values["correlation"] = pearson(heat, second[1])
            record.values["probability_change"] = float(second[0].probabilities[_index(sample, said)] - record.probability)
            if sample.boxes:
                areas = [second[0].fit.area(box, second[1].shape) for box in sample.boxes]
                record.values["other_pointing"] = pointing(second[1], *areas)
        wanted = {rule.measure for rule in rules.rules}
        for name, area in (("insertion", insertion), ("deletion", deletion)):
            if name in wanted:
                record.values[name] = area(sample.image, _over_frame(record), _scores(explainer, _index(sample, said)))
        for rule in rules.rules:
            if rule.corruption and rule.key not in record.values:
                spoilt = parse_corruption(rule.corruption)(sample.image, np.random.default_rng(0))
                again = explainer.infer_many([explainer.prepare(spoilt)], [_wanted(sample)])[0]
                record.values[rule.key] = float(again.probabilities[_index(sample, said)])
        yield record


def _over_frame(record: Record) -> Map:
    """The heatmap's cells over the sample, where the input showed more or less than it."""
    spread = record.fit.spread(np.asarray(record.heatmap, np.float32))
    return np.asarray(cv2.resize(spread, (4 * record.heatmap.shape[1], 4 * record.heatmap.shape[0]), interpolation=cv2.INTER_AREA))


def _scores(explainer: Explains, index: int) -> Callable[[list[NDArray[np.uint8]]], NDArray[np.floating[Any]]]:
    def score(pictures: list[NDArray[np.uint8]]) -> NDArray[np.floating[Any]]:
        said = explainer.infer_many([explainer.prepare(picture) for picture in pictures], [index])
        return np.array([each.probabilities[index] for each in said])

    return score


def _index(sample: Sample, said: Explanation) -> int:
    return sample.label if sample.label is not None else int(said.probabilities.argmax())


def _record(sample: Sample, said: Explanation, heat: Map, wrong: Map | None, rules: Rules) -> Record:
    top = said.top()[0]
    index = _index(sample, said)
    values = {"confidence": float(said.probabilities[index]), "entropy": entropy(heat)}
    if sample.label is not None:
        values["accuracy"] = float(top.index == sample.label or top.index in sample.also)
    if said.heatmap_std is not None:
        values["stability"] = said.stability()
    for name in rules.regions:
        values[f"region:{name}"] = heat_in(heat, region_in_input(rules, name, sample, said.fit))
    size, controls = math.nan, {}
    if sample.boxes:
        areas, shown = [said.fit.area(box, heat.shape) for box in sample.boxes], said.fit.shown(heat.shape)
        values |= places(heat, areas, shown)
        others: dict[str, Map] = {"centred Gaussian": centred_gaussian(*heat.shape), "edges": edges(sample.image, heat.shape, said.fit)}
        if wrong is not None:
            others["wrong class"] = wrong
        controls = {"chance": chance(heat, *areas, shown=shown)} | {name: places(other, areas, shown) for name, other in others.items()}
        first = sample.boxes[0]
        down, right = said.fit.scale
        size = math.sqrt((first.right - first.left) * right * (first.bottom - first.top) * down)
    label = said.labels[index] if sample.label is not None else ""
    return Record(sample, label, top.label, float(said.probabilities[index]), heat, said.fit, size, values, controls)


def places(heat: Map, areas: Sequence[Area], shown: Area) -> dict[str, float]:
    """The measures that ask where the heat lies, by name."""
    return {
        "pointing": pointing(heat, *areas),
        "energy": energy(heat, *areas),
        "energy_ratio": energy_ratio(heat, *areas, shown=shown),
        "iou": iou(heat, *areas),
    }


def region_in_input(rules: Rules, name: str, sample: Sample, fit: Fit) -> NDArray[np.bool_]:
    """A region of the sample as a mask over the model's input."""
    return filled(to_input(sample.seen(rules.regions[name]), fit), fit.height, fit.width)


def to_input(places: NDArray[np.float64], fit: Fit) -> NDArray[np.float64]:
    """(x, y) in a frame's pixels as (x, y) in the model's input."""
    return np.asarray(places * fit.scale[::-1] + fit.offset[::-1], np.float64)


def edges(image: NDArray[np.uint8], shape: tuple[int, ...], fit: Fit) -> NDArray[np.float64]:
    """The control that follows contrast: Sobel's gradient, averaged over the heatmap's cells."""
    grey = cv2.cvtColor(cv2.resize(image, (fit.width, fit.height), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY).astype(np.float32)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    return np.asarray(cv2.resize(strength, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.float64)


def by_key(records: Sequence[Record], key: str, label: str = "all") -> list[tuple[float, str]]:
    """(value, picture's name) of the records that have it."""
    return [(r.values[key], r.sample.name) for r in records if key in r.values and label in ("all", r.label)]


def control(records: Sequence[Record], name: str, key: str, label: str = "all") -> list[tuple[float, str]]:
    """The same for a control."""
    return [(r.controls[name][key], r.sample.name) for r in records if name in r.controls and label in ("all", r.label)]


def labels_of(records: Sequence[Record]) -> Mapping[str, int]:
    """Classes with their counts, most first."""
    counts: dict[str, int] = {}
    for record in records:
        if record.label:
            counts[record.label] = counts.get(record.label, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
