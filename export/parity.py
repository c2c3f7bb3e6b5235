"""What parity is judged by: every map by its own size, beside what float32 itself loses on the same map.

An error is relative to the largest value of the map it is in: of one class on one picture, or one picture's logits,
probabilities, features. Overlays stretch each map to full colour, so that each has to be right by itself.

A map that is zero or nearly so (a class that nothing speaks for) has no size of its own. It is a sum of terms that
cancel or that the ReLU cuts, and float32's rounding is proportional to those terms: its scale is at least FLOOR of
their magnitudes' sum.

The limit is TOLERANCE, or FACTOR times the error of float32 where that is more, never more than CEILING. float32 is torch's own and,
where that is not enough, the engine's on the network as it was, without a gradient in it: some engines' kernels lose more. On a small
map its error may be small by luck; it counts as no less than a share of the map's terms, which is the root mean
square over the classes judged on the picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import ParityError
from dkcam.export.reference import Answer, Arrays

TOLERANCE = 1e-4
FACTOR = 4.0  # two float32 computations in different order are not equally lucky
CEILING = 1e-2  # 2.5 of the 255 levels of an overlay: a map that float32 does not know better than that cannot be shown
FLOOR = 2e-3  # torch's float32 loses up to 1e-5 of the terms in sound deep networks; CEILING of it is 2e-5
MOST_DIFFERENCE = 1e-3  # float64 leaves 1e-8 to 1e-5; a wrong rule is off by tenths
MOST_KINKS = 1e-4  # of the ReLU units a gradient passes
LEAST_PROBABILITY = 1e-37  # below it float32 has none: such classes are tied

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One output on one kind of picture: how many maps were judged, and the one nearest to its limit or farthest above.

    error, float32: largest difference from float64 over ``scale``, of the graph and of float32 itself. largest:
    the reference's largest value. label: the class explained, "" for outputs that belong to a picture.
    """

    output: str
    pictures: str
    maps: int
    label: str
    largest: float
    scale: float
    error: float
    float32: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Parity:
    """All rows, how much two pictures' heatmaps of a class or rank differ (0..1; a frozen gradient gives 0, no heatmap
    None), and how many of the ReLU units that gradients pass lay so near zero that float32 and float64 see different
    signs (``Reference``). score, score_error: the attention's largest score, and how well torch's float32 knows it. plainly: pictures
    on which ONNX Runtime's optimisations change the side of such a unit, so that maps are judged without them. differences: how far the
    reference's autograd is from finite differences, over the gradient's size; None where it was not asked.
    """

    rows: tuple[Row, ...] = ()
    input_dependence: float | None = None
    kinks: int = 0
    units: int = 0
    score: float = 0.0
    score_error: float = 0.0
    images: Mapping[str, int] = field(default_factory=dict)
    classes: int = 0
    plainly: int = 0
    differences: float | None = None

    def by_output(self) -> tuple[Row, ...]:
        """The worst row of each output, with the maps of all its rows counted."""
        found: dict[str, Row] = {}
        for row in self.rows:
            found[row.output] = worse(found.get(row.output), row)
        return tuple(found.values())

    def worst(self) -> dict[str, float]:
        """Largest relative error per output, three digits: what the file's metadata keeps."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row.output] = max(found.get(row.output, 0.0), row.error)
        return {name: float(f"{value:.2e}") for name, value in found.items()}

    def check(self) -> None:
        """Errors: ParityError naming the worst output, too many kinks, or a heatmap that does not depend on the picture."""
        if self.kinks > MOST_KINKS * self.units:
            raise ParityError(
                f"{self.kinks} of {self.units} ReLU units ({self.kinks / self.units:.1e}) have another sign in the graph than in float64, "
                f"expected at most {MOST_KINKS:.0e}: so many lie near zero that the gradient depends on rounding; nothing was written"
            )
        if self.differences is not None and not self.differences <= MOST_DIFFERENCE:
            raise ParityError(
                f"autograd, which the file is compared with, differs from finite differences by {self.differences:.1e} of the gradient, "
                f"limit {MOST_DIFFERENCE:.0e}: the comparison cannot be trusted on this network; nothing was written"
            )
        bad = [row for row in self.by_output() if not row.passed]
        if bad:
            row = max(bad, key=lambda r: r.error / r.limit if r.limit else math.inf)
            of = f" of {row.label!r}" if row.label else ""
            raise ParityError(
                f"{row.output}{of} differs from autograd by {row.error:.1e} of its maximum on {row.pictures} pictures, limit "
                f"{row.limit:.1e} (float32 itself: {row.float32:.1e}){self._cause(row)}; nothing was written"
            )
        maps = [row for row in self.rows if row.output == "heatmap"]
        if maps and not any(row.largest for row in maps):
            raise ParityError(
                "the heatmap is zero everywhere: nothing speaks for any class through this layer (an untrained model? behind the last "
                "attention of a transformer, where only the class token is read?); choose another with --layer; nothing was written"
            )
        if self.input_dependence is not None and self.input_dependence < 1e-6:
            raise ParityError("different pictures gave the same heatmap: the gradient is frozen in the graph; nothing was written")

    def _cause(self, row: Row) -> str:
        """Where float32 knows a score to ±ε, softmax turns that into a relative error of ε: large scores leave no digits.

        Named only where float32 itself is off as well.
        """
        if self.score_error < TOLERANCE or row.limit <= TOLERANCE:
            return ""
        return (
            f"; probable cause: the attention is saturated, its largest score is {self.score:.0f}, which float32 knows to "
            f"±{self.score_error:.0e}, and its weights no better; train the head, or scale layer4's features down"
        )


def worse(one: Row | None, other: Row) -> Row:
    """Of two rows of an output the one that uses more of its limit, with the maps of both."""
    if one is None:
        return other
    first, second = sorted((one, other), key=lambda r: (math.inf if r.error > 0 else 0.0) if r.limit == 0 else r.error / r.limit)
    return Row(**{**vars(second), "maps": first.maps + second.maps})


def judge(
    output: str,
    pictures: str,
    given: Arrays,
    exact: Answer,
    plain: Sequence[Answer],
    classes: NDArray[np.int64],
    labels: tuple[str, ...],
    at: int,
) -> Row:
    """One output on the picture ``at`` of a batch: the graph's values and torch's float32 ones against float64's.

    plain: of the same picture, several times with other roundings; the largest error counts. classes: int64 [K] as given
    to the graph, for ``explained``.
    """
    if output == "explained":
        return _judge_choice(pictures, given, exact, plain, classes, labels, at)
    truth = exact.values[output][at].astype(np.float64)
    per_class = output in ("weights", "heatmap", "heatmap_std", "gradient")
    axes = tuple(range(1, truth.ndim)) if per_class else None
    own = np.abs(truth).max(axis=axes, keepdims=True)
    scale, terms = own, own
    if output in ("weights", "heatmap", "heatmap_std"):
        terms = exact.magnitudes["weights" if output == "weights" else "heatmap"][at].reshape(own.shape)
        scale = np.maximum(own, FLOOR * terms)
    elif output == "logits":
        # a class with small weights has small logits: they must be right too
        scale = np.minimum(own, exact.magnitudes["logits"][at])

    def off(values: Arrays, size: Floats) -> Floats:
        return np.atleast_1d(_relative(values[output][at].astype(np.float64) - truth, size).max(axis=axes))

    errors = off(given, scale)
    floats, shares = (np.max([off(answer.values, size) for answer in plain], axis=0) for size in (scale, terms))
    if per_class:
        usual = math.sqrt(float(np.mean(np.where(np.isfinite(shares), shares, 0.0) ** 2)))
        floats = np.maximum(floats, usual * _relative(terms, scale).reshape(-1))
    limits = np.clip(FACTOR * floats, TOLERANCE, CEILING)
    worst = int(np.argmax(errors / limits))
    label = labels[int(given_classes(given, exact)[at][worst])] if per_class else ""
    sizes = own.reshape(-1)[worst], scale.reshape(-1)[worst] if per_class else scale.max()
    return Row(output, pictures, len(errors), label, *map(float, (*sizes, errors[worst], floats[worst], limits[worst])))


def given_classes(given: Arrays, exact: Answer) -> NDArray[np.int64]:
    """Which classes the graph explained, int64 [B, K]: its own word, or the reference's for a file without ``explained``."""
    return np.asarray(given["explained"] if "explained" in given else exact.values["explained"], np.int64)


