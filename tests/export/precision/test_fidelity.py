"""The figures of the gate against their definitions, and the search for the layers to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dkcam.export.precision.calibrate import best_range
from dkcam.export.precision.fidelity import Fidelity, Thresholds, Truth, compare
from dkcam.export.precision.numerics import Int8
from dkcam.export.precision.search import fit
from dkcam.spec import ModelSpec

SPEC = ModelSpec(("a", "b", "c"), 64, 96)
PICTURE = np.zeros((64, 96, 3), np.uint8)


class Canned:
    """An engine that says what it was given."""

    spec, device, sha256, lanes = SPEC, "cpu", "", 1

    def __init__(self, answers: list[tuple[list[float], np.ndarray]]) -> None:
        self._answers = iter(answers)

    def run(self, image: Any, classes: Any, key_mask: Any = None) -> Mapping[str, Any]:
        probabilities, heat = next(self._answers)
        return {"probabilities": np.array([probabilities]), "heatmap": heat[None, None]}

    def close(self) -> None: ...


def truth(probabilities: list[float], heat: np.ndarray) -> Truth:
    values = np.array(probabilities)
    return Truth(PICTURE, values, int(values.argmax()), heat)


def test_the_same_answers_are_perfect() -> None:
    heat = np.random.default_rng(0).random((4, 5))
    found = compare(Canned([([0.1, 0.8, 0.1], heat)]), [truth([0.1, 0.8, 0.1], heat)])
    assert found.figures() == {
        "frames": 1,
        "confident": 1,
        "top1": 1,
        "probability": 0,
        "pearson": 1,
        "worst": 1,
        "spearman": 1,
        "iou": 1,
        "peak_shift": 0,
    }


def test_each_figure_sees_its_own_fault() -> None:
    heat = np.zeros((4, 5))
    heat[1, 1], heat[2, 2] = 2, 1
    moved = np.roll(heat, (1, 2), axis=(0, 1))
    found = compare(
        Canned([([0.6, 0.3, 0.1], heat), ([0.3, 0.4, 0.3], moved), ([0.2, 0.2, 0.6], heat)]),
        [truth([0.2, 0.7, 0.1], heat), truth([0.4, 0.3, 0.3], heat), truth([0.2, 0.2, 0.6], np.zeros((4, 5)))],
    )
    assert (found.frames, found.confident) == (3, 2)
    assert found.top1 == 0.5  # the unsure second frame does not count
    assert found.probability == pytest.approx(0.4)
    assert found.peak_shift == pytest.approx(np.hypot(1, 2) / 2)  # the third frame has no heat to compare
    assert found.worst == pytest.approx(np.corrcoef(heat.ravel(), moved.ravel())[0, 1])
    assert found.pearson == pytest.approx((1 + found.worst) / 2)


def test_a_map_without_heat_where_heat_belongs_counts_as_zero() -> None:
    heat = np.eye(4)
    assert compare(Canned([([0.1, 0.8, 0.1], np.zeros((4, 4)))]), [truth([0.1, 0.8, 0.1], heat)]).pearson == 0


def test_misses_are_named() -> None:
    wanted = Thresholds(0.97, 0.98)
    good = Fidelity(9, 9, 1, 0, 0.99, 0.9, 1, 1, 0)
    assert good.misses(wanted) == ""
    assert "keep their class" in Fidelity(9, 9, 0.9, 0, 0.99, 0.9, 1, 1, 0).misses(wanted)
    assert "correlate by 0.9600" in Fidelity(9, 9, 1, 0, 0.96, 0.9, 1, 1, 0).misses(wanted)
    unknown = Fidelity(9, 0, float("nan"), 0, 0.99, 0.9, 1, 1, 0)
    assert unknown.misses(wanted) == "" and "top1" not in unknown.figures()


@pytest.mark.parametrize("needed", [{"c3"}, {"c1", "c5", "c6"}, {f"c{i}" for i in range(8)}])
def test_the_search_keeps_what_hurts_and_no_more(needed: set[str]) -> None:
    """A network whose heatmap is spoilt a little by each of the ``needed`` layers that is in int8."""
    names = [f"c{i}" for i in range(8)]
    rng = np.random.default_rng(0)
    heat, noise = rng.random(400), {name: rng.normal(size=400) for name in names}

    def open_file(numerics: Int8) -> Any:
        spoilt = heat + sum((0.3 * noise[name] for name in sorted(needed - numerics.kept)), np.zeros(400))
        return Canned([([0.1, 0.8, 0.1], spoilt.reshape(20, 20))])

    numerics, kept, found = fit(
        Int8("cpu", {}), dict.fromkeys(names, 10), open_file, [truth([0.1, 0.8, 0.1], heat.reshape(20, 20))], Thresholds(0.97, 0.98)
    )
    assert numerics.kept == needed and {layer.name for layer in kept} == needed
    assert found.pearson > 0.97 and all(layer.share == pytest.approx(1 / 8) and layer.harm > 0.03 for layer in kept)


def test_nothing_is_kept_where_nothing_hurts() -> None:
    heat = np.random.default_rng(0).random((4, 5))
    expected = [truth([0.1, 0.8, 0.1], heat)]
    _, kept, _ = fit(Int8("cpu", {}), {"c": 1}, lambda numerics: Canned([([0.1, 0.8, 0.1], heat)]), expected, Thresholds(0.97, 0.98))
    assert kept == ()


@pytest.mark.parametrize("kind", ["even", "normal", "exponential", "one far out", "signed"])
def test_ranges_lose_least(kind: str) -> None:
    """Against every other factor, by rounding the samples themselves."""
    rng = np.random.default_rng(0)
    samples = {
        "even": rng.random(50_000),
        "normal": np.abs(rng.normal(0, 1, 50_000)),
        "exponential": rng.exponential(1, 50_000) ** 2,
        "one far out": np.concatenate([np.full(3_000_000, 0.4) * rng.random(3_000_000), [90.0]]),
        "signed": rng.normal(0, 1, 50_000) ** 3,
    }[kind]
    bottom, top = min(0.0, float(samples.min())), float(samples.max())

    def error(share: float) -> float:
        step = share * (top - bottom) / 255
        rounded = np.clip(np.rint((samples - share * bottom) / step), 0, 255) * step + share * bottom
        return float(((rounded - samples) ** 2).mean())

    low, high = best_range(np.histogram(samples, 2048, (bottom, top))[0], bottom, top)
    assert low == pytest.approx(bottom * high / top)
    assert error(high / top) <= 1.05 * min(error(share) for share in np.linspace(0.02, 1, 50))
    if kind == "one far out":
        assert high < 45
