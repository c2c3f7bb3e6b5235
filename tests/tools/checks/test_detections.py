"""dk-check on a detector: whose heat, in whose box, and what matches what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner, Result

from dkcam.rendered import Box
from dkcam.runtime.explanation import Detection
from dkcam.tools.check_command import main
from dkcam.tools.checks.detections import match
from tests.standins import SIDE, balance, square_finder, squares

RULES = """rules:
  - measure: pointing
    min: 0.9
  - measure: label_pointing
    min: 0.9
  - measure: overlap
    min: 0.7
    class: red
  - measure: region
    region: left
    max: 0.9
regions:
  left: [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
"""
# picture → what is there, and what is labelled: (class, left, top, right, bottom) in squares of the grid
PICTURES: dict[str, tuple[list[tuple[str, int, int]], list[tuple[str, float, float, float, float]]]] = {
    "a.png": ([("red", 1, 2), ("blue", 3, 7)], [("red", 2, 1, 3, 2), ("blue", 7, 3, 8, 4)]),
    "b.png": ([("red", 1, 2), ("red", 4, 4)], [("red", 2.2, 1, 3.2, 2)]),  # a box aside, and one too many
    "c.png": ([("blue", 0, 0)], [("blue", 0.5, 0.5, 1.5, 1.5), ("red", 5, 5, 6, 6)]),  # too far aside, and one not there
    "d.png": ([("red", 2, 2)], []),
    "e.png": ([], [("red", 1, 1, 2, 2)]),
}


def dataset(folder: Path, names: tuple[str, ...] = tuple(PICTURES)) -> Path:
    lines = ["file,x1,y1,x2,y2,class_name"]
    folder.mkdir()
    for name in names:
        shown, labelled = PICTURES[name]
        cv2.imwrite(str(folder / name), cv2.resize(squares(*shown), (640, 384), interpolation=cv2.INTER_NEAREST))
        lines += [f"{name},{','.join(str(2 * SIDE * value) for value in box)},{label}" for label, *box in labelled]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def run(tmp_path: Path, *words: object, model: bytes | None = None, rules: str | None = RULES) -> Result:
    (tmp_path / "m.onnx").write_bytes(model or square_finder())
    (tmp_path / "rules.yaml").write_text(rules or "")
    given = ["--rules", tmp_path / "rules.yaml"] if rules else []
    return CliRunner().invoke(main, [str(word) for word in ("--model", tmp_path / "m.onnx", *given, *words)])


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    done = run(tmp_path, dataset(tmp_path / "data"), "--report", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "5 pictures on cpu" in done.output
    assert "6 detections: 3 match a label, 3 match none; 3 labelled boxes were not found" in done.output
    found: dict[str, Any] = json.loads((tmp_path / "out/results.json").read_text())
    page = (tmp_path / "out/report.html").read_text()
    assert "6 detections of 5 pictures" in page and "green: the labelled one" in page
    return found


def test_what_matches_is_judged_by_both_boxes(results: dict[str, Any]) -> None:
    assert {key: results["detections"][key] for key in ("matched", "unmatched", "missed", "unlabelled")} == {
        "matched": 3,
        "unmatched": 3,
        "missed": 3,
        "unlabelled": 0,
    }
    by_name: dict[str, list[dict[str, Any]]] = {}
    for record in results["records"]:
        by_name.setdefault(record["picture"], []).append(record)
    assert {name: len(records) for name, records in by_name.items()} == {"a.png": 2, "b.png": 2, "c.png": 1, "d.png": 1}
    for record in results["records"]:  # the stand-in's heat is in its box; between cells it is linear
        assert record["values"]["pointing"] == 1 and record["values"]["energy"] == pytest.approx(0.879, abs=1e-3)
        assert ("label_energy" in record["values"]) == (record["values"]["accuracy"] == 1) == ("overlap" in record["values"])
        if len(by_name[record["picture"]]) > 1:
            assert record["controls"]["another box"]["energy"] < 0.01
        assert record["size"] == pytest.approx(SIDE)
    aside = next(record for record in by_name["b.png"] if record["values"]["accuracy"])
    assert aside["values"]["overlap"] == pytest.approx(0.8 / 1.2, rel=1e-4) and aside["values"]["label_energy"] == pytest.approx(
        0.8, abs=0.02
    )
    for record in by_name["a.png"]:
        assert record["values"]["overlap"] == pytest.approx(1) and record["values"]["label_energy"] == pytest.approx(0.879, abs=1e-3)


def test_verdicts_and_figures(results: dict[str, Any]) -> None:
    outcomes = {rule["name"]: (rule["outcome"], rule["count"]) for rule in results["rules"]}
    assert outcomes == {
        "pointing": ("pass", 6),
        "label_pointing": ("pass", 3),
        "overlap (red)": ("pass", 2),
        "region left": ("pass", 6),
    }
    assert results["figures"]["all"]["accuracy"]["mean"] == 0.5 and set(results["figures"]["classes"]) == {"red", "blue"}


def test_the_rules_of_a_detector_where_none_are_given(tmp_path: Path) -> None:
    done = run(tmp_path, dataset(tmp_path / "data", ("a.png", "b.png")), rules=None)
    assert done.exit_code == 0 and "detections match labels: accuracy is 0.75" in done.output, done.output


def test_classes_that_are_not_labelled_are_not_judged(tmp_path: Path) -> None:
    done = run(tmp_path, dataset(tmp_path / "data", ("d.png", "e.png", "b.png", "a.png")))
    assert "unlabelled" not in done.output and "without labels here" not in done.output
    csv = tmp_path / "data/labels.csv"
    csv.write_text("\n".join(line for line in csv.read_text().splitlines() if "blue" not in line))
    done = run(tmp_path, csv)
    assert "4 detections: 2 match a label, 2 match none; 1 labelled boxes were not found; 1 detections are of classes" in done.output


def test_a_fixed_number_of_boxes_and_batches_of_one(tmp_path: Path, results: dict[str, Any]) -> None:
    model = square_finder(count=3, batch=1)
    done = run(tmp_path, tmp_path / "data/labels.csv", "--report", tmp_path / "again", model=model)
    assert done.exit_code == 0, done.output
    again = json.loads((tmp_path / "again/results.json").read_text())
    assert again["figures"] == results["figures"] and again["detections"] == results["detections"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--against", "m.onnx"], "--against is for classifiers"),
        (["--windows"], "--windows is for classifiers"),
        (["--sequence"], "--sequence is for classifiers"),
        (["--grid", "2x2"], "this model's task is detect; leave --grid out"),
    ],
)
def test_what_is_for_classifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(tmp_path, dataset(tmp_path / "data"), *words)
    assert done.exit_code == 1 and told in done.output and len(done.output.strip().splitlines()) == 1, done.output


def test_a_regressor_and_a_detector_that_finds_nothing(tmp_path: Path) -> None:
    csv = dataset(tmp_path / "data", ("e.png",))
    done = run(tmp_path, csv)
    assert done.exit_code == 1 and "found none of the 1 labelled boxes" in done.output, done.output
    done = run(tmp_path, csv, model=balance(), rules=None)
    assert done.exit_code == 1 and "this model's task is regress" in done.output, done.output


def test_each_label_is_meant_once_and_the_best_detection_chooses_first() -> None:
    def found(index: int) -> Detection:
        return Detection("x", index, 0.5)

    own = [Box("x", 0, 0, 10, 10), Box("x", 1, 0, 11, 10), Box("x", 0, 0, 10, 10), Box("x", 50, 0, 60, 10)]
    truth = [(0, Box("x", 1, 0, 11, 10)), (0, Box("x", 0, 0, 10, 12)), (1, Box("x", 0, 0, 10, 10)), (0, Box("x", 55, 0, 65, 10))]
    assert match([found(0), found(0), found(0), found(0)], own, truth) == [1, 0, None, None]
    assert match([found(1), found(0)], own[:2], truth) == [2, 0]
    assert match([found(2)], own[:1], truth) == [None] and match([], [], truth) == []