def _relative(difference: Floats, scale: Floats) -> Floats:
    """|difference| / scale; inf for what is not finite, and where zeros must be met with zeros and are not."""
    size = np.where(np.isfinite(difference), np.abs(difference), math.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size == 0, 0.0, np.where(scale > 0, size / np.where(scale > 0, scale, 1.0), math.inf))


def _judge_choice(
    pictures: str, given: Arrays, exact: Answer, plain: Sequence[Answer], classes: NDArray[np.int64], labels: tuple[str, ...], at: int
) -> Row:
    """A class number must be the number given; a rank's may differ among classes that float32 cannot tell apart.

    The error of another choice is the difference of the log probabilities, over the largest logit or 1.
    """
    truth = exact.values["explained"][at]
    # a regressor has none, and its numbers of outputs are as given
    probabilities = exact.values["probabilities"][at] if "probabilities" in exact.values else np.ones(len(labels))
    scale = max(1.0, float(np.abs(exact.values["logits"][at]).max()))

    def gaps(chosen: NDArray[np.int64]) -> Floats:
        valid = (chosen >= 0) & (chosen < len(probabilities))
        levels = np.log(np.maximum(probabilities, LEAST_PROBABILITY))
        gap = np.abs(levels[np.where(valid, chosen, 0)] - levels[truth]) / scale
        ranked = valid & (classes < 0) & ("probabilities" in exact.values)
        return np.where(chosen == truth, 0.0, np.where(ranked, gap, math.inf))

    errors = gaps(np.asarray(given["explained"][at], np.int64))
    floats = np.max([gaps(answer.values["explained"][at]) for answer in plain], axis=0)
    limits = np.clip(FACTOR * floats, TOLERANCE, CEILING)
    worst = int(np.argmax(errors / limits))
    sizes = truth[worst], 1.0
    return Row(
        "explained", pictures, len(errors), labels[int(truth[worst])], *map(float, (*sizes, errors[worst], floats[worst], limits[worst]))
    )


def dependence(maps: Mapping[int, Sequence[NDArray[np.generic]]]) -> float | None:
    """Largest difference between two pictures' heatmaps of the same class or rank, relative to the largest value."""
    found = []
    for same in maps.values():
        stack = np.stack([one.astype(np.float64) for one in same])
        top = float(np.abs(stack).max())
        found.append(float((stack.max(0) - stack.min(0)).max()) / top if top > 0 else 0.0)
    return max(found, default=None)
