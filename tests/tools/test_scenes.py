from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dkcam.errors import DataError
from dkcam.rendered import SIGN_NAMES, Drive, draw_sign
from dkcam.tools.scenes import Examples, SignSize, open_examples
from dkcam.tools.scenes.composed import ComposedScenes, overlap

SIZE = SignSize(16, 60)


def check_examples(examples: Examples) -> None:
    seen = set()
    for number in range(60):
        for draw in (examples.training, examples.validation):
            first = draw(np.random.default_rng(number), 96, 160, SIZE)
            again = draw(np.random.default_rng(number), 96, 160, SIZE)
            assert first.picture.shape == (96, 160, 3) and first.picture.dtype == np.uint8
            np.testing.assert_array_equal(first.picture, again.picture)
            seen.add(first.label)
            if first.label == 0:
                assert first.box is None
            else:
                assert first.box is not None and first.box.label == examples.labels[first.label]
                assert overlap(first.box, 0, 0, 160, 96) > 0.9
                assert 10 <= first.box.right - first.box.left <= 80
    assert len(seen) >= 8


def test_rendered_scenes_are_seeded_and_their_boxes_lie_inside() -> None:
    check_examples(open_examples("rendered:"))


def test_composed_scenes_are_seeded_and_their_boxes_lie_inside(composed: ComposedScenes) -> None:
    check_examples(composed)


@pytest.fixture(scope="module")
def composed(data: Path) -> ComposedScenes:
    return ComposedScenes(data)


def test_training_and_validation_share_no_frame(composed: ComposedScenes) -> None:
    names = {split: {frame.name for frame in frames} for split, frames in composed.frames.items()}
    assert names["train"] and names["val"] and not names["train"] & names["val"]


def test_windows_show_their_sign_where_the_frame_has_it(composed: ComposedScenes) -> None:
    """The window's box, cut out, is the frame's box, cut out."""
    frame = next(f for f in composed.frames["val"] if len(f.boxes) == 1 and f.boxes[0].label)
    (target,) = frame.boxes
    example = composed.sign_of([(frame, target)], np.random.default_rng(0), 0, 192, 320, SIZE)
    assert example.box is not None
    box = [round(v) for v in (example.box.left, example.box.top, example.box.right, example.box.bottom)]
    there = example.picture[max(box[1], 0) : box[3], max(box[0], 0) : box[2]]
    here = frame.picture[int(target.top) : int(target.bottom), int(target.left) : int(target.right)]
    here = cv2.resize(here, there.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.8


def test_the_drives_boxes_hold_the_signs_colours() -> None:
    """Painting the sign changes the frame inside its box, and not elsewhere (but for the post below)."""
    frames = list(Drive(frames=24, height=360, width=640))
    picture, boxes = frames[0]
    sign = max((b for b in boxes if b.label in SIGN_NAMES), key=lambda b: b.right - b.left)
    assert sign.right - sign.left > 20
    inside = picture[int(sign.top) : int(sign.bottom), int(sign.left) : int(sign.right)].astype(int)
    around = picture[int(sign.top) : int(sign.bottom), int(sign.right) + 5 : int(sign.right) + 40].astype(int)
    assert inside.std(axis=(0, 1)).mean() > 1.5 * around.std(axis=(0, 1)).mean()


@pytest.mark.parametrize("name", SIGN_NAMES)
def test_signs_fill_their_square_and_differ(name: str) -> None:
    signs = {other: draw_sign(other, np.random.default_rng(0), 64) for other in SIGN_NAMES}
    cover = signs[name][..., 3] > 128
    assert cover.any(axis=0).mean() > 0.9 and cover.any(axis=1).mean() > 0.8
    assert all(np.abs(signs[name].astype(int) - other.astype(int)).mean() > 4 for key, other in signs.items() if key != name)


def test_folders_of_pictures_are_read_by_class(tmp_path: Path) -> None:
    for label, level in (("dark", 20), ("light", 220)):
        (tmp_path / label).mkdir()
        for number in range(6):
            cv2.imwrite(str(tmp_path / label / f"{number}.png"), np.full((20, 30, 3), level, np.uint8))
    examples = open_examples(str(tmp_path))
    assert examples.labels == ("dark", "light")
    for number in range(8):
        example = examples.validation(np.random.default_rng(number), 32, 64, SIZE)
        assert example.picture.shape == (32, 64, 3) and int(example.picture.mean()) == (20, 220)[example.label]


def test_unusable_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder; expected rendered:"):
        open_examples(str(tmp_path / "none"))
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="holds 1 folders; expected one folder of pictures per class"):
        open_examples(str(tmp_path))
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="holds 0 pictures"):
        open_examples(str(tmp_path))
