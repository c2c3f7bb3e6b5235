"""What ``--calibration`` names, as the network will see it in use: resized as frames are, in windows or a grid where asked for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import DataError, ExportError, SourceError
from dkcam.export.pictures import Pictures, evenly
from dkcam.files import exists
from dkcam.runtime.geometry import Fit
from dkcam.runtime.grid import grid_windows
from dkcam.runtime.kernels import network_input
from dkcam.runtime.sources import PICTURES, open_source, read_picture
from dkcam.tools.checks.dataset import Dataset
from dkcam.tools.checks.formats import read_dataset
from dkcam.tools.checks.samples import Sample, Windows, samples
from dkcam.tools.logs import say

if TYPE_CHECKING:
    from dkcam.spec import ModelSpec

MOST = 2100  # pictures in all: enough for 1200 to judge on
ROUNDS = 16  # windows around one object, each at another place and size

Frames = Iterator[tuple[NDArray[np.uint8], Hashable]]  # uint8 [H, W, 3] BGR, and what it shows


def read_calibration(path: Path, spec: ModelSpec, *, windows: bool = False, grid: tuple[int, int] | None = None) -> Pictures:
    """Up to ``MOST`` pictures for a spec.

    path: a folder of pictures, a picture, a video, or a data set in a form of dk-check's. windows: a window around each
    labelled object. grid: rows and columns of windows, as dk-run's --grid. Errors: ExportError.
    """
    if not exists(path):
        raise ExportError(f"--calibration {path} does not exist; expected pictures, a video, or a data set")
    dataset = _dataset(path, needed=windows)
    whole = MOST if grid is None else -(-MOST // (grid[0] * grid[1]))
    frames = _windows(dataset, spec) if windows and dataset is not None else _frames(path, dataset, most=whole)
    images: list[NDArray[np.uint8]] = []
    sources: list[Hashable] = []
    try:
        for frame, source in frames:
            for part in [frame] if grid is None else grid_windows(frame, *grid):
                fit = Fit(part.shape[0], part.shape[1], spec.input.height, spec.input.width, spec.input.resize)
                images.append(np.asarray(network_input(part, fit), np.uint8))
                sources.append(source)
            if len(images) >= MOST:
                break
    except SourceError as error:
        raise ExportError(f"--calibration {error}") from error
    if not images:
        raise ExportError(f"--calibration {path} holds no readable picture; expected {', '.join(sorted(PICTURES))}, a video, or a data set")
    return Pictures(images, sources)


def _dataset(path: Path, *, needed: bool) -> Dataset | None:
    try:
        return read_dataset(path) if path.is_dir() or path.suffix.lower() in (".json", ".csv") or needed else None
    except DataError as error:
        if needed or not path.is_dir():
            raise ExportError(f"--calibration {error}") from error
        return None  # a folder of pictures without labels


class _AnyClass:
    """Every class of the data set as a class of its own: what the network may see does not depend on what it can name."""

    background: int | None = None

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, kind: str) -> int:
        return self._numbers.setdefault(kind, len(self._numbers))


def _windows(dataset: Dataset, spec: ModelSpec) -> Frames:
    labels, before = _AnyClass(), 0
    for seed in range(ROUNDS):
        found: list[Sample] = list(samples(dataset, labels, Windows(spec.input.height, spec.input.width, seed=seed)))
        yield from ((sample.image, sample.name) for sample in found)
        before += len(found)
        if before >= MOST:
            return


def _frames(path: Path, dataset: Dataset | None, *, most: int) -> Frames:
    files = [picture.path for picture in dataset.pictures] if dataset else _pictures(path)
    if not files:
        yield from _video(path, most)
        return
    damaged: list[str] = []
    for index in evenly(len(files), most):
        try:
            yield read_picture(files[index]), str(files[index])
        except SourceError as error:
            damaged.append(str(error))
    if damaged:
        say("note", f"--calibration: {len(damaged)} pictures are left out: {damaged[0]}" + (", …" if len(damaged) > 1 else ""))


def _video(path: Path, most: int) -> Frames:
    source = open_source(str(path))
    try:
        second, wanted = max(1, round(source.fps or 25)), set(evenly(source.count or most, most))
        for frame in source:
            if frame.index in wanted:
                yield frame.image, frame.index // second
    finally:
        source.close()


def _pictures(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES)
    return [path] if path.suffix.lower() in PICTURES else []
