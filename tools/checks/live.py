"""The same rules on running frames, without boxes: what the last frames say on average."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.explanation import Explanation, Score
from dkcam.runtime.result import Alarm
from dkcam.tools.checks.measure import to_input
from dkcam.tools.checks.rules import JITTER, MEASURES, Rule, Rules, filled, normal
from dkcam.tools.metrics.place import centroid, entropy, heat_in
from dkcam.tools.metrics.temporal import jitter


class LiveRules:
    """Judges every frame; a rule is broken while the mean of its last ``frames`` values is out of bounds.

    Values are of the first explained class; of a detector, of its best box, or the best of the rule's class.
    skipped: rules that need boxes, a second model or a corruption, or masks
    that the model has not.
    """

    def __init__(self, rules: Rules, *, samples: bool) -> None:
        self._rules = rules
        usable = [rule for rule in rules.rules if MEASURES[rule.measure].live and (samples or rule.measure != "stability")]
        self.skipped = tuple(rule for rule in rules.rules if rule not in usable)
        self._last: dict[Rule, deque[float]] = {rule: deque(maxlen=rule.frames) for rule in usable}
        self._peaks: dict[Rule, deque[tuple[float, float] | None]] = {rule: deque(maxlen=rule.frames + 1) for rule in usable}
        self._masks: dict[tuple[str, object], NDArray[np.bool_]] = {}
        self._fired: dict[Rule, int] = {}
        self._judged: set[Rule] = set()

    @property
    def failed(self) -> bool:
        """Whether a rule of severity fail was broken at any time."""
        return any(rule.severity == "fail" for rule in self._fired)

    @property
    def nothing_judged(self) -> bool:
        """Whether rules of severity fail were asked for and none of them was judged once: other classes came, or too few frames."""
        strict = [rule for rule in self._rules.rules if rule.severity == "fail"]
        return bool(strict) and not self._judged & set(strict)

    def lines(self) -> list[str]:
        """For the end of a run: which rules were broken, and for how long."""
        return [f"{rule.severity:>4}  {rule.name}: broken in {count} frames, expected {rule.wanted}" for rule, count in self._fired.items()]

    def see(self, explanation: Explanation) -> tuple[Alarm, ...]:
        """The rules that are broken now."""
        alarms = []
        for rule, last in self._last.items():
            of = self._about(rule, explanation)
            if of is None:
                continue
            value = self._value(rule, explanation, *of)
            if math.isnan(value):
                continue
            last.append(value)
            if rule.measure not in JITTER:
                value = sum(last) / len(last)
            if len(last) < rule.frames:
                continue
            self._judged.add(rule)
            if not rule.holds(value):
                self._fired[rule] = self._fired.get(rule, 0) + 1
                alarms.append(Alarm(rule.name, rule.severity, value, rule.wanted))
        return tuple(alarms)

    def _about(self, rule: Rule, explanation: Explanation) -> tuple[int, Score] | None:
        """The heatmap's row that a rule is about, and its score: the first explained class, or the best box of the rule's class."""
        if explanation.task == "detect":
            found = (each for each in explanation.detections if rule.label == "all" or normal(rule.label) == normal(each.label))
            best = next(found, None)
            return None if best is None else (best.row, best)
        first = explanation.explained_scores()[0]
        return (0, first) if rule.label == "all" or normal(rule.label) == normal(first.label) else None

    def _value(self, rule: Rule, explanation: Explanation, row: int, score: Score) -> float:
        heat = explanation.heatmap[row]
        if rule.measure == "confidence":
            return score.probability
        if rule.measure == "entropy":
            return entropy(heat)
        if rule.measure == "stability":
            return explanation.stability(row)
        if rule.measure in JITTER:
            self._peaks[rule].append(explanation.peak(row) if rule.measure == "jitter" else centroid(heat))
            return jitter(list(self._peaks[rule]))
        return heat_in(heat, self._mask(rule.region, explanation))

    def _mask(self, region: str, explanation: Explanation) -> NDArray[np.bool_]:
        fit = explanation.fit
        if (region, fit) not in self._masks:
            corners = self._rules.regions[region] * (fit.frame_width, fit.frame_height)
            self._masks[region, fit] = filled(to_input(corners, fit), fit.height, fit.width)
        return self._masks[region, fit]


def told(skipped: Sequence[Rule]) -> str:
    """One line about rules that a live run cannot judge."""
    return f"not judged live, dk-check does: {', '.join(rule.name for rule in skipped)}"
