"""Five forms of labels, whole and broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dkcam.errors import DataError
from dkcam.rendered import Box
from dkcam.tools.checks.formats import FORMATS, read_dataset


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_gives_the_same_boxes(dataset: Callable[[str], Path], boxes: dict[str, list[Box]], form: str) -> None:
    path = dataset(form)
    for found in (read_dataset(path, form), read_dataset(path), read_dataset(path.parent if path.is_file() else path)):
        assert found.format == form and not found.problems
        assert [Path(picture.name).name for picture in found.pictures] == list(boxes)
        for picture, own in zip(found.pictures, boxes.values(), strict=True):
            assert picture.path.is_file() and [box.label for box in picture.boxes] == [box.label for box in own]
            for given, wanted in zip(picture.boxes, own, strict=True):
                assert (given.left, given.top, given.right, given.bottom) == pytest.approx(
                    (wanted.left, wanted.top, wanted.right, wanted.bottom)
                )


def broken_coco(path: Path) -> None:
    document = json.loads(path.read_text())
    first = document["annotations"][0]
    document["annotations"] += [
        {**first, "bbox": [float("nan"), 1, 2, 3]},
        {**first, "bbox": [1, 1, 0, 5]},
        {**first, "bbox": ["a", 1, 2, 3]},
        {**first, "bbox": [1, 2]},
        {**first, "category_id": 77},
        {**first, "image_id": 77},
        17,
    ]
    document["images"].append({"id": 9, "file_name": "gone.jpg"})
    path.write_text(json.dumps(document))


def broken_csv(path: Path) -> None:
    path.write_text(
        path.read_text() + "p0.jpg,nan,1,2,3,stop\np0.jpg,5,5,5,9,stop\ngone.jpg,1,1,9,9,stop\np0.jpg,1,1,9,9,\np0.jpg,1,1,,9,stop\n"
    )


def broken_voc(path: Path) -> None:
    folder = path / "Annotations"
    text = (folder / "p0.xml").read_text()
    (folder / "q.xml").write_text("<annotation><obj")
    (folder / "r.xml").write_text("<annotation><filename>gone.jpg</filename></annotation>")
    bad = "<object><name>stop</name><bndbox><xmin>x</xmin></bndbox></object><object><bndbox/></object>"
    (folder / "p0.xml").write_text(text.replace("</annotation>", bad + "</annotation>"))


def broken_yolo(path: Path) -> None:
    file = path / "labels" / "p0.txt"
    file.write_text(file.read_text() + "\n9 0.5 0.5 0.1 0.1\n0 0.5 nan 0.1 0.1\n0 0.5\nstop 0.5 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n")
    (path / "labels" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")


def broken_kitti(path: Path) -> None:
    file = path / "label_2" / "p0.txt"
    file.write_text(file.read_text() + "\nstop 0 0 0 1 2 nan 4 0 0 0 0 0 0 0\nstop 1 2 3\nstop 0 0 0 9 2 1 4 0 0 0 0 0 0 0\n")
    (path / "label_2" / "gone.txt").write_text("")


BROKEN = {
    "coco": (broken_coco, {"damaged label": 2, "empty box": 1, "missing picture": 2, "not a number": 2, "unknown class": 1}),
    "csv": (broken_csv, {"empty box": 1, "missing picture": 1, "not a number": 2, "unknown class": 1}),
    "voc": (broken_voc, {"damaged label": 1, "missing picture": 1, "not a number": 1, "unknown class": 1}),
    "yolo": (broken_yolo, {"damaged label": 1, "empty box": 1, "missing picture": 1, "not a number": 1, "unknown class": 2}),
    "kitti": (broken_kitti, {"damaged label": 1, "empty box": 1, "missing picture": 1, "not a number": 1}),
}


@pytest.mark.parametrize("form", FORMATS)
def test_broken_labels_are_listed_and_the_others_kept(dataset: Callable[[str], Path], boxes: dict[str, list[Box]], form: str) -> None:
    path = dataset(form)
    spoil, expected = BROKEN[form]
    spoil(path)
    found = read_dataset(path)
    assert found.counts() == expected
    assert sum(len(picture.boxes) for picture in found.pictures) == sum(map(len, boxes.values()))
    assert all(problem.where and problem.text for problem in found.problems)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "is not COCO JSON"),
        ("a.json", '{"images": 3}', "is not COCO JSON"),
        ("a.csv", "file,x1\n", "lacks columns"),
        ("a.txt", "", "is no labels file"),
        ("nothing", None, "does not exist; expected a labels file"),
        ("folder", None, "holds no labels; expected coco.json"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    elif name == "folder":
        path.mkdir()
    with pytest.raises(DataError, match=words):
        read_dataset(path)
