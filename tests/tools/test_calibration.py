"""What ``--calibration`` names, as the network sees it in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from msgspec.structs import replace

import dkcam
from dkcam.errors import ExportError
from dkcam.export.exporter import make_spec
from dkcam.export.options import ExportOptions
from dkcam.runtime.grid import GridExplainer
from dkcam.spec import ModelSpec
from dkcam.tools.calibration import read_calibration
from tests.conftest import tiny_checkpoint

SPEC = make_spec(tiny_checkpoint(), ExportOptions(size=(64, 96)))


def picture(height: int = 120, width: int = 200, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(seed=number))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_pictures_reach_the_network_as_frames_do(folder: Path, model_file: Path, resize: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_calibration(folder, replace(SPEC, input=replace(SPEC.input, resize=resize)))
    assert "1 pictures are left out" in capsys.readouterr().err
    explainer = dkcam.load(model_file, device="cpu", resize=resize)
    assert len(found) == 3 and len(set(found.sources)) == 3 and not found.rendered
    for number, image in enumerate(found.images):
        np.testing.assert_array_equal(image, explainer.inputs(picture(seed=number))[0])


def test_a_grid_gives_the_windows_that_a_run_looks_through(folder: Path, model_file: Path) -> None:
    found = read_calibration(folder, SPEC, grid=(2, 3))
    grid = GridExplainer(dkcam.load(model_file, device="cpu"), 2, 3)
    assert len(found) == 18 and [found.sources.count(source) for source in dict.fromkeys(found.sources)] == [6, 6, 6]
    np.testing.assert_array_equal(np.stack(found.images[:6]), grid.inputs(picture(seed=0)))


def test_windows_of_a_data_set_show_every_object_at_several_places(tmp_path: Path) -> None:
    rows = ["file,x1,y1,x2,y2,class_name"]
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(400, 600, number))
        rows += [f"{number}.png,100,100,140,140,cattle", f"{number}.png,400,250,440,290,no such class"]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    found = read_calibration(tmp_path, SPEC, windows=True)
    assert len(found) > 4 * 2 * 8 and len(set(found.sources)) == 4
    assert {image.shape for image in found.images} == {(64, 96, 3)}
    assert len({image.tobytes() for image in found.images}) == len(found)
    whole = read_calibration(tmp_path, SPEC)
    assert len(whole) == 4


def test_frames_of_one_second_are_one_source(clip: Callable[..., Path]) -> None:
    found = read_calibration(clip(frames=25, height=64, width=96), SPEC)  # at 10 frames a second
    assert len(found) == 25 and [found.sources.count(source) for source in dict.fromkeys(found.sources)] == [10, 10, 5]


def test_many_pictures_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dkcam.tools import calibration

    monkeypatch.setattr(calibration, "MOST", 4)
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(seed=number))
    assert [Path(str(source)).stem for source in read_calibration(tmp_path, SPEC).sources] == ["0", "2", "5", "7"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nothing", {}, "does not exist; expected pictures, a video, or a data set"),
        ("empty", {}, "holds no picture"),
        ("names.txt", {}, "it is a text"),
        ("broken.png", {}, "holds no readable picture"),
        ("empty", {"windows": True}, "--calibration"),
        ("labels.json", {}, "--calibration"),
        ("0.png", {"windows": True}, "is no labels file"),
    ],
)
def test_what_cannot_be_read_is_said(folder: Path, name: str, options: dict[str, bool], words: str) -> None:
    (folder / "empty").mkdir()
    (folder / "labels.json").write_text("{")
    (folder / "names.txt").write_text("stop\nyield\n" * 20)
    spec: ModelSpec = SPEC
    with pytest.raises(ExportError, match=words):
        read_calibration(folder / name, spec, **options)  # type: ignore[arg-type]
