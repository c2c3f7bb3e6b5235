"""What a run saw, in a few lines: classes, speed, and where the heat fell against true boxes."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from dkcam.rendered import SIGN_NAMES, Box
from dkcam.runtime.result import Result
from dkcam.spec import STRIDE

NEAR_SHARE = 0.08  # of the frame's height: a sign smaller than this is too far away to count


@dataclass
class RunSummary:
    """Collects results as they come."""

    labels: Counter[str] = field(default_factory=Counter)
    infer_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    with_sign: int = 0
    recognised: int = 0
    on_sign: int = 0
    device: str = ""

    def add(self, result: Result) -> None:
        self.labels[result.explanation.top(1)[0].label] += 1
        self.infer_ms.append(result.latency.infer)
        self.device = result.explanation.device
        if result.frame.boxes is not None:
            self._compare(result, nearest_sign(result.frame.boxes, *result.frame.image.shape[:2]))

    def _compare(self, result: Result, sign: Box | None) -> None:
        if sign is None:
            return
        self.with_sign += 1
        said = result.explanation
        if said.top(1)[0].label != sign.label:
            return
        self.recognised += 1
        peak = said.peak()
        height, width = result.frame.image.shape[:2]
        if peak is not None:
            down, right = said.fit.scale
            slack_x, slack_y = STRIDE / 2 / right, STRIDE / 2 / down  # half a layer4 cell in frame pixels
            x, y = peak[0] * width, peak[1] * height
            self.on_sign += sign.left - slack_x <= x <= sign.right + slack_x and sign.top - slack_y <= y <= sign.bottom + slack_y

    def lines(self, frames: int, fps: float, dropped: int) -> list[str]:
        """Text for the terminal."""
        seen = ", ".join(f"{label} {count}" for label, count in self.labels.most_common(5))
        found = [
            f"{frames} frames at {fps:.1f} frames/s on {self.device}, inference {float(np.median(self.infer_ms)):.1f} ms (median)"
            + (f", {dropped} dropped" if dropped else ""),
            f"top class, frames: {seen}",
        ]
        if self.with_sign:
            found.append(
                f"a sign stood near in {self.with_sign} frames: recognised in {self.recognised} "
                f"({self.recognised / self.with_sign:.0%}), heat peak on the sign in {self.on_sign} of those"
                + (f" ({self.on_sign / self.recognised:.0%})" if self.recognised else "")
            )
        return found


def nearest_sign(boxes: tuple[Box, ...], height: int, width: int) -> Box | None:
    """The largest sign wholly in view and tall enough, or None."""
    inside = [
        b
        for b in boxes
        if b.label in SIGN_NAMES
        and b.left >= 0
        and b.top >= 0
        and b.right <= width
        and b.bottom <= height
        and b.bottom - b.top >= NEAR_SHARE * height
    ]
    return max(inside, key=lambda b: b.bottom - b.top, default=None)
