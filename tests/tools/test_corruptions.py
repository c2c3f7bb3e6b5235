from __future__ import annotations

import numpy as np
import pytest

from dkcam.tools import corruptions as c


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 190, (40, 60, 3), dtype=np.uint8)


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def test_noise_has_its_variance() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = c.noise(grey, 0.01, rng()) / 255
    assert noisy.var() == pytest.approx(0.01, rel=0.02) and np.array_equal(c.noise(grey, 0.01, rng()), c.noise(grey, 0.01, rng()))
    stretched = c.noise(grey, 1.5, rng(), "minmax")
    assert stretched.min() == 0 and stretched.max() == 255 and (c.noise(grey, 1.5, rng()) == 0).mean() > 0.3


def test_nothing_changes_at_no_strength() -> None:
    for changed in (
        c.noise(picture(), 0, rng()),
        c.contrast(picture(), 1, rng()),
        c.brightness(picture(), 1, rng()),
        c.blur(picture(), 0, rng()),
    ):
        np.testing.assert_array_equal(changed, picture())
    np.testing.assert_array_equal(c.stretch(picture(), 1, rng()), picture())
    np.testing.assert_array_equal(c.rotation(picture(), 0, rng()), picture())


def test_contrast_and_rotation() -> None:
    assert c.contrast(picture(), 0.25, rng()).std() == pytest.approx(picture().std() / 4, rel=0.05)
    np.testing.assert_array_equal(c.rotation(picture(), 180, rng())[1:, 1:], picture()[::-1, ::-1][:-1, :-1])


@pytest.mark.parametrize("text", ["noise 0.1", "contrast 0.5", "brightness 2", "blur 1.5", "rotation -30", "stretch 3"])
def test_words_become_functions(text: str) -> None:
    changed = c.parse_corruption(text)(picture(), rng())
    assert changed.shape == (40, 60, 3) and changed.dtype == np.uint8 and not np.array_equal(changed, picture())
