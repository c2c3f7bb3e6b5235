"""One picture from a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dkcam.rendered import Box


@dataclass(frozen=True)
class Frame:
    """image: uint8 [H, W, 3] BGR. index: from 0. time_s: seconds into the source (live: since the run began).

    boxes: true places of objects where the source knows them, else None. name: file stem for pictures, else "". camera: number
    of the source in a run with several.
    """

    image: NDArray[np.uint8]
    index: int
    source: str
    time_s: float
    boxes: tuple[Box, ...] | None = None
    name: str = ""
    camera: int = 0


class Source(Protocol):
    """name: the URI. live: frames arrive whether or not they are taken. fps, count: where known, else None.

    skipped: what could not be read so far and was left out, a message each.
    """

    name: str
    live: bool
    fps: float | None
    count: int | None

    @property
    def skipped(self) -> Sequence[str]: ...

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order; of files from the first one on, each time. Errors: SourceError when reading breaks off."""
        ...

    def close(self) -> None: ...
