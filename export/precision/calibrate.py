"""Ranges of activations over pictures: where clipping and rounding cost least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from dkcam.export.backbone import Body
from dkcam.export.model import ResNet
from dkcam.export.precision.numerics import Range

BINS = 2048
CANDIDATES = 100
RARE = 1e-6  # of all values
STEPS = 255  # of 8 bits
POWER = 3  # of an error; the square clips so much that scores fall, the fourth power rounds so much that maps blur
BATCH = 4


class _Watcher(fx.Interpreter):
    """Runs the backbone and hands every ReLU's, batch-norm's and the input's values to ``seen``."""

    def __init__(self, body: nn.Module, seen: Any) -> None:
        super().__init__(fx.GraphModule(body, fx.Tracer().trace(body)))
        self._seen = seen
        self._modules_by_name = dict(body.named_modules())

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        module = self._modules_by_name.get(str(n.target)) if n.op == "call_module" else None
        if n.op == "placeholder" or isinstance(module, (nn.ReLU, nn.BatchNorm2d)):
            self._seen(n.name, value)
        return value


def calibrate(model: ResNet, pictures: Sequence[NDArray[np.float32]]) -> dict[str, Range]:
    """Ranges (low, high) of every activation, with low 0 for those after a ReLU.

    pictures: normalised float32 [3, H, W], all of one size. Two passes: extremes, then a histogram of each.
    """
    body = Body(model).eval()
    extremes: dict[str, Range] = {}
    counts: dict[str, NDArray[np.int64]] = {}

    def widen(name: str, value: torch.Tensor) -> None:
        low, high = extremes.get(name, (0.0, 0.0))
        extremes[name] = (min(low, float(value.min())), max(high, float(value.max())))

    def count(name: str, value: torch.Tensor) -> None:
        low, high = extremes[name]
        found = torch.histc(value, BINS, low, max(high, low + 1e-6)).numpy().astype(np.int64)
        counts[name] = counts[name] + found if name in counts else found

    with torch.inference_mode():
        for seen in (widen, count):
            watcher = _Watcher(body, seen)
            for start in range(0, len(pictures), BATCH):
                watcher.run(torch.from_numpy(np.stack(pictures[start : start + BATCH])))
    return {name: best_range(counts[name], *extremes[name]) for name in extremes}


def _without_tail(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The largest values, as far as they are so rare: one pixel in a million must not widen the steps of all others."""
    rare = np.cumsum(counts[::-1])[::-1] <= RARE * counts.sum()
    return np.where(rare, 0, counts)


def best_range(counts: NDArray[np.int64], low: float, high: float, power: float = POWER) -> Range:
    """The range, shrunk from (low, high) by one factor, whose rounding and clipping errors to the ``power`` sum to the least."""
    high = max(high, low + 1e-6)
    counts = _without_tail(counts)
    centres = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    best, least = (low, high), np.inf
    for share in np.linspace(1 / CANDIDATES, 1, CANDIDATES):
        bottom, top = float(low * share), float(high * share)
        step = (top - bottom) / STEPS
        outside = np.abs(np.clip(centres, bottom, top) - centres)
        # inside, errors are even from 0 to half a step
        inside = (step / 2) ** power / (power + 1)
        error = float((counts * np.where(outside > 0, (outside + step / 4) ** power, inside)).sum())
        if error < least:
            best, least = (bottom, top), error
    return best
