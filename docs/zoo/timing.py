"""Paired timings: what is compared runs in turn, and the process's own time counts, so that a busy machine hits all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FEWEST, MOST = 11, 60  # rounds
NORMAL = 1.959964


@dataclass(frozen=True)
class Ratio:
    """median: over rounds, of one's time to the original's. low, high: its 95 % interval, from the order of the rounds alone."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratios:
    """plain_ms: the original's median."""

    plain_ms: float
    rounds: int
    ratios: Mapping[str, Ratio]


def paired(plain: Callable[[], Any], others: Mapping[str, Callable[[], Any]], seconds: float) -> Ratios:
    """Rounds for about so long. Each one runs right before it is timed, so that nobody pays for what ran before it."""
    candidates = {"": plain, **others}
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    rng, begin, count = random.Random(0), time.perf_counter(), 0
    while count < FEWEST or (count < MOST and time.perf_counter() - begin < seconds):
        for name in rng.sample(list(candidates), len(candidates)):
            candidates[name]()
            start = time.process_time()  # on one thread the time on the clock of a quiet machine
            candidates[name]()
            times[name].append(time.process_time() - start)
        count += 1
    ratios = {name: middle([a / b for a, b in zip(times[name], times[""], strict=True)]) for name in others}
    return Ratios(round(statistics.median(times[""]) * 1e3, 3), count, ratios)


def middle(values: list[float]) -> Ratio:
    """The median and its interval by order statistics (the binomial's normal form)."""
    ordered, count = sorted(values), len(values)
    away = NORMAL * count**0.5 / 2
    low, high = max(0, int(count / 2 - away)), min(count - 1, int(count / 2 + away))
    return Ratio(statistics.median(ordered), ordered[low], ordered[high])
