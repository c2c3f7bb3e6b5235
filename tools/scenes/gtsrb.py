"""Class numbers shared by GTSRB and GTSDB, mapped to dkcam's sign labels, and the crops themselves."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dkcam.errors import DataError
from dkcam.image_file import read_image
from dkcam.rendered.signs import Picture

# Classes 15 and 16 (no vehicles, no lorries) belong to no label: they are never shown and never count as "no sign".
LABEL_OF_CLASS: dict[int, str] = {
    **dict.fromkeys((0, 1, 2, 3, 4, 5, 7, 8), "speed limit"),
    **dict.fromkeys((9, 10), "no overtaking"),
    **dict.fromkeys((6, 32, 41, 42), "end of restriction"),
    12: "priority road",
    13: "yield",
    14: "stop",
    17: "no entry",
    **dict.fromkeys((11, *range(18, 32)), "warning"),
    **dict.fromkeys(range(33, 40), "mandatory direction"),
    40: "roundabout",
}
SHAPE_OF_LABEL = {"priority road": "diamond", "yield": "triangle down", "stop": "octagon", "warning": "triangle up"}


@dataclass(frozen=True)
class Crop:
    """A sign cut out along its outline: uint8 [h, w, 4], BGR plus coverage. track: names the physical sign."""

    picture: Picture
    label: str
    track: str


def outline(shape: str, side: int) -> Picture:
    """Coverage uint8 [side, side] of a sign's shape that fills the square."""
    corners = {
        "diamond": [(0.5, -0.02), (1.02, 0.5), (0.5, 1.02), (-0.02, 0.5)],
        "triangle up": [(0.5, -0.06), (1.06, 0.98), (0.95, 1.03), (0.05, 1.03), (-0.06, 0.98)],
        "triangle down": [(0.5, 1.06), (1.06, 0.02), (0.95, -0.03), (0.05, -0.03), (-0.06, 0.02)],
        "octagon": [(0.29, 0), (0.71, 0), (1, 0.29), (1, 0.71), (0.71, 1), (0.29, 1), (0, 0.71), (0, 0.29)],
    }.get(shape)
    mask = np.zeros((side, side), np.uint8)
    if corners is None:
        cv2.circle(mask, (side // 2, side // 2), side // 2, 255, -1, cv2.LINE_AA)
    else:
        cv2.fillPoly(mask, [np.array([(x * side, y * side) for x, y in corners], np.int32)], 255, cv2.LINE_AA)
    return mask


def load_crops(folder: Path, split: str) -> dict[str, list[Crop]]:
    """Crops by label, of one split ("train" or "val"; a physical sign is in one of them only).

    Errors: DataError when labels.csv or a picture is missing.
    """
    table = folder / "labels.csv"
    if not table.is_file():
        raise DataError(f"{table} is missing; expected the GTSRB crops with their labels.csv")
    crops: dict[str, list[Crop]] = {name: [] for name in dict.fromkeys(LABEL_OF_CLASS.values())}
    with table.open(newline="") as lines:
        for row in csv.DictReader(lines):
            label = LABEL_OF_CLASS.get(int(row["class_id"]))
            if label is None or row["split"] != split:
                continue
            image = read_image(folder / row["file"])
            if image is None:
                raise DataError(f"{folder / row['file']} cannot be read as a picture; labels.csv names it")
            x1, y1, x2, y2 = (int(row[k]) for k in ("roi_x1", "roi_y1", "roi_x2", "roi_y2"))
            sign = image[y1 : y2 + 1, x1 : x2 + 1]
            mask = cv2.resize(outline(SHAPE_OF_LABEL.get(label, "circle"), 128), sign.shape[1::-1], interpolation=cv2.INTER_AREA)
            crops[label].append(Crop(np.asarray(np.dstack([sign, mask]), np.uint8), label, row["track"]))
    return crops
