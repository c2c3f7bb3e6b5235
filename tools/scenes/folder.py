"""A plain tree with one folder of pictures per class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dkcam.errors import DataError
from dkcam.image_file import read_image
from dkcam.rendered.signs import Picture
from dkcam.tools.scenes.example import Example, SignSize, degrade

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})


class FolderTree:
    """``DATA/CLASS/*.jpg``, or ``DATA/train/CLASS`` and ``DATA/val/CLASS``; without the split every fifth is validation.

    Errors: DataError when there are fewer than two classes, or a class has fewer than two pictures.
    """

    def __init__(self, data: Path) -> None:
        self._files: dict[str, list[list[Path]]] = {}
        if (data / "train").is_dir() and (data / "val").is_dir():
            trees = {"train": _tree(data / "train"), "val": _tree(data / "val")}
            if list(trees["train"]) != list(trees["val"]):
                raise DataError(f"{data}/train and {data}/val have different class folders; expected the same names")
            self.labels = tuple(trees["train"])
            self._files = {split: list(tree.values()) for split, tree in trees.items()}
        else:
            tree = _tree(data)
            self.labels = tuple(tree)
            self._files["val"] = [files[::5] for files in tree.values()]
            self._files["train"] = [[f for i, f in enumerate(files) if i % 5] for files in tree.values()]

    def training(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        label, image = self._pick("train", rng)
        rows, columns = image.shape[:2]
        share = float(rng.uniform(0.75, 1.0))
        high, wide = max(int(rows * share), 1), max(int(columns * share), 1)
        top, left = int(rng.integers(rows - high + 1)), int(rng.integers(columns - wide + 1))
        part = image[top : top + high, left : left + wide]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        return Example(degrade(_resize(part, height, width), rng), label)

    def validation(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        label, image = self._pick("val", rng)
        return Example(_resize(image, height, width), label)

    def _pick(self, split: str, rng: np.random.Generator) -> tuple[int, Picture]:
        label = int(rng.integers(len(self.labels)))
        files = self._files[split][label]
        path = files[rng.integers(len(files))]
        image = read_image(path)
        if image is None:
            raise DataError(f"{path} cannot be read as a picture; remove or replace it")
        return label, np.asarray(image, np.uint8)


def _tree(data: Path) -> dict[str, list[Path]]:
    tree = {
        folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        for folder in sorted(p for p in data.iterdir() if p.is_dir())
    }
    if len(tree) < 2:
        raise DataError(f"{data} holds {len(tree)} folders; expected one folder of pictures per class, two at least")
    for name, files in tree.items():
        if len(files) < 2:
            raise DataError(f"{data / name} holds {len(files)} pictures; expected two or more ({', '.join(sorted(SUFFIXES))})")
    return tree


def _resize(image: Picture, height: int, width: int) -> Picture:
    shrinks = image.shape[0] > height or image.shape[1] > width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
