"""What a camera hangs on: a connection that can be ended at once, from any thread, whatever it is doing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class Gone(Exception):
    """The picture that was asked for can no longer be had; a newer one can, or the connection is over."""


@dataclass(frozen=True)
class Arrival:
    """A picture that has arrived, not decoded yet.

    at: of time.perf_counter, when it arrived, or should have. take: decodes it; uint8 [H, W, 3] BGR, None for a damaged
    one; raises Gone. At most one at a time is under way. skipped: pictures before it that were not told of.
    """

    at: float
    take: Callable[[], Future[Picture | None]]
    skipped: int = 0


class Link(Protocol):
    """One thread opens and reads. end, close, overdue: from any thread."""

    def open(self) -> None:
        """Connect. Errors: SourceError saying why nothing answers."""
        ...

    def arrivals(self) -> Iterator[Arrival]:
        """Until the connection ends. Errors: SourceError when it breaks off; ``open`` may follow."""
        ...

    def overdue(self, now: float) -> str | None:
        """Why the connection must be given up, if it must. now: of time.perf_counter."""
        ...

    def end(self, why: str = ...) -> None:
        """Make ``open`` and ``arrivals`` raise SourceError(why) at once."""
        ...

    def close(self) -> None:
        """``end``, and free what the connection holds."""
        ...
