"""Real sign crops on real road backgrounds, with exact boxes, mixed with windows of real frames.

DATA is a folder that holds ``gtsrb_train`` (crops), ``gtsdb`` (road frames with sign boxes) and, for more
backgrounds, ``tusimple``. GTSDB frames are split by frame into training and validation halves.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from dkcam.errors import DataError
from dkcam.image_file import read_image
from dkcam.rendered import Box
from dkcam.rendered.road import paste
from dkcam.rendered.signs import Picture
from dkcam.tools.scenes.example import SIGN_LABELS, Example, SignSize, degrade
from dkcam.tools.scenes.gtsrb import LABEL_OF_CLASS, Crop, load_crops, outline
from dkcam.tools.scenes.rendered import RenderedScenes
from dkcam.tools.scenes.window import TRIES, cut, in_window, overlap, place_window

NO_SIGN_SHARE = 1 / 8  # of the pictures
WINDOW_SHARE = 0.3  # of the training pictures are windows of real frames
RENDERED_SHARE = 0.08  # are rendered scenes


@dataclass(frozen=True)
class RoadFrame:
    """A real frame uint8 [H, W, 3] BGR with its sign boxes; label "" marks a sign that no label covers."""

    name: str
    picture: Picture
    boxes: tuple[Box, ...]


def load_gtsdb(folder: Path) -> list[RoadFrame]:
    """All GTSDB frames with their boxes, in name order. Errors: DataError when a file is missing."""
    table = folder / "boxes.csv"
    if not table.is_file():
        raise DataError(f"{table} is missing; expected the GTSDB frames with their boxes.csv")
    boxes: dict[str, list[Box]] = {}
    with table.open(newline="") as lines:
        for row in csv.DictReader(lines):
            label = LABEL_OF_CLASS.get(int(row["class_id"]), "")
            place = [float(row[k]) for k in ("x1", "y1", "x2", "y2")]
            boxes.setdefault(Path(row["file"]).name, []).append(Box(label, *place))
    frames = []
    for path in sorted((folder / "frames").glob("*.jpg")):
        image = read_image(path)
        if image is None:
            raise DataError(f"{path} cannot be read as a picture")
        frames.append(RoadFrame(path.stem, np.asarray(image, np.uint8), tuple(boxes.get(path.name, ()))))
    return frames


def sign_window(frame: RoadFrame, target: Box, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example | None:
    """A window around one sign of a real frame that shows no sign with another label; None when 12 tries find none."""
    others = [box for box in frame.boxes if box.label != target.label]
    for _ in range(TRIES):
        place = place_window(frame.picture.shape[:2], target, others, rng, (height, width), size.pick(rng, height, width))
        if place is not None:
            picture = cut(frame.picture, place, height, width)
            sign = f"{frame.name} {target.left:g},{target.top:g}"
            return Example(picture, SIGN_LABELS.index(target.label), in_window(target, place), sign)
    return None


def empty_window(frame: RoadFrame, rng: np.random.Generator, height: int, width: int) -> Picture | None:
    """A window of a real frame without any sign, at a random zoom; None when 12 tries find none."""
    frame_height, frame_width = frame.picture.shape[:2]
    for _ in range(TRIES):
        scale = float(np.exp(rng.uniform(np.log(0.3), np.log(1.6))))
        scale = max(scale, height / frame_height, width / frame_width)
        left = rng.uniform(0, frame_width - width / scale)
        top = rng.uniform(0, frame_height - height / scale)
        if all(overlap(b, left, top, left + width / scale, top + height / scale) == 0 for b in frame.boxes):
            return cut(frame.picture, (left, top, scale), height, width)
    return None


class ComposedScenes:
    """Composed, windowed and rendered pictures with the labels ``SIGN_LABELS``.

    data: the folder with the data sets. Errors: DataError when one is missing.
    """

    labels = SIGN_LABELS

    def __init__(self, data: Path) -> None:
        crops = data / "gtsrb_train"
        self._crops = {split: load_crops(crops, split) for split in ("train", "val")}
        frames = load_gtsdb(data / "gtsdb")
        self.frames = {"train": frames[0::2], "val": frames[1::2]}
        roads = [RoadFrame(p.stem, np.asarray(read_image(p), np.uint8), ()) for p in sorted((data / "tusimple" / "frames").glob("*.jpg"))]
        self._roads = {"train": [*self.frames["train"], *roads[0::2]], "val": [*self.frames["val"], *roads[1::2]]}
        self._rendered = RenderedScenes()

    def training(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        kind = rng.random()
        if kind < RENDERED_SHARE:
            return self._rendered.training(rng, height, width, size)
        if kind < RENDERED_SHARE + WINDOW_SHARE:
            example = self.window("train", rng, height, width, size)
        else:
            example = self.compose("train", rng, height, width, size)
        return replace(example, picture=degrade(example.picture, rng))

    def validation(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        return self.compose("val", rng, height, width, size)

    def background(self, split: str, rng: np.random.Generator, height: int, width: int) -> Picture:
        return self.empty(split, rng, height, width).picture

    def empty(self, split: str, rng: np.random.Generator, height: int, width: int) -> Example:
        """A window of a real frame without any sign."""
        roads = self._roads[split]
        while True:
            frame = roads[rng.integers(len(roads))]
            picture = empty_window(frame, rng, height, width)
            if picture is not None:
                return Example(picture, 0, None, frame.name)

    def window(self, split: str, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        """A window of a real GTSDB frame of that split: a label at random, then one of its signs, then the place."""
        frames = self.frames[split]
        while True:
            label = SIGN_LABELS[rng.integers(len(SIGN_LABELS))]
            if label == SIGN_LABELS[0]:
                return self.empty(split, rng, height, width)
            signs = [(f, b) for f in frames for b in f.boxes if b.label == label]
            if signs:
                frame, box = signs[rng.integers(len(signs))]
                example = sign_window(frame, box, rng, height, width, size)
                if example is not None:
                    return example

    @staticmethod
    def sign_of(
        signs: list[tuple[RoadFrame, Box]], rng: np.random.Generator, number: int, height: int, width: int, size: SignSize
    ) -> Example:
        """A window around sign ``number`` of the list, counted round; the next one where no window shows it alone."""
        for step in range(len(signs)):
            example = sign_window(*signs[(number + step) % len(signs)], rng, height, width, size)
            if example is not None:
                return example
        raise DataError("no sign of the frames can be shown without another one beside it")

    def compose(self, split: str, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        """One crop on a background. Patches cut along sign outlines are pasted too: the edge of a paste says nothing."""
        image = self.background(split, rng, height, width)
        for _ in range(int(rng.integers(0, 3))):
            self._distract(image, split, rng, size)
        if rng.random() < NO_SIGN_SHARE:
            return Example(image, 0)
        label = SIGN_LABELS[rng.integers(1, len(SIGN_LABELS))]
        crops = self._crops[split][label]
        side = size.pick(rng, height, width)
        crop = crops[rng.integers(len(crops))]
        sign = warp(crop, side, rng, image)
        high, wide = sign.shape[:2]
        left = int(rng.integers(-int(0.03 * wide), max(width - int(0.97 * wide), 1)))
        top = int(rng.integers(-int(0.03 * high), max(height - int(0.97 * high), 1)))
        paste(image, sign, left, top)
        return Example(image, SIGN_LABELS.index(label), Box(label, left, top, left + wide, top + high), crop.track)

    def _distract(self, image: Picture, split: str, rng: np.random.Generator, size: SignSize) -> None:
        side = int(size.pick(rng, *image.shape[:2]))
        patch = self.background(split, rng, side, side)
        shape = ("circle", "diamond", "octagon", "triangle up", "triangle down")[rng.integers(5)]
        mask = cv2.resize(outline(shape, 64), (side, side), interpolation=cv2.INTER_AREA)
        if rng.random() < 0.3:
            patch = np.full_like(patch, rng.integers(0, 255, 3))
        left = int(rng.integers(0, max(image.shape[1] - side, 1)))
        top = int(rng.integers(0, max(image.shape[0] - side, 1)))
        paste(image, np.asarray(np.dstack([patch, mask]), np.uint8), left, top)


def warp(crop: Crop, side: float, rng: np.random.Generator, around: Picture) -> Picture:
    """Scale a crop to ``side`` pixels wide with a little rotation and perspective, soft rim, and the scene's light."""
    picture = crop.picture
    ratio = float(np.clip(picture.shape[0] / picture.shape[1], 0.8, 1.25)) * float(np.exp(rng.normal(0, 0.04)))
    wide, high = max(int(side), 4), max(int(side * ratio), 4)
    if wide < picture.shape[1]:
        picture = np.asarray(cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA), np.uint8)
    rows, columns = picture.shape[:2]
    source = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows]], np.float32)
    target = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    angle = np.deg2rad(rng.normal(0, 4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float32)
    centre = np.array([wide / 2, high / 2], np.float32)
    jitter = rng.normal(0, 0.03 * wide, (4, 2))
    target = np.asarray((target - centre) @ turn.T + centre + jitter, np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    sign = cv2.warpPerspective(picture, matrix, (wide, high), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT).astype(np.float32)
    sign[..., 3] = cv2.GaussianBlur(sign[..., 3], (0, 0), 0.7)
    colour = sign[..., :3]
    level = float(colour.mean())
    goal = 0.6 * level + 0.4 * float(around.mean()) if rng.random() < 0.5 else level
    gain = np.clip(goal / max(level, 8.0), 0.5, 2.2) * float(np.exp(rng.normal(0, 0.15)))
    sign[..., :3] = np.clip(colour * gain, 0, 255)
    return np.asarray(sign, np.uint8)
