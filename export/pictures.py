"""Pictures to verify and calibrate on, as the network sees them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dkcam.rendered import random_scene, render


@dataclass(frozen=True)
class Pictures:
    """images: uint8 [H, W, 3] RGB, brought to the network's size as frames will be. sources: what each one shows; those of one source
    (a frame, a second of a video) are no independent evidence. rendered: drawn, in place of pictures of the user's.
    """

    images: Sequence[NDArray[np.uint8]]
    sources: Sequence[Hashable]
    rendered: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def of(self, sources: frozenset[Hashable], most: int) -> Pictures:
        """Those of some sources, at most ``most``, as many of each as possible."""
        taken: dict[Hashable, int] = {}
        order = []
        for index, source in enumerate(self.sources):
            if source in sources:
                order.append((taken.get(source, 0), index))
                taken[source] = taken.get(source, 0) + 1
        chosen = [index for _, index in sorted(order)[:most]]
        return Pictures([self.images[i] for i in chosen], [self.sources[i] for i in chosen], self.rendered)

    def spread(self, count: int) -> Pictures:
        """At most ``count``, evenly spaced."""
        chosen = evenly(len(self), count)
        return Pictures([self.images[i] for i in chosen], [self.sources[i] for i in chosen], self.rendered)


def evenly(available: int, count: int) -> list[int]:
    """At most ``count`` of the numbers below ``available``, evenly spaced."""
    return sorted({index * available // min(count, available) for index in range(min(count, available))})


def rendered_pictures(height: int, width: int, count: int, seed: int = 0) -> Pictures:
    """Scenes as ``dkcam.rendered`` draws them, each a source of its own."""
    rng = np.random.default_rng(seed)
    images = [np.ascontiguousarray(render(random_scene(rng), height, width)[0][..., ::-1]) for _ in range(count)]
    return Pictures(images, range(count), rendered=True)
