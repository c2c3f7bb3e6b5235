"""Which of a detector's boxes someone chose, and where it is in the frames that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import overlap

SAME = 0.3  # overlap of one object's boxes in two frames, at least


@dataclass(frozen=True)
class Focus:
    """A box that was chosen on a camera's picture. index: its class. box: (x1, y1, x2, y2), 0..1 of the frame."""

    camera: int
    index: int
    box: tuple[float, float, float, float]


class Follower:
    """Follows one box from frame to frame: the box of its class that overlaps most with where it was last."""

    def __init__(self) -> None:
        self._focus: Focus | None = None
        self._last = (0.0, 0.0, 0.0, 0.0)

    def follow(self, focus: Focus | None, camera: int, said: Explanation) -> Explanation:
        """The explanation with its ``focus``; as it is where the box is not seen. Frames come in order."""
        if focus is not self._focus:
            self._focus = focus
            self._last = focus.box if focus is not None else self._last
        if focus is None or focus.camera != camera:
            return said
        near = [(overlap(found.box, self._last), found) for found in said.detections if found.index == focus.index]
        share, best = max(near, key=lambda pair: pair[0], default=(0.0, None))
        if best is None or not share >= SAME:  # a client may send what is no number
            return said
        self._last = best.box
        return replace(said, focus=best.row)
