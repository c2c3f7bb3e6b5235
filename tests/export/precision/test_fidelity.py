"""The figures of the gate against their definitions, and the search for the layers to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from dkcam.export.pictures import Pictures
from dkcam.export.precision.build import MOST, split
from dkcam.export.precision.calibrate import POWER, best_range
from dkcam.export.precision.fidelity import Fidelity, Truth, compare, nearer
from dkcam.export.precision.judges import JUDGES
from dkcam.export.precision.numerics import Int8
from dkcam.export.precision.search import fit
from tests.specs import model_spec

SPEC = model_spec(("a", "b", "c"))
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


LOOSE = {"agreement": 0.98, "pearson": 0.97, "change": 1.0, "peak_shift": 99.0}
INT8 = JUDGES["classify"].limits["int8"]


def truth(probabilities: list[float], heat: np.ndarray, source: object = None, top: int | None = None) -> Truth:
    values = np.array(probabilities)
    best = np.array(int(values.argmax()) if top is None else top)
    return Truth(PICTURE, object() if source is None else source, {"probabilities": values, "top": best, "heatmap": heat[None]})


def _compare(engine: Canned, expected: list[Truth]) -> Fidelity:
    return compare(engine, expected, "classify")


def test_the_same_answers_are_perfect() -> None:
    heat = np.random.default_rng(0).random((4, 5))
    figures = _compare(Canned([([0.1, 0.8, 0.1], heat)]), [truth([0.1, 0.8, 0.1], heat)]).figures()
    expected = {"pictures": 1, "probability": 0, "probability_rms": 0, "worst": 1, "agreement": 1, "change": 0, "peak_shift": 0}
    assert figures | expected | dict.fromkeys(("pearson", "spearman", "iou"), 1.0) == figures
    assert figures["agreement_low"] == pytest.approx(0.2065, abs=1e-4) and figures["agreement_high"] == 1  # one picture says little


def test_each_figure_sees_its_own_fault() -> None:
    heat = np.zeros((4, 5))
    heat[1, 1], heat[2, 2] = 2, 1
    moved = np.roll(heat, (1, 2), axis=(0, 1))
    found = _compare(
        Canned([([0.6, 0.3, 0.1], heat), ([0.3, 0.4, 0.3], moved), ([0.2, 0.2, 0.6], heat)]),
        [truth([0.2, 0.7, 0.1], heat), truth([0.4, 0.3, 0.3], heat), truth([0.2, 0.2, 0.6], np.zeros((4, 5)))],
    )
    assert found.pictures == 3
    assert found.means["agreement"].value == pytest.approx(1 / 3)  # the unsure second picture counts, too
    assert found.means["change"].value == pytest.approx((-0.4 - 0.1) / 3)
    assert found.numbers["probability_rms"] == pytest.approx(np.sqrt((0.16 + 0.01) / 3))
    assert found.numbers["probability"] == pytest.approx(0.4)
    assert found.means["peak_shift"].value == pytest.approx(np.hypot(1, 2) / 2)  # the third has no heat to compare
    assert found.numbers["worst"] == pytest.approx(np.corrcoef(heat.ravel(), moved.ravel())[0, 1])
    assert found.means["pearson"].value == pytest.approx((1 + found.numbers["worst"]) / 2)


def test_a_map_without_heat_where_heat_belongs_counts_as_zero() -> None:
    heat = np.eye(4)
    assert _compare(Canned([([0.1, 0.8, 0.1], np.zeros((4, 4)))]), [truth([0.1, 0.8, 0.1], heat)]).means["pearson"].value == 0


def canned(changed: int, count: int, sources: int, *, confidence: float = 0.8, spoilt: float = 0.0) -> Fidelity:
    """Of ``count`` pictures, ``changed`` change their class, the first ones of the first sources."""
    rng, heat = np.random.default_rng(0), np.eye(6)
    answers, expected = [], []
    for number in range(count):
        probabilities = [0.45, 0.45 - 1e-3, 0.1] if number < changed else [1 - confidence - 0.01, confidence, 0.01]
        answers.append((probabilities, heat + spoilt * rng.normal(size=heat.shape)))
        said = [0.1, 0.45, 0.45] if number < changed else [0.19, 0.8, 0.01]
        expected.append(truth(said, heat, source=number * sources // count, top=1))
    return _compare(Canned(answers), expected)


def test_a_file_passes_by_what_is_certain() -> None:
    wanted = INT8
    assert canned(0, 189, 189).misses(wanted) == ""
    assert "of 188 pictures keep their class" in canned(0, 188, 188).misses(wanted)  # perfect, and too few to know
    assert canned(5, 1000, 1000).misses(wanted) == ""
    assert "0.988 (0.979" in canned(12, 1000, 1000).misses(wanted)  # above 0.98, but perhaps not
    assert canned(9, 1000, 1000).misses(wanted) == "" != canned(9, 1000, 20).misses(wanted)  # nine in one frame are no nine chances
    assert "probability changes by -0.04" in canned(0, 300, 300, confidence=0.76).misses(wanted)
    assert "heatmaps correlate by" in canned(0, 300, 300, spoilt=0.1).misses(wanted)


def test_a_moved_peak_is_a_miss() -> None:
    one, other = np.eye(6), np.eye(6)
    one[2, 2] += 1e-3
    other[3, 3] += 1e-3  # the maps are nearly the same, their peaks one cell down and one to the right
    found = _compare(Canned([([0.1, 0.8, 0.1], other)] * 200), [truth([0.1, 0.8, 0.1], one) for _ in range(200)])
    assert "peaks move by 1.414" in found.misses(dict(INT8, agreement=0.9))


def test_what_could_not_be_taken_does_not_fall_short() -> None:
    class Mute(Canned):
        def run(self, image: Any, classes: Any, key_mask: Any = None) -> Mapping[str, Any]:
            return {"heatmap": np.eye(4)[None, None]}

    found = _compare(Mute([]), [truth([0.1, 0.8, 0.1], np.eye(4))] * 300)
    assert found.misses(INT8) == "" and "agreement" not in found.figures()


def test_choosing_goes_by_means() -> None:
    strict = nearer(INT8, "classify", 0.25)
    assert strict == pytest.approx({"agreement": 0.995, "pearson": 0.9925, "change": 0.005, "peak_shift": 0.125})
    few = canned(0, 40, 40)
    assert few.misses(strict) and not few.without_intervals().misses(strict)


@pytest.mark.parametrize(("sources", "each"), [(200, 1), (60, 12), (7, 300)])
def test_no_source_is_in_two_sets(sources: int, each: int) -> None:
    names = [number for number in range(sources) for _ in range(each)]
    sets = split(Pictures([np.zeros((1, 1, 3), np.uint8)] * len(names), names))
    used = [set(part.sources) for part in sets.values()]
    assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
    assert all(0 < len(part) <= MOST[name] for name, part in sets.items())
    judged = sets["judge"].sources
    assert len(judged) == min(MOST["judge"], each * len(used[2])) and abs(len(used[2]) - sources * 4 / 7) <= 2
    if len(judged) == MOST["judge"]:  # every source has its share
        counts = Counter(judged)
        assert max(counts.values()) - min(counts.values()) <= 1


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
        Int8("cpu", {}), dict.fromkeys(names, 10), open_file, [truth([0.1, 0.8, 0.1], heat.reshape(20, 20))], LOOSE, "classify"
    )
    assert numerics.kept == needed and {layer.name for layer in kept} == needed
    assert found.means["pearson"].value > 0.97 and all(layer.share == pytest.approx(1 / 8) and layer.harm > 0.03 for layer in kept)


def test_nothing_is_kept_where_nothing_hurts() -> None:
    heat = np.random.default_rng(0).random((4, 5))
    expected = [truth([0.1, 0.8, 0.1], heat)]
    _, kept, _ = fit(Int8("cpu", {}), {"c": 1}, lambda numerics: Canned([([0.1, 0.8, 0.1], heat)]), expected, LOOSE, "classify")
    assert kept == ()


@pytest.mark.parametrize("kind", ["even", "normal", "exponential", "one far out", "signed"])
def test_ranges_lose_least(kind: str) -> None:
    """Against every other factor, by rounding the samples themselves."""
    rng = np.random.default_rng(0)
    samples = {
        "even": rng.random(50_000),
        "normal": np.abs(rng.normal(0, 1, 50_000)),
        "exponential": rng.exponential(1, 50_000) ** 2,
        "one far out": np.concatenate([np.full(3_000_000, 0.4) * rng.random(3_000_000), [4.0]]),
        "signed": rng.normal(0, 1, 50_000) ** 3,
    }[kind]
    bottom, top = min(0.0, float(samples.min())), float(samples.max())

    counted = samples[samples < 1] if kind == "one far out" else samples  # one in a million may be clipped at any cost

    def error(share: float) -> float:
        step = share * (top - bottom) / 255
        rounded = np.clip(np.rint((counted - share * bottom) / step), 0, 255) * step + share * bottom
        return float((np.abs(rounded - counted) ** POWER).mean())

    low, high = best_range(np.histogram(samples, 2048, (bottom, top))[0], bottom, top)
    assert low == pytest.approx(bottom * high / top)
    assert error(high / top) <= 1.05 * min(error(share) for share in np.linspace(0.02, 1, 50))
    if kind == "one far out":
        assert high < 0.5
