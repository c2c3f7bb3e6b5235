"""Figures about heatmaps, against cases worked by hand and brute force."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from dkcam.cells import Area, pointing
from dkcam.interval import mean
from dkcam.tools.metrics.causal import deletion, insertion
from dkcam.tools.metrics.place import (
    area_share,
    centred_gaussian,
    centroid,
    energy,
    energy_ratio,
    entropy,
    heat_in,
    iou,
)
from dkcam.tools.metrics.temporal import jitter

SPOT = np.zeros((4, 6))
SPOT[1, 4] = 2.0  # its centre is at x 4.5, y 1.5


def test_pointing_takes_the_hottest_cells_centre() -> None:
    assert pointing(SPOT, Area(4.2, 1.2, 4.8, 1.8), tolerance=0) == 1
    assert pointing(SPOT, Area(4.6, 1.0, 6, 2.0), tolerance=0) == 0
    assert pointing(SPOT, Area(4.6, 1.0, 6, 2.0), tolerance=0.1) == 1
    assert pointing(SPOT, Area(0, 0, 1, 1), Area(4.6, 1.0, 6, 2.0)) == 1
    assert pointing(np.zeros((4, 6)), Area(0, 0, 6, 4)) == 0


def test_equally_hot_cells_count_by_their_share() -> None:
    heat = np.zeros((4, 6))
    heat[1, 2] = heat[1, 3] = 1
    assert pointing(heat, Area(2.2, 1.2, 2.8, 1.8), tolerance=0) == 0.5
    gaussian = centred_gaussian(6, 10)
    assert (gaussian == gaussian.max()).sum() == 4 and pointing(gaussian, Area(4.2, 2.2, 4.8, 2.8), tolerance=0) == 0.25


def test_energy_of_one_spot_by_hand() -> None:
    # linear between centres: the spot is a pyramid of base 2 x 2 around (4.5, 1.5), volume 2
    assert energy(SPOT, Area(3.5, 0.5, 5.5, 2.5)) == pytest.approx(1)
    assert energy(SPOT, Area(4.5, 0, 6, 4)) == pytest.approx(0.5)
    assert energy(SPOT, Area(4.5, 1.5, 5.5, 2.5)) == pytest.approx(0.25)
    assert energy(SPOT, Area(4.0, 1.0, 5.0, 2.0)) == pytest.approx(0.75**2)  # each axis: 1 - 2 * (0.5**2 / 2)
    assert energy(SPOT, Area(0, 0, 3.5, 4)) == pytest.approx(0)
    assert energy(SPOT, Area(-5, -5, 20, 20)) == pytest.approx(1)
    assert energy(np.zeros((4, 6)), Area(0, 0, 6, 4)) == 0


def test_energy_at_the_rim_is_flat() -> None:
    corner = np.zeros((3, 3))
    corner[0, 0] = 1
    # each axis: 1 over 0..0.5, then down to 0 at 1.5: volume 0.5 + 0.5
    assert energy(corner, Area(0, 0, 0.5, 3)) == pytest.approx(0.5)
    assert energy(corner, Area(0, 0, 0.5, 0.5)) == pytest.approx(0.25)
    right = corner[::-1, ::-1]
    assert energy(right, Area(2.5, 0, 3, 3)) == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 6), (7, 7)])
def test_energy_is_the_drawn_maps(shape: tuple[int, int]) -> None:
    """Against the enlarged map, as OpenCV interpolates it."""
    rng = np.random.default_rng(0)
    heat, fine = rng.random(shape).astype(np.float32), 64
    large = cv2.resize(heat, (shape[1] * fine, shape[0] * fine), interpolation=cv2.INTER_LINEAR)
    for _ in range(10):
        (x0, x1), (y0, y1) = (np.sort(rng.integers(0, side * fine + 1, 2)) for side in (shape[1], shape[0]))
        area = Area(x0 / fine, y0 / fine, x1 / fine, y1 / fine)
        assert energy(heat, area) == pytest.approx(large[y0:y1, x0:x1].sum() / large.sum(), abs=2e-4)
        mask = np.zeros(large.shape, bool)
        mask[y0:y1, x0:x1] = True
        assert heat_in(heat, mask) == pytest.approx(energy(heat, area), abs=2e-4)


def test_heat_and_area_where_boxes_overlap_count_once() -> None:
    heat, fine = np.random.default_rng(1).random((4, 6)), 32
    boxes = [Area(1, 0.5, 3.5, 2.5), Area(2, 1, 5, 3.25), Area(-1, 3, 1.25, 9)]
    mask = np.zeros((4 * fine, 6 * fine), bool)
    for box in (b.within(4, 6) for b in boxes):
        mask[round(box.top * fine) : round(box.bottom * fine), round(box.left * fine) : round(box.right * fine)] = True
    assert energy(heat, *boxes) == pytest.approx(heat_in(heat, mask), abs=1e-3)
    assert area_share((4, 6), *boxes) == pytest.approx(mask.mean())
    assert energy_ratio(heat, *boxes, shown=Area(0, 1, 6, 3)) == pytest.approx(energy(heat, *boxes) / (mask.mean() * 2))


def test_even_heat_has_the_areas_share() -> None:
    even, area = np.ones((5, 8)), Area(1.25, 0.5, 4.0, 3.75)
    assert energy(even, area) == pytest.approx(area_share(even.shape, area)) == pytest.approx(2.75 * 3.25 / 40)
    assert energy_ratio(even, area) == pytest.approx(1)
    assert energy_ratio(SPOT, Area(3.5, 0.5, 5.5, 2.5)) == pytest.approx(6)
    assert energy_ratio(SPOT, Area(9, 9, 12, 12)) == 0


def test_iou_of_a_map_that_is_the_area() -> None:
    heat = np.zeros((10, 10))
    heat[2:4, 3:8] = 1  # 10 of 100 cells
    assert iou(heat, Area(3, 2, 8, 4), quantile=0.9) > 0.9
    assert iou(heat, Area(0, 5, 5, 10), quantile=0.9) == 0
    assert iou(np.zeros((4, 6)), Area(0, 0, 6, 4)) == 0


def test_entropy() -> None:
    assert entropy(SPOT) == 0 and entropy(np.ones((4, 6))) == pytest.approx(1) and entropy(np.zeros((4, 6))) == 1
    half = np.zeros((4, 4))
    half[:2] = 1
    assert entropy(half) == pytest.approx(math.log(8) / math.log(16))


def test_jitter_subtracts_the_objects_motion() -> None:
    points = [(0.1, 0.1), (0.2, 0.1), (0.3, 0.1)]
    assert jitter(points) == pytest.approx(0.1)
    assert jitter(points, points) == pytest.approx(0)
    assert jitter(points, [(0.5, 0.5)] * 3) == pytest.approx(0.1)
    assert jitter([(0, 0), None, (1, 1), (1, 1.5)]) == pytest.approx(0.5)
    assert math.isnan(jitter([(0, 0), None, (1, 1)])) and math.isnan(jitter(points, [(0, 0), None, (1, 1)]))


def test_centroid() -> None:
    assert centroid(SPOT) == pytest.approx((4.5 / 6, 1.5 / 4)) and centroid(np.zeros((2, 2))) is None


def test_deletion_and_insertion_of_a_model_that_reads_one_corner() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:8, :8] = 255

    def score(pictures: list[np.ndarray]) -> np.ndarray:
        return np.array([each[:8, :8].mean() / 255 for each in pictures])

    right, wrong = np.zeros((4, 4)), np.zeros((4, 4))
    right[0, 0] = wrong[3, 3] = 1
    assert deletion(picture, right, score) < deletion(picture, wrong, score)
    assert insertion(picture, right, score) > insertion(picture, wrong, score)
    half = [1.0, 0.5, 0.0]
    assert deletion(picture, right, lambda pictures: np.array(half), 2) == pytest.approx(0.5)


def test_means_and_intervals() -> None:
    rng = np.random.default_rng(0)
    values = list(rng.normal(3, 1, 400))
    found = mean(values)
    assert found.value == pytest.approx(np.mean(values)) and found.count == 400
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    grouped = mean([value for value in values for _ in range(9)], [i for i in range(400) for _ in range(9)])
    assert grouped.high - grouped.low == pytest.approx(found.high - found.low, rel=0.15)  # copies are no new evidence
    assert mean([math.nan, 2.0]).count == 1 and math.isnan(mean([]).value) and str(mean([])) == "–"
    assert mean([1.0, 1.0]).low == mean([1.0, 1.0]).high == 1
