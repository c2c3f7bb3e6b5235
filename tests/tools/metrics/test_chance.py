"""The control beside each figure is what the measure gives a map that knows nothing: against maps drawn at random."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dkcam.cells import Area, pointing
from dkcam.rendered import Box
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import Fit
from dkcam.tools.checks.measure import CONTROLS, PLACES, Record, _record, places
from dkcam.tools.checks.rules import DEFAULT
from dkcam.tools.checks.samples import Sample
from dkcam.tools.metrics.place import area_share, centred_gaussian, chance, energy, energy_ratio, iou
from tests.marks import slow, some

SHAPES = [(6, 10), (7, 7), (12, 20), (24, 40), (5, 3)]  # layer4, squares, layer3, a grid of windows
SIDES = (0.06, 0.15, 0.3, 0.7)  # of the box, share of the picture
MAPS = 400


def areas_of(shape: tuple[int, int], side: float, rng: np.random.Generator) -> list[Area]:
    """Boxes anywhere in the picture, the first at its rim."""
    found = []
    for number in range(3):
        high, wide = shape[0] * side, shape[1] * side
        top, left = rng.uniform(0, shape[0] - high), rng.uniform(0, shape[1] - wide) * (number > 0)
        found.append(Area(left, top, left + wide, top + high))
    return found


def blob(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A heatmap as models give them: one warm place and noise."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    at = rng.random(2) * shape
    return np.exp(-((y + 0.5 - at[0]) ** 2 + (x + 0.5 - at[1]) ** 2) / 3) + 0.1 * rng.random(shape)


@pytest.mark.parametrize(("shape", "side"), [(shape, SIDES[(n + more) % 4]) for n, shape in enumerate(SHAPES) for more in (0, 2)])
def test_no_control_is_below_what_random_maps_reach(shape: tuple[int, int], side: float) -> None:
    """Uniformly random maps have their peak anywhere and heat everywhere; each measure's chance is its mean over them."""
    rng = np.random.default_rng(1)
    for count, area in enumerate(areas_of(shape, side, rng)):
        areas = [area, Area(area.left + 0.4, area.top, area.right + 0.7, area.bottom)][: 1 + (count == 2)]
        expected = chance(blob(shape, rng), *areas)
        maps = [rng.random(shape) for _ in range(MAPS)]
        for name, measure in (("pointing", pointing), ("energy", energy), ("energy_ratio", energy_ratio)):
            values = np.array([measure(heat, *areas) for heat in maps])
            margin = 4 * max(values.std(), 1e-6, 0.5 / math.sqrt(MAPS) if name == "pointing" else 0) / math.sqrt(MAPS)
            assert expected[name] == pytest.approx(values.mean(), abs=margin), (name, areas)


def test_the_plain_area_is_too_low_for_pointing() -> None:
    """The bar that stood here before: a box of 58 x 58 pixels in 1280 x 720 is 0.4 % of it, yet four of 60 peaks count as hits."""
    box = Box("stop", 640 - 29, 360 - 29, 640 + 29, 360 + 29)
    area = Fit(720, 1280, 192, 320).area(box, (6, 10))
    assert area_share((6, 10), area) < 0.004 and chance(np.ones((6, 10)), area)["pointing"] == pytest.approx(4 / 60)


