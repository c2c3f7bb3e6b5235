"""A small data set in all five forms of labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dkcam.rendered import Box

CLASSES = ("stop", "yield", "warning")
SIZE = 120, 200


@pytest.fixture
def boxes() -> dict[str, list[Box]]:
    """Six pictures, the last without an object."""
    rng = np.random.default_rng(0)
    found: dict[str, list[Box]] = {}
    for number in range(6):
        own = []
        for _ in range(0 if number == 5 else rng.integers(1, 3)):
            left, top = rng.integers(5, 120), rng.integers(5, 70)
            side = rng.integers(20, 40)
            own.append(Box(CLASSES[rng.integers(3)], float(left), float(top), float(left + side), float(top + side)))
        found[f"p{number}.jpg"] = own
    return found


def pictures(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        cv2.imwrite(str(folder / name), cv2.GaussianBlur(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), (0, 0), 3))


@pytest.fixture
def dataset(tmp_path: Path, boxes: dict[str, list[Box]]) -> Callable[[str], Path]:
    """dataset(form) writes it and gives the path for dk-check."""

    def write(form: str) -> Path:
        root = tmp_path / form
        below = {"yolo": "images", "kitti": "image_2", "voc": "JPEGImages"}.get(form, "")
        pictures(root / below, list(boxes))
        WRITERS[form](root, boxes)
        return {"coco": root / "coco.json", "csv": root / "labels.csv"}.get(form, root)

    return write


def _coco(root: Path, boxes: dict[str, list[Box]]) -> None:
    images = [{"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for number, name in enumerate(boxes)]
    annotations = [
        {
            "id": 10 * number + k,
            "image_id": number,
            "category_id": CLASSES.index(b.label),
            "bbox": [b.left, b.top, b.right - b.left, b.bottom - b.top],
        }
        for number, own in enumerate(boxes.values())
        for k, b in enumerate(own)
    ]
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES)]
    (root / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _csv(root: Path, boxes: dict[str, list[Box]]) -> None:
    lines = ["file,x1,y1,x2,y2,class_name"]
    lines += [f"{name},{b.left},{b.top},{b.right},{b.bottom},{b.label}" for name, own in boxes.items() for b in own]
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def _voc(root: Path, boxes: dict[str, list[Box]]) -> None:
    (root / "Annotations").mkdir()
    for name, own in boxes.items():
        objects = "".join(
            f"<object><name>{b.label}</name><bndbox><xmin>{b.left}</xmin><ymin>{b.top}</ymin><xmax>{b.right}</xmax><ymax>{b.bottom}</ymax></bndbox></object>"
            for b in own
        )
        text = f"<annotation><filename>{name}</filename>{objects}</annotation>"
        (root / "Annotations" / name.replace(".jpg", ".xml")).write_text(text)


def _yolo(root: Path, boxes: dict[str, list[Box]]) -> None:
    (root / "labels").mkdir()
    (root / "data.yaml").write_text("names:\n" + "".join(f"  {k}: {name}\n" for k, name in enumerate(CLASSES)))
    for name, own in boxes.items():
        lines = [
            f"{CLASSES.index(b.label)} {(b.left + b.right) / 2 / SIZE[1]!r} {(b.top + b.bottom) / 2 / SIZE[0]!r} "
            f"{(b.right - b.left) / SIZE[1]!r} {(b.bottom - b.top) / SIZE[0]!r}"
            for b in own
        ]
        (root / "labels" / name.replace(".jpg", ".txt")).write_text("\n".join(lines))


def _kitti(root: Path, boxes: dict[str, list[Box]]) -> None:
    (root / "label_2").mkdir()
    for name, own in boxes.items():
        lines = [f"{b.label} 0.00 0 -10 {b.left} {b.top} {b.right} {b.bottom} -1 -1 -1 -1000 -1000 -1000 -10" for b in own]
        lines.append("DontCare -1 -1 -10 1 1 9 9 -1 -1 -1 -1000 -1000 -1000 -10")
        (root / "label_2" / name.replace(".jpg", ".txt")).write_text("\n".join(lines))


WRITERS = {"coco": _coco, "csv": _csv, "voc": _voc, "yolo": _yolo, "kitti": _kitti}
