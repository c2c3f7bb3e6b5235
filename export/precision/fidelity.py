"""Does a faster file still say the same? Its answers against the float32 file's, on pictures it was not fitted to.

Every figure is judged by the near end of its 95 % interval: what the pictures show for certain, not what they happen to give.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dkcam.engines import Engine
from dkcam.engines.engine import draw_masks, graph_input
from dkcam.errors import ExportError
from dkcam.export.pictures import Pictures
from dkcam.export.precision.judges import JUDGES
from dkcam.export.precision.judges.judge import Answer
from dkcam.interval import Mean, mean, share

Limits = Mapping[str, float]


class FidelityError(ExportError):
    """A low-precision graph says something else than the float32 model, or nobody can tell whether it does."""


def nearer(limits: Limits, task: str, part: float) -> dict[str, float]:
    """Limits at this part of the distance from perfect."""
    figures = JUDGES[task].figures
    return {name: 1 - part * (1 - limit) if figures[name].least else part * limit for name, limit in limits.items()}


@dataclass(frozen=True)
class Fidelity:
    """means: figures with their intervals over sources of pictures, without any value where nothing could be compared; those of the task's
    judge, and what else it compares. numbers: extremes and root mean squares.
    """

    task: str
    pictures: int
    means: Mapping[str, Mean]
    numbers: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """What the file's metadata keeps: four digits, no nan; of a mean also ``_low`` and ``_high``."""
        values: dict[str, float] = {"pictures": self.pictures, **self.numbers}
        for name, found in self.means.items():
            values |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        return {name: float(f"{value:.4g}") for name, value in values.items() if not math.isnan(value)}

    def misses(self, wanted: Limits) -> str:
        """What falls short, "" if nothing does. A figure that could not be taken does not fall short."""
        for name, figure in JUDGES[self.task].figures.items():
            found = self.means.get(name)
            if found is None or not found.count or name not in wanted:
                continue
            limit = wanted[name]
            if found.low < limit if figure.least else max(-found.low, found.high) > limit:
                return figure.words.format(ends=_ends(found), count=found.count, limit=limit)
        return ""

    def without_intervals(self) -> Fidelity:
        """The means alone: to choose by, where many attempts are compared and none is believed."""
        return replace(self, means={name: replace(found, low=found.value, high=found.value) for name, found in self.means.items()})

    def harm(self) -> float:
        """How far from the model, as one number for ordering: 0 is the same."""
        judge = JUDGES[self.task]
        total = 0.0
        for name in judge.harm:
            value = self.means[name].value if name in self.means else self.numbers.get(name, math.nan)
            if not math.isnan(value):
                total += 1 - value if name in judge.figures and judge.figures[name].least else abs(value)
        return total


def _ends(found: Mean) -> str:
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


@dataclass(frozen=True)
class Truth:
    """What the float32 file says of a picture. source: of the picture."""

    picture: NDArray[np.uint8]
    source: Hashable
    answer: Answer


def truths(engine: Engine, pictures: Pictures, task: str) -> list[Truth]:
    """Run the float32 file; graphs with masks get one set of masks, here and in ``compare``."""
    judge, asker = JUDGES[task], _Asker(engine)
    answers = judge.truths([asker.ask(picture, judge.asked(asker.count)) for picture in pictures.images])
    return [Truth(*each) for each in zip(pictures.images, pictures.sources, answers, strict=True)]


def compare(engine: Engine, expected: Sequence[Truth], task: str) -> Fidelity:
    """Run the file on the same pictures."""
    judge, asker = JUDGES[task], _Asker(engine)
    values: dict[str, list[float]] = {name: [] for name in judge.figures}
    sources: dict[str, list[Hashable]] = {name: [] for name in judge.figures}
    for truth in expected:
        answer = asker.ask(truth.picture, judge.asked_again(truth.answer, asker.count))
        for name, found in judge.compare(truth.answer, answer).items():
            values.setdefault(name, []).extend(found)
            sources.setdefault(name, []).extend([truth.source] * len(found))
    numbers = {name: _extreme(values.get(figure, []), how) for name, (figure, how) in judge.extremes.items()}
    means = {
        name: share([value == 1 for value in found], sources[name]) if name in judge.shares else mean(found, sources[name])
        for name, found in values.items()
        if name not in numbers
    }
    return Fidelity(task, len(expected), means, numbers)


def doubt(expected: Sequence[Truth], task: str, limits: Limits) -> str:
    """Why nobody can tell from these pictures whether a file is faithful, "" if one can."""
    return JUDGES[task].doubt([truth.answer for truth in expected], limits)


def _extreme(values: Sequence[float], how: str) -> float:
    if not values:
        return math.nan
    if how == "rms":
        return math.sqrt(float(np.mean(np.square(values))))
    return max(values) if how == "most" else min(values)


class _Asker:
    """Asks an engine of one picture at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._spec = engine, engine.spec
        self._mask = draw_masks(self._spec, np.random.default_rng(0))
        self.count = self._spec.explanation.count

    def ask(self, picture: NDArray[np.uint8], classes: Sequence[int]) -> Answer:
        spec = self._spec
        batch = np.repeat(picture[None], spec.input.batch[0], axis=0)
        numbers = np.array(classes, np.int64)
        if spec.explanation.per_image:
            numbers = np.repeat(numbers[None], len(batch), axis=0)
        said = self._engine.run(graph_input(batch, spec.input), numbers, self._mask)
        return {name: values[0] for name, values in said.items()}
