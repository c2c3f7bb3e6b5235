"""What can be changed while a run goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from dkcam.runtime.explanation import Explanation
from dkcam.runtime.focus import Focus, Follower
from dkcam.runtime.overlay import check_style


@dataclass(frozen=True)
class Style:
    """How overlays look; speed: write the running speed and the picture's age into it."""

    alpha: float = 0.6
    colormap: str = "turbo"
    layout: str = "side"
    speed: bool = True


@dataclass(frozen=True)
class Settings:
    """classes: numbers of the classes to explain (−1 the top class), None for the explainer's own. masks: use DropKey
    masks, for graphs with samples. paused: take no new frames. focus: the one box of a detector whose heat is shown.
    """

    style: Style = Style()
    classes: tuple[int, ...] | None = None
    masks: bool = True
    paused: bool = False
    focus: Focus | None = None


class Controls:
    """The settings that hold now; any thread may read and change them."""

    def __init__(self, style: Style | None = None) -> None:
        self._lock = threading.Lock()
        self._settings = Settings(style or Style())
        self.changed_at = 0.0  # of time.monotonic
        self._follower = Follower()
        _check(self._settings)

    @property
    def settings(self) -> Settings:
        return self._settings

    def change(self, *, style: dict[str, Any] | None = None, **values: Any) -> Settings:
        """Change some; style: fields of ``Style``. Errors: InputError for what cannot be drawn, and nothing changes."""
        with self._lock:
            new = replace(self._settings, style=replace(self._settings.style, **(style or {})), **values)
            _check(new)
            self._settings, self.changed_at = new, time.monotonic()
            return new

    def focused(self, camera: int, said: Explanation) -> Explanation:
        """With the box that someone chose, where it is seen. For the thread that has the frames in order."""
        return self._follower.follow(self._settings.focus, camera, said)


def _check(settings: Settings) -> None:
    check_style(settings.style.alpha, settings.style.colormap, settings.style.layout)
