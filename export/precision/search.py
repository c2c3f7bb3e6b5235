"""int8 as far as the heatmap allows: the operators that hurt it most stay in float32, as few as it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from dkcam.engines import Engine
from dkcam.engines.progress import Report, silent
from dkcam.export.precision.fidelity import Fidelity, Limits, Truth, compare
from dkcam.export.precision.numerics import Int8

Open = Callable[[Int8], Engine]


RANKED = 64  # pictures to order the layers by; the order needs no more


@dataclass(frozen=True)
class Kept:
    """An operator left in float32: what it alone would cost (``Fidelity.harm``), and its share of all multiplications."""

    name: str
    harm: float
    share: float


def fit(
    start: Int8,
    multiplications: Mapping[str, int],
    open_file: Open,
    expected: Sequence[Truth],
    wanted: Limits,
    task: str,
    report: Report = silent,
) -> tuple[Int8, tuple[Kept, ...], Fidelity]:
    """The fewest operators, taken in order of harm, whose float32 lifts the file over the thresholds.

    multiplications: of every operator that may be kept. open_file: an engine of a file with these numerics. expected:
    pictures to choose on, by their means. Returns the numerics, what was kept and the figures; they fall short if even
    float32 does.
    """
    found = compare(open_file(start), expected, task).without_intervals()
    if not found.misses(wanted):
        return start, (), found
    harms: dict[str, float] = {}
    names = list(multiplications)
    for number, name in enumerate(names):
        report("looking for the layers that hurt the heatmap", number, len(names))
        alone = replace(start, kept=frozenset(names) - {name})
        harms[name] = compare(open_file(alone), expected[:: max(1, len(expected) // RANKED)], task).harm()
    order = sorted(names, key=lambda name: -harms[name])
    total = sum(multiplications.values())

    @cache  # the search comes back to the count it settles on
    def attempt(count: int) -> tuple[Int8, Fidelity]:
        report("keeping layers in float32", count, len(names))
        numerics = replace(start, kept=frozenset(order[:count]))
        return numerics, compare(open_file(numerics), expected, task).without_intervals()

    # double until it holds, then halve the step
    few, many = 0, 1
    while many < len(order) and attempt(many)[1].misses(wanted):
        few, many = many, min(2 * many, len(order))
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if not attempt(middle)[1].misses(wanted) else (middle, many)
    numerics, found = attempt(many)
    kept = tuple(Kept(name, harms[name], multiplications[name] / total) for name in order[:many])
    return numerics, kept, found
