from __future__ import annotations

import cv2
import numpy as np
import pytest

from dkcam.cells import hits, pointing
from dkcam.rendered import Box
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import Fit
from dkcam.runtime.kernels import network_input

FRAMES = [(540, 960), (720, 1280), (33, 77), (500, 100), (1, 1)]


@pytest.mark.parametrize("frame", FRAMES)
def test_stretch_spreads_as_opencv_does(frame: tuple[int, int]) -> None:
    heat = np.random.default_rng(0).random((6, 10), dtype=np.float32)
    given = Fit(*frame, 192, 320).spread(heat)
    expected = cv2.resize(heat, frame[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(given, expected, atol=2e-5)


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("frame", [(540, 960), (500, 300), (77, 400)])
def test_a_spot_in_the_frame_comes_back_to_its_place(mode: str, frame: tuple[int, int]) -> None:
    """A bright spot is resized into the input, 'explained' by its own brightness, and mapped back."""
    height, width = frame
    spot = (height * 0.45, width * 0.55)
    y, x = np.mgrid[0:height, 0:width]
    picture = np.exp(-((y + 0.5 - spot[0]) ** 2 + (x + 0.5 - spot[1]) ** 2) / (2 * (0.06 * min(frame)) ** 2))
    fit = Fit(height, width, 192, 320, mode)
    shown = network_input(np.repeat((255 * picture).astype(np.uint8)[..., None], 3, axis=2), fit)
    assert shown.shape == (192, 320, 3)
    heat = shown[..., 0].astype(np.float32)
    if mode == "letterbox":
        heat[heat == 114] = 0
    back = fit.spread(heat)
    row, column = np.unravel_index(int(back.argmax()), back.shape)
    tolerance = 1.5 / min(fit.scale) + 1
    assert abs(row + 0.5 - spot[0]) <= tolerance and abs(column + 0.5 - spot[1]) <= tolerance


@pytest.mark.parametrize(
    ("mode", "cell", "expected"),
    [
        # 320x320 over 540x960, cells of 32: the frame is 180 input pixels tall, with bars of 70 above and below
        ("letterbox", (5, 2), (80 / 320, 106 / 180)),
        ("letterbox", (3, 9), (304 / 320, 42 / 180)),
        ("letterbox", (0, 4), (144 / 320, 0)),  # on the upper bar: the frame's rim
        # the frame is 569 input pixels wide, 125 of them cut on the left
        ("crop", (5, 2), ((80 + 125) / 569, 176 / 320)),
        ("crop", (1, 1), ((48 + 125) / 569, 48 / 320)),
        ("stretch", (5, 2), (80 / 320, 176 / 320)),
    ],
)
def test_a_peak_is_where_the_frame_shows_it(mode: str, cell: tuple[int, int], expected: tuple[float, float]) -> None:
    heat = np.zeros((1, 10, 10), np.float32)
    heat[0, cell[0], cell[1]] = 1
    fit = Fit(540, 960, 320, 320, mode)
    said = Explanation(("a",), np.ones(1, np.float32), np.zeros(1, np.int64), heat, None, fit, "cpu")
    found = said.peak()
    assert found == pytest.approx(expected, abs=1e-3)
    # and where the overlay is hottest there
    if 0 < found[1] < 1:
        spread = fit.spread(heat[0])
        row, column = np.unravel_index(int(spread.argmax()), spread.shape)
        assert (column + 0.5) / 960 == pytest.approx(found[0], abs=0.02) and (row + 0.5) / 540 == pytest.approx(found[1], abs=0.02)
    assert Explanation(("a",), np.ones(1, np.float32), np.zeros(1, np.int64), 0 * heat, None, fit, "cpu").peak() is None


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
def test_areas_and_cells_are_the_peaks(mode: str) -> None:
    """A box around a peak's place in the frame holds that peak's cell."""
    fit, shape = Fit(540, 960, 192, 320, mode), (6, 10)
    for row, column in ((2, 3), (3, 8), (4, 1)):
        heat = np.zeros(shape, np.float32)
        heat[row, column] = 1
        x, y = (share * side for share, side in zip(fit.peak(heat) or (0, 0), (960, 540), strict=True))
        down, across = fit.cell(shape)
        area = fit.area(Box("stop", x - across / 2, y - down / 2, x + across / 2, y + down / 2), shape)
        assert (area.left, area.top, area.right, area.bottom) == pytest.approx((column, row, column + 1, row + 1), abs=1e-6)
        assert pointing(heat, area, tolerance=0) == 1 and hits(shape, area, tolerance=-0.01).sum() == 1


def test_letterbox_keeps_the_aspect_and_crop_fills() -> None:
    letterbox, crop = Fit(540, 960, 192, 192, "letterbox"), Fit(540, 960, 192, 192, "crop")
    assert letterbox.content == (108, 192) and letterbox.offset == (42, 0)
    assert crop.content == (192, 341) and crop.offset == (0, -75)
    assert letterbox.to_frame(96, 96) == pytest.approx((480, 270))


def test_crop_leaves_unseen_parts_cold() -> None:
    spread = Fit(100, 400, 64, 64, "crop").spread(np.ones((2, 2), np.float32))
    assert spread[:, 200].min() == 1 and spread[:, :140].max() == 0 and spread[:, 260:].max() == 0


def test_input_is_rgb() -> None:
    blue = np.zeros((10, 10, 3), np.uint8)
    blue[..., 0] = 255
    assert network_input(blue, Fit(10, 10, 32, 32))[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("frame", [(1, 1), (1, 20000), (20000, 1), (3, 7)])
def test_odd_shapes_pass(mode: str, frame: tuple[int, int]) -> None:
    fit = Fit(*frame, 64, 96, mode)
    assert network_input(np.full((*frame, 3), 9, np.uint8), fit).shape == (64, 96, 3)
    assert fit.spread(np.ones((2, 3), np.float32)).shape == frame
