from __future__ import annotations

import cv2
import numpy as np
import pytest

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
