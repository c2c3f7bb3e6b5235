"""Ranges of values over pictures: where clipping and rounding cost least."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dkcam.engines.progress import Report, silent
from dkcam.errors import ExportError
from dkcam.export.passes.edit import named
from dkcam.export.precision.numerics import Range

BINS = 2048
CANDIDATES = 100
RARE = 1e-6  # of all values
STEPS = 255  # of 8 bits
POWER = 3  # of an error; the square clips so much that scores fall, the fourth power rounds so much that maps blur
MOST_HELD = 256 << 20  # bytes of values that one run gives

Feed = Mapping[str, NDArray[Any]]
Array = NDArray[Any]


def calibrate(model: ir.Model, names: Sequence[str], pictures: Sequence[Feed], report: Report = silent) -> dict[str, Range]:
    """Ranges (low, high) of values of a float32 network, with low 0 for those that never fall below.

    names: of the values. pictures: what the network's inputs are given, by their names. Two passes: extremes, then a histogram of each.
    Errors: ExportError for a value that is not finite on some picture.
    """
    reached = extremes(model, names, pictures, report)
    counts = {name: np.zeros(BINS, np.int64) for name in names}

    def count(name: str, values: Array) -> None:
        low, high = reached[name]
        scale = BINS / (max(high, low + 1e-6) - low)
        place = np.clip((values.ravel() - np.float32(low)) * np.float32(scale), 0, BINS - 1).astype(np.int32)
        counts[name] += np.bincount(place, minlength=BINS)

    _watch(model, names, pictures, count, report)
    return {name: best_range(counts[name], *reached[name]) for name in names}


def extremes(model: ir.Model, names: Sequence[str], pictures: Sequence[Feed], report: Report = silent) -> dict[str, Range]:
    """The least and the largest each value gets, and 0. Errors: ExportError for one that is not finite."""
    reached: dict[str, Range] = dict.fromkeys(names, (0.0, 0.0))

    def widen(name: str, values: Array) -> None:
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        if not math.isfinite(high - low):
            raise ExportError(f"calibrating: {name} is not finite on one of the pictures; check the weights, and the pictures")
        reached[name] = (min(reached[name][0], low), max(reached[name][1], high))

    _watch(model, names, pictures, widen, report)
    return reached


def _watch(model: ir.Model, names: Sequence[str], pictures: Sequence[Feed], seen: Callable[[str, Array], None], report: Report) -> None:
    """Run a network on every picture and hand each wanted value to ``seen``, as many in one run as memory allows."""
    import onnxruntime

    if not names or not pictures:
        return
    probed = model.clone()
    groups = _groups(named(probed.graph, names))
    given = [value.name for value in probed.graph.inputs if value.name is not None and value.name in names]
    _keep(probed, [value for group in groups for value in group if value.name not in given])
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(ir.to_proto(probed).SerializeToString(), settings, providers=["CPUExecutionProvider"])
    for number, feed in enumerate(pictures):
        report("calibrating", number, len(pictures))
        fed = {value.name: feed[value.name] for value in session.get_inputs()}
        for name in given:
            seen(name, feed[name])
        for group in groups:
            asked = [value.name for value in group if value.name is not None and value.name not in given]
            if asked:
                for name, values in zip(asked, session.run(asked, fed), strict=True):
                    seen(name, values)


def _keep(model: ir.Model, values: Sequence[ir.Value]) -> None:
    """Let these be all that a network gives."""
    model.graph.outputs.clear()
    model.graph.outputs.extend(values)
    RemoveUnusedNodesPass()(model)
    for value in list(model.graph.inputs):
        if not value.uses():
            model.graph.inputs.remove(value)


def _groups(values: Sequence[ir.Value]) -> list[list[ir.Value]]:
    """Values that together need no more than ``MOST_HELD`` bytes; a free dimension counts as 1."""
    groups: list[list[ir.Value]] = [[]]
    held = 0
    for value in values:
        size = 4 * math.prod(d if isinstance(d, int) else 1 for d in value.shape or ())
        if groups[-1] and held + size > MOST_HELD:
            groups.append([])
            held = 0
        groups[-1].append(value)
        held += size
    return groups


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
