"""What a run saw, in a few lines: classes, speed, and where the heat fell against true boxes, beside controls."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dkcam.cells import TOLERANCE, pointing
from dkcam.rendered import SIGN_NAMES, Box
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.result import Result
from dkcam.tools.metrics.place import even
from dkcam.tools.run.compared import Compared

NEAR_SHARE = 0.08  # of the frame's height: a sign smaller than this is too far away to count


@dataclass(frozen=True)
class Hits:
    """Where peaks lay in one frame, 0..1: (strictly on the sign, within the tolerance). tolerance: frame pixels, (across, down)."""

    top: tuple[float, float]
    runner_up: tuple[float, float] | None
    chance: tuple[float, float]
    tolerance: tuple[float, float]


@dataclass
class RunSummary:
    """Collects results as they come."""

    labels: Counter[str] = field(default_factory=Counter)
    values: dict[str, tuple[float, float]] = field(default_factory=dict)  # of a regressor's outputs: least, most
    task: str = "classify"
    infer_ms: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    heights: list[float] = field(default_factory=list)  # of the signs that stood near, frame pixels
    recognised: int = 0
    hits: list[Hits] = field(default_factory=list)  # of recognised signs
    device: str = ""

    def add(self, result: Result) -> None:
        said = result.explanation
        self.task = said.task
        if said.task == "regress":
            for score in said.top(len(said.labels)):
                assert score.value is not None
                least, most = self.values.get(score.label, (score.value, score.value))
                self.values[score.label] = min(least, score.value), max(most, score.value)
        elif said.task == "detect":
            self.labels.update([found.label for found in said.detections] or ["nothing"])
        else:
            self.labels[said.top(1)[0].label] += 1
        self.infer_ms.append(result.latency.infer)
        self.device = result.explanation.device
        if result.frame.boxes is not None and said.task == "classify":
            self._compare(result.explanation, nearest_sign(result.frame.boxes, *result.frame.image.shape[:2]))

    def _compare(self, said: Explanation, sign: Box | None) -> None:
        if sign is None:
            return
        self.heights.append(sign.bottom - sign.top)
        top = said.top(1)[0]
        if top.label != sign.label:
            return
        self.recognised += 1
        heat = said.top_heat if isinstance(said, Compared) else _map_of(said, top.index)
        if heat is not None:
            area, other = said.fit.area(sign, heat.shape), said.runner_up if isinstance(said, Compared) else None
            down, across = (TOLERANCE * side for side in said.fit.cell(heat.shape))

            def both(one: NDArray[np.floating]) -> tuple[float, float]:
                return pointing(one, area, tolerance=0), pointing(one, area)

            self.hits.append(
                Hits(both(heat), None if other is None else both(other), both(even(heat.shape, said.fit.shown(heat.shape))), (across, down))
            )

    def lines(self, frames: int, fps: float, dropped: int) -> list[str]:
        """Text for the terminal."""
        seen = ", ".join(f"{label} {count}" for label, count in self.labels.most_common(5))
        found = [
            f"{frames} frames at {fps:.1f} frames/s on {self.device}, inference {float(np.median(self.infer_ms)):.1f} ms (median)"
            + (f", {dropped} dropped" if dropped else ""),
            self._outputs() if self.values else f"detections: {seen}" if self.task == "detect" else f"top class, frames: {seen}",
        ]
        if self.heights:
            found.append(
                f"drawn scenes: sign of {min(self.heights):.0f} to {max(self.heights):.0f} pixels in {len(self.heights)} frames, "
                f"recognised in {self.recognised} ({self.recognised / len(self.heights):.0%})"
            )
        return found + (self._table() if self.hits else [])

    def _outputs(self) -> str:
        parts = [f"{name} {least:.3g} to {most:.3g}" for name, (least, most) in list(self.values.items())[:5]]
        return f"outputs: {', '.join(parts)}"

    def _table(self) -> list[str]:
        across, down = self.hits[0].tolerance
        others = [each.runner_up for each in self.hits if each.runner_up is not None]
        columns = {"top class": [each.top for each in self.hits]} | ({"runner-up": others} if others else {})
        columns["chance"] = [each.chance for each in self.hits]
        head = f"of those {len(self.hits)}, heat peak"
        rows = ["strictly on the sign", f"or within half a cell ({across:.0f}x{down:.0f} pixels)"]
        wide = max(len(head), *(len(row) + 2 for row in rows))
        lines = [head.ljust(wide) + "".join(f"{name:>11}" for name in columns)]
        for k, row in enumerate(rows):
            lines.append(f"  {row}".ljust(wide) + "".join(f"{np.mean([pair[k] for pair in pairs]):>11.0%}" for pairs in columns.values()))
        return lines


def _map_of(said: Explanation, index: int) -> NDArray[np.float32] | None:
    """The class's heatmap, where it was asked for."""
    rows = np.flatnonzero(said.explained == index)
    return said.heatmap[rows[0]] if rows.size else None


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
