"""Intervals against their definitions and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from dkcam.interval import INTRACLASS, fewest, mean, mean_or_share, needed, share, wilson


@pytest.mark.parametrize(("true", "count", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)])
def test_wilson_as_published(true: int, count: int, low: float, high: float) -> None:
    """The last: Newcombe, Statistics in Medicine 17 (1998), table I."""
    assert wilson(true / count, count) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    alone = share([True] * true + [False] * (count - true), range(count))
    assert (alone.low, alone.high) == wilson(true / count, count)


@pytest.mark.parametrize("least", [0.5, 0.9, 0.98, 0.999])
def test_fewest_is_the_first_that_suffices(least: float) -> None:
    count = fewest(least)
    assert wilson(1.0, count)[0] >= least > wilson(1.0, count - 1)[0]


@pytest.mark.parametrize(("least", "count"), [(0.98, 356.0), (0.98, 1200.0), (0.5, 20.0)])
def test_needed_is_the_share_whose_near_end_is_there(least: float, count: float) -> None:
    assert wilson(needed(least, count), count)[0] == pytest.approx(least, abs=1e-5)
    assert needed(0.98, 100) == 1.0  # so few never show it


def test_values_of_a_group_are_worth_less_than_as_many_independent_ones() -> None:
    tens = [number // 10 for number in range(100)]
    clustered = share([True] * 90 + [False] * 10, tens)
    mixed = share(([True] * 9 + [False]) * 10, tens)
    assert clustered.low < mixed.low < wilson(0.9, 100)[0]
    perfect = share([True] * 1000, [number // 100 for number in range(1000)])
    assert perfect.low < wilson(1.0, 1000 / (1 + 99 * INTRACLASS))[0]
    assert share([True] * 50, [0] * 50).low == 0  # one source shows nothing


@pytest.mark.parametrize(
    ("truth", "alike", "sources", "each"), [(0.9, True, 60, 5), (0.95, True, 100, 10), (0.98, False, 60, 5), (0.9, False, 30, 5)]
)
def test_ends_are_where_they_say(truth: float, alike: bool, sources: int, each: int) -> None:
    """Of 400 data sets, at most 5 % have their near end beyond the true share (nominal: 2.5 %); values of a group alike, or not."""
    rng, beyond = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(sources), each)
    for _ in range(400):
        values = (rng.random(sources) < truth)[groups] if alike else rng.random(len(groups)) < truth
        beyond += share(values.tolist(), groups.tolist()).low > truth
    assert beyond <= 20


def test_yes_or_no_has_a_width_where_all_say_yes_and_measures_have_a_mean() -> None:
    groups = list(range(40))
    all_yes = mean_or_share([1.0] * 40, groups)
    assert all_yes == share([True] * 40, groups) and all_yes.low < 0.95 < all_yes.high == 1
    assert mean_or_share([0.5] * 40, groups) == mean([0.5] * 40, groups)