@pytest.mark.parametrize(("shape",), some([(shape,) for shape in SHAPES], [(shape,) for shape in SHAPES if shape != (24, 40)]))
def test_the_chance_of_iou_is_of_the_same_map_at_any_place(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    found, everywhere, plain = [], [], []
    for area in areas_of(shape, 0.3, rng) + areas_of(shape, 0.15, rng):
        heat = blob(shape, rng)
        found.append(chance(heat, area)["iou"])
        places = rng.permutation(shape[0] * shape[1])[:200]
        everywhere.append(np.mean([iou(np.roll(heat, divmod(int(at), shape[1]), (0, 1)), area) for at in places]))
        share = area_share(shape, area)
        plain.append(share / (share + 0.2 - 0.2 * share))
    assert np.mean(found) == pytest.approx(np.mean(everywhere), rel=0.1)
    # the expected overlap over the expected union, which stood here before, is no mean of the measure
    assert abs(np.mean(plain) - np.mean(everywhere)) > 0.1 * np.mean(everywhere)


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
def test_chance_is_of_the_picture_and_not_of_its_borders(mode: str) -> None:
    """A peak on a letterbox's grey bars would be a model that looks at nothing; chance leaves them out, and so does the ratio."""
    rng, shape, fit = np.random.default_rng(3), (10, 10), Fit(540, 960, 320, 320, mode)
    area, shown = fit.area(Box("stop", 420, 200, 560, 330), shape), fit.shown(shape)
    expected = chance(np.ones(shape), area, shown=shown)
    y = np.arange(10)[:, None] + 0.5
    seen = np.broadcast_to((y >= shown.top) & (y <= shown.bottom), shape)
    assert seen.all() == (mode != "letterbox")
    peaks = [(i, j) for i in range(10) for j in range(10) if seen[i, j]]
    hit = np.mean([area.left - 0.5 <= j + 0.5 <= area.right + 0.5 and area.top - 0.5 <= i + 0.5 <= area.bottom + 0.5 for i, j in peaks])
    assert expected["pointing"] == pytest.approx(hit)
    ratios = [energy_ratio(rng.random(shape) * seen, area, shown=shown) for _ in range(MAPS)]
    assert expected["energy_ratio"] == pytest.approx(np.mean(ratios), abs=0.03)
    assert expected["energy_ratio"] == pytest.approx(1, abs=0.12)  # interpolation carries a little heat over the rim


def noise(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def record(shape: tuple[int, int], box: Box, image: np.ndarray, rng: np.random.Generator, wrong: np.ndarray) -> Record:
    height, width = image.shape[:2]
    sample = Sample(image, "p.jpg", None, "stop", 1, (box,), (height, width))
    heat = blob(shape, rng).astype(np.float32)
    fit = Fit(height, width, 32 * shape[0], 32 * shape[1])
    said = Explanation(("no sign", "stop"), np.array([0.1, 0.9], np.float32), np.array([1]), heat[None], None, fit, "cpu")
    return _record(sample, said, heat, wrong, DEFAULT)


def test_every_control_of_a_check_has_every_measure_and_is_that_measure() -> None:
    rng = np.random.default_rng(4)
    image = noise((192, 320), rng)
    box, wrong = Box("stop", 100, 60, 140, 100), rng.random((6, 10))
    found = record((6, 10), box, image, rng, wrong)
    assert set(found.controls) == set(CONTROLS) - {"another box"}  # which only detections have
    assert all(set(values) == set(PLACES) for values in found.controls.values())
    area, shown = found.fit.area(box, (6, 10)), Area(0, 0, 10, 6)
    assert found.controls["wrong class"] == places(wrong, [area], shown)
    assert found.controls["centred Gaussian"] == places(centred_gaussian(6, 10), [area], shown)
    assert found.controls["chance"] == chance(found.heatmap, area)


@slow
def test_controls_without_knowledge_stay_at_chance() -> None:
    """Pictures of noise, wrong-class maps of noise: neither control may lie below chance, since both look anywhere; the Gaussian's
    four equal middle cells count as peaks in turn, as a map that differs from it by nothing measurable would have them."""
    rng, shape = np.random.default_rng(5), (6, 10)
    size = 32 * shape[0], 32 * shape[1]
    boxes = [Box("stop", left, top, left + 50, top + 50) for left, top in ((40, 40), (130, 70), (size[1] // 2 - 20, size[0] // 2 - 20))]
    for box in boxes:
        found = [record(shape, box, noise(size, rng), rng, rng.random(shape)) for _ in range(80)]
        for name in ("edges", "wrong class"):
            reached = np.array([each.controls[name]["pointing"] for each in found])
            chance_of = found[0].controls["chance"]["pointing"]
            assert reached.mean() >= chance_of - 4 * max(reached.std(), 0.1) / math.sqrt(len(reached)), (name, box)
        gaussian = centred_gaussian(*shape)
        area = found[0].fit.area(box, shape)
        shaken = np.mean([pointing(gaussian + 1e-9 * rng.random(shape), area) for _ in range(400)])
        assert found[0].controls["centred Gaussian"]["pointing"] == pytest.approx(shaken, abs=0.12)
