"""Parity: the exported file against autograd of the torch module, on noise and on road pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from dkcam.engines import open_bytes
from dkcam.engines.engine import draw_masks, graph_input
from dkcam.errors import ParityError
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.graph import write_graph
from dkcam.export.pictures import Pictures
from dkcam.export.reference import Reference
from dkcam.rendered import random_scene, render
from dkcam.spec import ModelSpec

TOLERANCE = 1e-4  # of the reference's largest value


@dataclass(frozen=True)
class Row:
    """One output on one kind of picture: the largest error, and the reference's largest value."""

    output: str
    pictures: str
    error: float
    largest: float

    @property
    def relative(self) -> float:
        """Largest error over the reference's largest value; a reference of zeros must be met with zeros."""
        if self.largest == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.largest

    @property
    def passed(self) -> bool:
        return self.relative <= TOLERANCE


@dataclass(frozen=True)
class Parity:
    """All rows, how much two pictures' heatmaps differ (0..1; a frozen gradient gives 0, no heatmap None), and how many ReLU units lay
    so near zero that float32 and float64 see different signs (``Reference``).
    """

    rows: tuple[Row, ...] = ()
    input_dependence: float | None = None
    kinks: int = 0
    images: dict[str, int] = field(default_factory=dict)

    def worst(self) -> dict[str, float]:
        """Largest relative error per output, three digits: what the file's metadata keeps."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row.output] = max(found.get(row.output, 0.0), row.relative)
        return {name: float(f"{value:.2e}") for name, value in found.items()}

    def check(self) -> None:
        """Errors: ParityError naming the worst output, or a heatmap that does not depend on the picture."""
        bad = [row for row in self.rows if not row.passed]
        if bad:
            row = max(bad, key=lambda r: r.relative)
            raise ParityError(
                f"{row.output} differs from autograd by {row.relative:.1e} of its maximum on {row.pictures} pictures, "
                f"tolerance {TOLERANCE:.0e}; nothing was written"
            )
        if self.input_dependence is not None and self.input_dependence < 1e-6:
            raise ParityError(
                "different pictures gave the same heatmap: the gradient is frozen in the graph, or the heatmap is zero everywhere "
                "(an untrained model?); nothing was written"
            )


def verify(data: bytes, checkpoint: Checkpoint, spec: ModelSpec, calibration: Pictures | None = None) -> Parity:
    """Run the file and the reference on the same pictures and compare every output the file has."""
    engine, reference = open_bytes(data, "the new file"), Reference(checkpoint.module(), spec)
    probe = open_bytes(write_graph(checkpoint, spec, probes=True), "the probe") if _crosses_relus(spec) else None
    height, width = spec.height, spec.width
    if "size" in spec.dynamic:
        height, width = height + 32, width + 64  # a size the graph was not described with
    batch = min(spec.batch[1], 2) if "batch" in spec.dynamic else spec.batch[0]
    rng = np.random.default_rng(0)
    kinds = {"random": [_noise(rng, height, width) for _ in range(max(batch, 2))]}
    if calibration is None:
        kinds["rendered"] = [render(random_scene(rng), height, width)[0][..., ::-1] for _ in range(max(batch, 2))]
    else:
        found = [_sized(image, height, width) for image in calibration.images[: max(batch, 2)]]
        kinds["calibration"] = [found[i % len(found)] for i in range(max(batch, 2))]
    count = spec.explain or min(2, len(spec.labels))
    classes = np.array([-1, *range(count - 1)], np.int64)
    mask = draw_masks(spec, rng, height, width)
    rows: list[Row] = []
    maps: list[NDArray[np.generic]] = []
    for kind, pictures in kinds.items():
        worst: dict[str, tuple[float, float]] = {}
        for start in range(0, len(pictures) - batch + 1, batch):
            image = graph_input(np.stack(pictures[start : start + batch]), spec)
            given = engine.run(image, classes, mask)
            if probe is not None:
                seen = probe.run(image, classes, mask)
                reference.signs = [seen[f"relu_{i}"] > 0 for i in range(sum(name.startswith("relu_") for name in seen))]
            expected = reference.run(image, classes, mask)
            for name in spec.outputs:
                error = float(np.abs(given[name].astype(np.float64) - expected[name]).max())
                # a spread over masks is a difference of heatmaps, and may be zero: its scale is the heatmap's
                largest = float(np.abs(expected["heatmap" if name == "heatmap_std" else name]).max())
                before = worst.get(name, (0.0, 0.0))
                worst[name] = (max(before[0], error if math.isfinite(error) else math.inf), max(before[1], largest))
            maps.extend(given.get("heatmap", []))
        rows += [Row(name, kind, *worst[name]) for name in spec.outputs]
    counts = {kind: len(pictures) for kind, pictures in kinds.items()}
    return Parity(tuple(rows), _dependence(maps), reference.kinks, counts)


def _crosses_relus(spec: ModelSpec) -> bool:
    """Whether a gradient passes ReLUs on its way to the layer; from layer4's output to the scores there is none."""
    return spec.layer != "layer4" and bool(set(spec.outputs) & {"weights", "heatmap", "heatmap_std", "gradient"})


def _dependence(maps: Sequence[NDArray[np.generic]]) -> float | None:
    """Largest difference between two pictures' heatmaps of the same rank, relative to the largest value."""
    if not maps:
        return None
    stack = np.stack([m.astype(np.float64) for m in maps])
    top = float(np.abs(stack).max())
    return float((stack.max(0) - stack.min(0)).max()) / top if top > 0 else 0.0


def _sized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return image if image.shape[:2] == (height, width) else np.asarray(cv2.resize(image, (width, height)), np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
