"""Frames without labels: two models compared need none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dkcam.runtime.frame import Source
from dkcam.runtime.sources import open_source
from dkcam.tools.checks.dataset import Dataset
from dkcam.tools.checks.samples import Sample


def open_plain(path: Path) -> tuple[Dataset, Source]:
    """A video, a picture or a folder of pictures. Errors: SourceError."""
    source = open_source(str(path.absolute()))  # a folder called 0 is no camera
    return Dataset(path, "video" if source.fps else "pictures, no labels"), source


def plain_samples(dataset: Dataset, source: Source, most: int | None) -> Iterator[Sample]:
    """Whole frames of which nothing is known; pictures that cannot be read are noted as problems."""
    for count, frame in enumerate(source, 1):
        name = Path(frame.source).name if frame.name else f"{dataset.source.name} frame {frame.index}"
        yield Sample(frame.image, name, None, "no labels", None, (), frame.image.shape[:2])
        if count == most:
            break
    for message in source.skipped:
        dataset.note("unreadable picture", dataset.source.name, message)
