"""Paired rounds: every candidate is timed once in each round, so that a busy moment hits all alike; in an order of its own, and each
right after an untimed run of itself, so that nobody pays for what ran before it: torch's threads spin on for milliseconds.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Candidate = Callable[[int], Any]  # given the number of the round


@dataclass(frozen=True)
class Row:
    """ms: median of the rounds. p99_ms: their 99th percentile. ratio: median over rounds of this one's time to the reference's."""

    name: str
    ms: float
    p99_ms: float
    ratio: float
    rounds: int


@dataclass(frozen=True)
class Skipped:
    """Something that could not be measured here, and why."""

    name: str
    reason: str


def paired(candidates: Mapping[str, Candidate], reference: str, rounds: int, warm: int = 2) -> list[Row]:
    """Rows in the candidates' order. ``warm``: rounds that are not counted. Orders are drawn with a fixed seed."""
    names, rng = list(candidates), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm + rounds):
        for name in rng.sample(names, len(names)):
            candidates[name](number)
            start = time.perf_counter()
            candidates[name](number)
            if number >= warm:
                times[name].append((time.perf_counter() - start) * 1e3)

    def ratio(name: str) -> float:
        return statistics.median(a / b for a, b in zip(times[name], times[reference], strict=True))

    def p99(name: str) -> float:
        return sorted(times[name])[max(0, math.ceil(0.99 * rounds) - 1)]

    return [Row(name, statistics.median(times[name]), p99(name), ratio(name), rounds) for name in names]
