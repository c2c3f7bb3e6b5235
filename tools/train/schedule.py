"""What the network sees when: small canvases first, so that objects start large and shrink.

A sign keeps its size in pixels while the canvas around it grows. Trained straight at full size on small signs the
network stays at chance level for tens of thousands of pictures; this way it first learns what signs look like.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from dkcam.export.sizes import STRIDE

STAGES = ((0.45, 1 / 3), (0.30, 1 / 2), (0.18, 2 / 3), (0.07, 1.0))  # (share of the pictures, canvas over full size)


@dataclass(frozen=True)
class Schedule:
    """pictures: how many in all. batch: pictures a step. height, width: full size in pixels, multiples of 32."""

    pictures: int
    batch: int
    height: int
    width: int
    peak_rate: float

    @property
    def steps(self) -> int:
        return max(self.pictures // self.batch, 1)

    def canvas(self, step: int) -> tuple[int, int]:
        """Height and width in pixels at a step, multiples of 32, at least 64 (or the full size, if smaller)."""
        done, past = step / self.steps, 0.0
        for share, scale in STAGES:
            past += share
            if done < past - 1e-9:
                return self._side(self.height, scale), self._side(self.width, scale)
        return self.height, self.width

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up over 3 % of the steps, then a cosine to zero."""
        warm = max(int(0.03 * self.steps), 1)
        if step < warm:
            return self.peak_rate * (step + 1) / warm
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(self.steps - warm, 1)))

    def batches(self, start: int) -> Iterator[list[tuple[int, int, int]]]:
        """For each step from ``start``: one (picture number, height, width) per picture."""
        for step in range(start, self.steps):
            height, width = self.canvas(step)
            yield [(step * self.batch + i, height, width) for i in range(self.batch)]

    def _side(self, full: int, scale: float) -> int:
        return min(full, max(2 * STRIDE, STRIDE * round(full * scale / STRIDE)))
