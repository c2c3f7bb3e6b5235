"""By what a map is judged."""

from __future__ import annotations

import numpy as np
import pytest

from dkcam.export.parity import CEILING, FACTOR, FLOOR, TOLERANCE, Parity, Row, judge
from dkcam.export.reference import Answer

LABELS = ("a", "b", "c", "d")
CLASSES = np.arange(4)


def answer(heatmap: np.ndarray, terms: float = 1.0) -> Answer:
    """heatmap float [K, h, w] of one picture."""
    return Answer({"heatmap": heatmap[None], "explained": CLASSES[None]}, {"heatmap": np.full((1, len(heatmap)), terms)})


def judged(given: np.ndarray, exact: np.ndarray, plain: np.ndarray | None = None, terms: float = 1.0) -> Row:
    torchs = answer(exact if plain is None else plain)
    return judge("heatmap", "plain", {"heatmap": given[None]}, answer(exact, terms), [torchs], CLASSES, LABELS, 0)


def maps() -> np.ndarray:
    return np.random.default_rng(0).random((4, 2, 3)) * np.array([1, 1, 1 / 200, 1])[:, None, None]


def changed(values: np.ndarray, row: int, by: float) -> np.ndarray:
    """One cell of a row moved by this share of the row's maximum."""
    values = values.copy()
    values[row, 0, 0] += by * values[row].max()
    return values


@pytest.mark.parametrize("row", range(4))
def test_each_map_has_its_own_scale(row: int) -> None:
    found = judged(changed(maps(), row, 0.05), maps())
    assert not found.passed and found.label == LABELS[row] and found.maps == 4
    assert found.error == pytest.approx(0.05) and found.largest == maps()[row].max()
    assert judged(changed(maps(), row, 0.9 * TOLERANCE), maps()).passed


def test_a_map_of_zeros_is_judged_by_its_terms() -> None:
    exact = maps()
    exact[1] = 0
    for share, passes in ((0.0, True), (0.9, True), (1.1, False)):
        given = exact.copy()
        given[1, 0, 0] = share * TOLERANCE * FLOOR * 7
        assert judged(given, exact, terms=7).passed is passes


def test_zeros_without_terms_must_be_met_with_zeros() -> None:
    exact = maps()
    exact[1] = 0
    assert judged(exact, exact, terms=0).passed
    given = exact.copy()
    given[1, 0, 0] = 1e-30
    assert not judged(given, exact, terms=0).passed


@pytest.mark.parametrize("torch_error", [0.0, 1e-3, 1.0])
def test_the_limit_follows_torchs_float32_up_to_the_ceiling(torch_error: float) -> None:
    found = judged(changed(maps(), 0, 2e-4), maps(), np.stack([changed(maps(), k, torch_error)[k] for k in range(4)]))
    assert found.float32 == pytest.approx(torch_error) and found.error == pytest.approx(2e-4)
    assert found.limit == pytest.approx(min(max(TOLERANCE, FACTOR * torch_error), CEILING))
    assert found.passed is (torch_error > 0)


def test_luck_on_one_map_is_not_held_against_the_graph() -> None:
    torchs = np.stack([maps()[0], *(changed(maps(), k, 1e-3)[k] for k in range(1, 4))])
    assert judged(changed(maps(), 0, 1e-3), maps(), torchs).passed
    assert not judged(changed(maps(), 0, 1e-2), maps(), torchs).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails(value: float) -> None:
    given = maps()
    given[3, 1, 1] = value
    assert not judged(given, maps()).passed


def test_the_worst_row_of_an_output_is_the_one_nearest_its_limit() -> None:
    rows = tuple(Row("heatmap", kind, 3, "a", 1.0, 1.0, error, 0.0, limit) for kind, error, limit in (("x", 9e-5, 1e-4), ("y", 1e-3, 1e-2)))
    assert [(row.pictures, row.maps) for row in Parity(rows).by_output()] == [("x", 6)]
    assert Parity(rows).worst() == {"heatmap": 1e-3}
