"""Small objects in large frames: a grid of overlapping windows, explained in one batch and put together again.

A sign that is 30 of a frame's 1360 pixels wide is 7 pixels wide after resizing to 320. In a grid of 3 × 4 windows it
keeps four times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.cells import interpolation
from dkcam.errors import InputError, ModelFileError
from dkcam.runtime.explainer import Classes, Explainer, Explains, Prepared, check_frame, class_numbers
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import Fit

MOST_AT_ONCE = 16  # classes explained in one run, as TensorRT profiles allow
OVERLAP = 0.25  # of a window's side with its neighbour's


@dataclass(frozen=True)
class Tiles:
    """A prepared frame's windows: prepared one by one, and (top, left) of each in the frame's pixels."""

    prepared: tuple[Prepared, ...]
    places: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    frame: tuple[int, int]


class GridExplainer:
    """Looks at each frame through rows × columns overlapping windows; used as an ``Explainer``.

    A class's probability is its highest in any window (``background``'s its lowest), scaled to add to 1. Its heatmap
    lies over the whole frame: the windows' maps, each times the class's probability there; where windows overlap, the
    larger heat. Graphs with a free batch run all windows at once. background: the class of windows that show nothing.
    """

    def __init__(self, explainer: Explainer, rows: int, columns: int, background: str | None = None) -> None:
        if rows < 1 or columns < 1:
            raise InputError(f"the grid is {rows}x{columns}, expected 1x1 or more")
        if explainer.spec.task not in ("classify", "dense"):
            raise ModelFileError(f"a grid puts windows' classes together, this model's task is {explainer.spec.task}; leave --grid out")
        if explainer.spec.explanation.count is not None:
            raise ModelFileError("a grid explains the frame's top class in every window; export the model without --classes")
        self.engine, self.spec = explainer.engine, explainer.spec
        self._explainer, self._rows, self._columns = explainer, rows, columns
        self._background = None if background is None else explainer.spec.labels.index(background)

    @property
    def device(self) -> str:
        """What truly runs the model."""
        return self.engine.device

    def __call__(self, frame: NDArray[np.uint8]) -> Explanation:
        """Explain one frame, uint8 [H, W, 3] BGR."""
        return self.infer(self.prepare(frame))

    def prepare(self, frame: NDArray[np.uint8]) -> Tiles:
        """Cut and resize the windows, safe to run in another thread. Errors: InputError for another shape or type."""
        check_frame(frame)
        height, width = frame.shape[:2]
        (high, wide), places = _windows(height, width, self._rows, self._columns)
        prepared = tuple(self._explainer.prepare_on_host(frame[top : top + high, left : left + wide]) for top, left in places)
        return Tiles(prepared, places, (high, wide), (height, width))

    def inputs(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """As ``Explainer.inputs``, a window each."""
        return np.concatenate([np.asarray(each.image) for each in self.prepare(image).prepared])

    def prepared_from(self, inputs: NDArray[Any], height: int, width: int) -> Tiles:
        """As ``Explainer.prepared_from``."""
        size, places = _windows(height, width, self._rows, self._columns)
        if len(inputs) != len(places):
            raise InputError(f"there are {len(inputs)} windows, this grid has {len(places)}")
        prepared = tuple(self._explainer.prepared_from(each[None], *size) for each in inputs)
        return Tiles(prepared, places, size, (height, width))

    def infer(self, prepared: Tiles, classes: Classes | None = None, *, masks: bool = True) -> Explanation:
        """Explain all windows and put them together."""
        return self.infer_many([prepared], classes, masks=masks)[0]

    def infer_many(self, prepared: Sequence[Tiles], classes: Classes | None = None, *, masks: bool = True) -> list[Explanation]:
        """As ``Explainer.infer_many``, frame by frame."""
        chosen = [int(k) for k in self._explainer.classes] if classes is None else class_numbers(self.spec, classes)
        return [self._explained(each, chosen, masks) for each in prepared]

    def warm_up(self) -> float:
        """See ``Explainer.warm_up``."""
        return self._explainer.warm_up()

    def _explained(self, tiles: Tiles, classes: Sequence[int], masks: bool) -> Explanation:
        count = len(self.spec.labels)
        # which classes the frame shows is known only afterwards: all of them at once where they are few
        first = self._explainer.infer_many(tiles.prepared, range(count) if count <= MOST_AT_ONCE else [-1], masks=masks)
        probabilities = self._merged(np.stack([said.probabilities for said in first]))
        order = np.argsort(-probabilities, kind="stable")
        asked = [int(order[-1 - k]) if k < 0 else k for k in classes]
        second = first if count <= MOST_AT_ONCE else self._explainer.infer_many(tiles.prepared, asked, masks=masks)
        rows = asked if count <= MOST_AT_ONCE else list(range(len(asked)))
        heat = self._laid_out(tiles, second, asked, [said.heatmap[rows] for said in second])
        spreads = [said.heatmap_std[rows] for said in second if said.heatmap_std is not None]
        return Explanation(
            labels=self.spec.labels,
            probabilities=probabilities,
            explained=np.array(asked, np.int64),
            heatmap=heat,
            heatmap_std=self._laid_out(tiles, second, asked, spreads) if spreads else None,
            fit=Fit(*tiles.frame, *self._whole_input(second[0], heat)),
            device=self.engine.device,
        )

    def _whole_input(self, window: Explanation, heat: NDArray[np.float32]) -> tuple[int, int]:
        """Height and width of an input that shows the whole frame in cells as large as a window's."""
        way, (rows, columns) = self.spec.input, window.heatmap.shape[1:]
        return round(heat.shape[1] * way.height / rows), round(heat.shape[2] * way.width / columns)

    def _merged(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        merged = probabilities.max(0)
        if self._background is not None:
            merged[self._background] = probabilities[:, self._background].min()
        return np.asarray(merged / merged.sum(), np.float32)

    def _laid_out(
        self, tiles: Tiles, said: Sequence[Explanation], asked: Sequence[int], maps: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """The windows' maps [K, h, w] as one over the frame, in cells of about the windows' size."""
        (high, wide), (height, width) = tiles.size, tiles.frame
        cells_high = max(1, round(maps[0].shape[1] * height / high))
        cells_wide = max(1, round(maps[0].shape[2] * width / wide))
        y = (np.arange(cells_high) + 0.5) * height / cells_high
        x = (np.arange(cells_wide) + 0.5) * width / cells_wide
        whole = np.zeros((len(asked), cells_high, cells_wide), np.float32)
        for (top, left), each, heat in zip(tiles.places, said, maps, strict=True):
            rows, columns = (y >= top) & (y <= top + high), (x >= left) & (x <= left + wide)
            place = np.ix_(rows, columns)
            # the input may show less than the window (crop) or more (letterbox)
            spread_y = _weights((y[rows] - top) * each.fit.scale[0] + each.fit.offset[0], each.fit.height, heat.shape[1])
            spread_x = _weights((x[columns] - left) * each.fit.scale[1] + each.fit.offset[1], each.fit.width, heat.shape[2])
            for k, number in enumerate(asked):
                own = spread_y @ heat[k] @ spread_x.T * each.probabilities[number]
                whole[k][place] = np.maximum(whole[k][place], own)
        return whole


def grid_windows(frame: NDArray[np.uint8], rows: int, columns: int) -> list[NDArray[np.uint8]]:
    """The windows of a frame uint8 [H, W, 3], row by row, as views."""
    (high, wide), places = _windows(frame.shape[0], frame.shape[1], rows, columns)
    return [frame[top : top + high, left : left + wide] for top, left in places]


def _windows(height: int, width: int, rows: int, columns: int) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
    """Height and width of the windows, and (top, left) of each."""
    high, tops = _along(height, rows)
    wide, lefts = _along(width, columns)
    return (high, wide), tuple((top, left) for top in tops for left in lefts)


def _along(side: int, count: int) -> tuple[int, list[int]]:
    """Length and starts of ``count`` windows that cover a side with overlap."""
    length = min(side, int(np.ceil(side / (count - (count - 1) * OVERLAP))))
    return length, [round(i * (side - length) / max(count - 1, 1)) for i in range(count)]


def _weights(places: NDArray[np.float64], size: int, cells: int) -> NDArray[np.float32]:
    """Matrix [places, cells]: input pixels to a window's cells."""
    return interpolation(places * cells / size, cells).astype(np.float32)


def grid_explainer(explainer: Explainer, grid: tuple[int, int] | None, background: str | None) -> Explains:
    """The explainer itself without a grid. Errors: InputError for a background the model does not know."""
    if grid is None:
        if background is not None:
            raise InputError("--background is about grids of windows; give --grid too")
        return explainer
    names = {label.lower(): label for label in explainer.spec.labels}
    if background is not None and background.lower() not in names:
        raise InputError(f"--background {background}: expected one of the model's classes: {', '.join(explainer.spec.labels[:12])}")
    return GridExplainer(explainer, *grid, names[background.lower()] if background else None)
