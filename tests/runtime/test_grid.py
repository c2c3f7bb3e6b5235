"""A grid of windows: the same answers as the windows' own, put together in the right place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dkcam
from dkcam.errors import InputError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.rendered import SIGN_NAMES, Drive
from dkcam.runtime.explainer import DEMO_MODEL
from dkcam.runtime.grid import GridExplainer, grid_explainer
from tests.conftest import tiny_checkpoint


def frame(height: int = 200, width: int = 330) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_one_window_is_the_frame(model_file: Path, resize: str) -> None:
    single = dkcam.load(model_file, "cpu", explain=(-1, 2), resize=resize)
    image, grid = frame(), GridExplainer(single, 1, 1)
    wanted, given = single(image), grid(image)
    np.testing.assert_allclose(given.probabilities, wanted.probabilities, rtol=1e-5)
    assert given.top(3) == pytest.approx(wanted.top(3)) or [s.label for s in given.top(3)] == [s.label for s in wanted.top(3)]
    scores = [score.probability for score in wanted.explained_scores()]
    if resize == "stretch":
        np.testing.assert_allclose(given.heatmap, wanted.heatmap * np.array(scores)[:, None, None], rtol=1e-4, atol=1e-7)
    assert given.overlay(image).shape == wanted.overlay(image).shape


def test_windows_cover_the_frame_and_keep_their_scores(tmp_path: Path) -> None:
    path = tmp_path / "batched.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), dynamic=("batch",), batch=(1, 4)), check=False).data)
    single, image = dkcam.load(path, "cpu"), frame()
    grid = GridExplainer(single, 2, 3, "no sign")
    tiles = grid.prepare(image)
    (high, wide), covered = tiles.size, np.zeros((200, 330), int)
    own = []
    for top, left in tiles.places:
        covered[top : top + high, left : left + wide] += 1
        own.append(single(np.ascontiguousarray(image[top : top + high, left : left + wide])).probabilities)
    assert covered.min() >= 1 and len(own) == 6
    expected = np.max(own, axis=0)
    expected[0] = np.min(own, axis=0)[0]
    np.testing.assert_allclose(grid(image).probabilities, expected / expected.sum(), rtol=1e-4)


def test_small_signs_are_found_where_they_are() -> None:
    """Rendered signs of 4 to 8 % of the frame's height: too small for the demo model when the whole frame is shrunk."""
    single = dkcam.load(DEMO_MODEL, "cpu")
    grid = grid_explainer(single, (2, 3), "no sign")
    shown = alone = found = hits = 0
    for image, boxes in list(Drive(frames=300))[::6]:
        height, width = image.shape[:2]
        signs = [box for box in boxes if box.label in SIGN_NAMES and box.left > 0 and box.right < width]
        nearest = max(signs, key=lambda box: box.bottom - box.top, default=None)
        if nearest is None or not 0.04 < (nearest.bottom - nearest.top) / height < 0.08:
            continue
        said = grid(image)
        shown += 1
        alone += single(image).top()[0].label == nearest.label
        if said.top()[0].label == nearest.label:
            found += 1
            x, y = said.peak() or (0.0, 0.0)
            slack = 0.06
            across = nearest.left / width - slack <= x <= nearest.right / width + slack
            hits += across and nearest.top / height - slack <= y <= nearest.bottom / height + slack
    assert shown >= 8 and found >= 0.9 * shown and alone < 0.7 * found and hits >= 0.8 * found


def test_what_a_grid_needs(model_file: Path, tmp_path: Path) -> None:
    single = dkcam.load(model_file, "cpu")
    with pytest.raises(InputError, match="--background no such: expected one of the model's classes"):
        grid_explainer(single, (1, 2), "no such")
    with pytest.raises(InputError, match="--background is about grids"):
        grid_explainer(single, None, "no sign")
    assert grid_explainer(single, None, None) is single
    with pytest.raises(InputError, match="expected uint8"):
        GridExplainer(single, 1, 2).prepare(np.zeros((4, 4), np.uint8))
