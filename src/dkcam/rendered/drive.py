"""A drive past a row of traffic signs: the ``demo:`` source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dkcam.rendered.road import Box, Camera, Scene, SignPost, random_props, random_vehicle, render
from dkcam.rendered.signs import SIGN_NAMES, Picture

FIRST_SIGN = 22.0  # metres ahead at the start: near enough to be read
SIGN_GAP = 34.0  # metres from one sign to the next
SIGHT = 90.0  # metres; farther things are not drawn


@dataclass(frozen=True)
class Drive:
    """A seeded drive at constant speed.

    frames: how many. height, width: pixels. fps: frames per second of drive time. speed: metres per second.
    Iterating gives (frame uint8 [height, width, 3] BGR, boxes of the signs and vehicles in sight).
    """

    frames: int = 300
    height: int = 720
    width: int = 1280
    fps: float = 25.0
    speed: float = 14.0
    seed: int = 0

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[tuple[Picture, list[Box]]]:
        rng = np.random.default_rng(self.seed)
        length = self.frames / self.fps * self.speed + SIGHT
        order = [str(name) for name in rng.permutation(SIGN_NAMES)]
        places = np.arange(FIRST_SIGN, length, SIGN_GAP)
        signs = [
            SignPost(order[i % len(order)], float(rng.uniform(2.3, 2.8)), float(z), float(rng.uniform(1.9, 2.3)), seed=i)
            for i, z in enumerate(places)
        ]
        props = random_props(rng, 10, length, int(length / 5))
        cars = [(random_vehicle(rng, float(z)), float(rng.uniform(6, 12))) for z in np.arange(60.0, length, 55.0)]
        cars = [(replace(car, x=-3.5), pace) for car, pace in cars]
        base = Scene(light=0.95, texture=self.seed, camera=Camera(focal=2.3, horizon=0.56))
        for index in range(self.frames):
            time = index / self.fps
            here = time * self.speed
            scene = replace(
                base,
                signs=tuple(replace(s, z=s.z - here) for s in signs if 0 < s.z - here < SIGHT),
                props=tuple(replace(p, z=p.z - here) for p in props if 0 < p.z - here < SIGHT),
                vehicles=tuple(replace(c, z=c.z - here + pace * time) for c, pace in cars if 0 < c.z - here + pace * time < SIGHT),
                dash_offset=here,
                bend=0.0004 * float(np.sin(here / 60.0)),
            )
            yield render(scene, self.height, self.width)
