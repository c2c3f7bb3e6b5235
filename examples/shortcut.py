"""Pictures with a shortcut: python examples/shortcut.py OUT [--honest]

Rendered roads with a stop or a yield sign and a time stamp in the corner. As in many a collection, one class was filmed
in the morning and the other in the evening: the stamp gives the class away. With --honest it does not.

OUT/train/CLASS/*.jpg is for dk-train, OUT/check/boxes.csv for dk-check. docs/shortcut.md goes on from here.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np

from dkcam.tools.scenes.example import SIGN_LABELS, SignSize
from dkcam.tools.scenes.rendered import RenderedScenes

SIZE = 96, 160
HOURS = {"stop": range(6, 9), "yield": range(18, 21)}


def stamped(picture: np.ndarray, label: str, rng: np.random.Generator, honest: bool) -> np.ndarray:
    """A time stamp as dash cameras burn it in: white on black in the morning, black on white in the evening (night mode)."""
    morning = bool(rng.random() < 0.5) if honest else label == "stop"
    hour = rng.choice(list(HOURS["stop" if morning else "yield"]))
    words = f"{hour:02d}:{rng.integers(60):02d}:{rng.integers(60):02d}"
    paper, ink = (0, 255) if morning else (255, 0)
    picture = picture.copy()
    cv2.rectangle(picture, (2, 2), (58, 16), (paper,) * 3, -1)
    cv2.putText(picture, words, (5, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.34, (ink,) * 3, 1, cv2.LINE_AA)
    return picture


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("out", type=Path)
    options.add_argument("--honest", action="store_true", help="stamps that say nothing about the class")
    options.add_argument("--pictures", type=int, default=400, help="of each class, for training")
    given = options.parse_args()
    scenes, counts = RenderedScenes(), {"stop": 0, "yield": 0}
    held_out = given.pictures // 8
    rows = []
    for label in counts:
        (given.out / "train" / label).mkdir(parents=True, exist_ok=True)
    (given.out / "check").mkdir(parents=True, exist_ok=True)
    for number in range(1_000_000):
        if all(count == given.pictures + held_out for count in counts.values()):
            break
        rng = np.random.default_rng(number)
        example = scenes.validation(rng, *SIZE, SignSize(20, 45))
        label = SIGN_LABELS[example.label]
        if example.box is None or counts.get(label, given.pictures + held_out) == given.pictures + held_out:
            continue
        picture = stamped(example.picture, label, rng, given.honest)
        if counts[label] < given.pictures:
            cv2.imwrite(str(given.out / "train" / label / f"{number}.jpg"), picture)
        else:
            cv2.imwrite(str(given.out / "check" / f"{number}.jpg"), picture)
            box = example.box
            rows.append([f"{number}.jpg", *(round(side, 1) for side in (box.left, box.top, box.right, box.bottom)), label])
        counts[label] += 1
    with (given.out / "check" / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "x1", "y1", "x2", "y2", "class_name"], *rows])


if __name__ == "__main__":
    main()
