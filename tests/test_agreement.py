"""How alike two heatmaps are, against NumPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dkcam.agreement import overlap_of_hottest, peak_shift, pearson, ranks, spearman


def test_pearson_is_numpys() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 7, 7))
    assert pearson(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert pearson(a, np.ones((7, 7))) == 0


def test_ranks_share_ties() -> None:
    assert ranks(np.array([3.0, 0.0, 0.0, 7.0, 3.0, 3.0])).tolist() == [3, 0.5, 0.5, 5, 3, 3]


def test_spearman_sees_order_alone() -> None:
    a = np.random.default_rng(0).random((4, 5))
    assert spearman(a, np.exp(9 * a)) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)


def test_hottest_cells_and_peaks() -> None:
    a, b = np.zeros((2, 5)), np.zeros((2, 5))
    a[0, 0], a[0, 1], b[0, 1], b[1, 4] = 2, 1, 1, 3
    assert overlap_of_hottest(a, b, 0.2) == pytest.approx(1 / 3)
    assert peak_shift(a, b) == pytest.approx(np.hypot(1, 4))
