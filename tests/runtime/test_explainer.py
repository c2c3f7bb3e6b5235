from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dkcam
from dkcam.errors import InputError, ModelFileError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.runtime.explainer import class_number
from dkcam.runtime.grid import GridExplainer
from tests.conftest import LABELS, tiny_checkpoint
from tests.specs import model_spec


def frame(height: int = 120, width: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_frame_becomes_an_explanation(model_file: Path) -> None:
    explainer = dkcam.load(model_file, explain=["Stop", -1])
    said = explainer(frame())
    assert said.heatmap.shape == (2, 2, 3) and said.heatmap.dtype == np.float32
    assert said.explained_scores()[0].label == "stop"
    top = said.top(3)
    assert [s.index for s in top] == np.argsort(-said.probabilities)[:3].tolist() and top[0].label == LABELS[top[0].index]
    assert said.explained[1] == top[0].index


def test_the_peak_is_the_hottest_cell_in_frame_coordinates(model_file: Path) -> None:
    said = dkcam.load(model_file)(frame())
    row, column = np.unravel_index(int(said.heatmap[0].argmax()), (2, 3))
    assert said.peak() == pytest.approx(((column + 0.5) / 3, (row + 0.5) / 2))


def test_masks_come_from_a_seed(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), samples=4, mask_ratio=0.5), check=False).data)
    maps = [dkcam.load(path, seed=seed)(frame()) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0].heatmap, maps[1].heatmap)
    assert not np.array_equal(maps[0].heatmap, maps[2].heatmap)
    assert maps[0].heatmap_std is not None and maps[0].heatmap_std.shape == (1, 2, 3)


def test_tensor_input_gives_the_same_as_frames(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), input="tensor"), check=False).data)
    np.testing.assert_allclose(dkcam.load(path)(frame()).heatmap, dkcam.load(model_file)(frame()).heatmap, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint16), np.zeros((0, 4, 3), np.uint8), None]
)
def test_other_arrays_are_refused(model_file: Path, bad: object) -> None:
    with pytest.raises(InputError, match="expected"):
        dkcam.load(model_file)(bad)  # type: ignore[arg-type]


def test_unknown_labels_name_near_ones(model_file: Path) -> None:
    with pytest.raises(InputError, match=r"'stopp' is not a label.*stop"):
        dkcam.load(model_file, explain=["stopp"])


def test_graphs_without_heatmaps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), outputs=("logits",)), check=False).data)
    with pytest.raises(ModelFileError, match="exported without explained, heatmap, probabilities"):
        dkcam.load(path)


def test_overlays_follow_the_heat(model_file: Path) -> None:
    picture = frame()
    said = dkcam.load(model_file)(picture)
    assert np.array_equal(said.overlay(picture, alpha=0)[40:], picture[40:])
    drawn = said.overlay(picture, alpha=1.0).astype(int)
    change = np.abs(drawn - picture).sum(axis=2)[40:]
    heat = said.fit.spread(said.heatmap[0])[40:]
    assert change[heat == heat.min()].mean() < change[heat > 0.9 * heat.max()].mean()


def test_several_classes_side_by_side_or_tinted(model_file: Path) -> None:
    picture = frame()
    said = dkcam.load(model_file, explain=["stop", "yield"])(picture)
    before = picture.copy()
    assert said.overlay(picture).shape == (120, 400, 3)
    assert said.overlay(picture, layout="tint").shape == (120, 200, 3)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("style", [{"alpha": 2.0}, {"colormap": "rainbow9"}, {"layout": "stack"}])
def test_unknown_styles_are_refused(model_file: Path, style: dict[str, object]) -> None:
    with pytest.raises(InputError, match="expected"):
        dkcam.load(model_file)(frame()).overlay(frame(), **style)  # type: ignore[arg-type]


def test_labels_come_before_numbers_and_twice_is_ambiguous() -> None:
    spec = model_spec(("60", "30", "crane", "Crane"))
    assert class_number(spec, "30") == 1 and class_number(spec, "2") == 2 and class_number(spec, "-1") == -1
    with pytest.raises(InputError, match="'crane' is the label of classes 2, 3; give the number"):
        class_number(spec, "crane")


@pytest.mark.parametrize("grid", [False, True])
def test_infer_takes_labels_as_load_does(model_file: Path, grid: bool) -> None:
    explainer = dkcam.load(model_file, explain=["Stop"])
    used = GridExplainer(explainer, 1, 2) if grid else explainer
    prepared = used.prepare(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    said = used.infer(prepared, classes=["Yield", -1, np.int64(3)])
    assert [score.label for score in said.explained_scores()][::2] == ["yield", "warning"]
    np.testing.assert_array_equal(said.heatmap, used.infer(prepared, classes=[2, -1, 3]).heatmap)
    for wrong, words in (
        (["stopp"], "'stopp' is not a label"),
        ("stop", r"expected a list .* such as \['stop'\]"),
        ([99], "class 99 is out of range"),
        ([1.5], "is a float"),
    ):
        with pytest.raises(InputError, match=words):
            used.infer(prepared, classes=wrong)  # type: ignore[arg-type]


def test_the_package_lists_what_it_has() -> None:
    assert {"load", "Explainer", "Explanation", "DkcamError", "__version__"} <= set(dir(dkcam))
    assert all(hasattr(dkcam, name) for name in dir(dkcam))
