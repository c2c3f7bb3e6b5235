"""Pictures drawn by dkcam itself: ``dk-train rendered:`` needs no data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dkcam.rendered import Scene, SignPost, random_scene, render
from dkcam.tools.scenes.example import SIGN_LABELS, Example, SignSize, degrade


class RenderedScenes:
    """Rendered roads with one sign or none; validation scenes come from seeds that training never uses."""

    labels = SIGN_LABELS

    def training(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        example = self.validation(rng, height, width, size)
        return Example(degrade(example.picture, rng), example.label, example.box)

    def validation(self, rng: np.random.Generator, height: int, width: int, size: SignSize) -> Example:
        label = int(rng.integers(len(SIGN_LABELS)))
        scene, wanted = _framed_scene(rng, label, height, width, size)
        picture, boxes = render(scene, height, width)
        box = next((b for b in boxes if b.label == wanted), None)
        return Example(picture, label if box is not None else 0, box)


def _framed_scene(rng: np.random.Generator, label: int, height: int, width: int, size: SignSize) -> tuple[Scene, str]:
    """A scene whose sign has a size from the range and lies wholly inside the frame."""
    name = SIGN_LABELS[label]
    base = random_scene(rng)
    if label == 0:
        return replace(base, signs=()), name
    camera = base.camera
    side = size.pick(rng, height, width)
    z = max(camera.focal * height * 0.9 / side, 3.0)
    reach_x = (width - side) / 2 * z / (camera.focal * height)
    rise = (camera.horizon * height - side / 2) * z / (camera.focal * height)
    x = float(rng.uniform(min(0.3, reach_x), reach_x)) if rng.random() < 0.7 else float(rng.uniform(-reach_x, reach_x))
    y = camera.height + float(rng.uniform(-0.1, 0.9)) * max(rise, 0.1)
    sign = SignPost(name, x, z, y, seed=int(rng.integers(2**31)))
    cars = tuple(car for car in base.vehicles if car.z > z)  # nothing may stand before the sign
    props = tuple(prop for prop in base.props if prop.z > z)
    return replace(base, signs=(sign,), vehicles=cars, props=props, bend=0.0), name
