"""Regressors: how much do the outputs change beside their spread over the pictures?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dkcam.export.precision.judges.judge import HEAT, HEAT_SHOWN, Answer, Array, Figure, Values, cold, heat

STILL = 1e-5  # of an output's size: a spread below is none


class Regress:
    """The outputs beside their spread, and the heatmaps of what raises and what lowers the first."""

    figures: Mapping[str, Figure] = {
        "error": Figure(False, "outputs change by {ends} of their spread over the pictures, expected {limit:g} at most"),
        **HEAT,
    }
    shares: frozenset[str] = frozenset()
    extremes: Mapping[str, tuple[str, str]] = {"worst": ("pearson", "least"), "largest_error": ("error", "most")}
    harm: tuple[str, ...] = ("pearson", "error")
    limits: Mapping[str, Mapping[str, float]] = {
        "fp16": {"error": 0.01, "pearson": 0.999, "peak_shift": 0.1},
        "int8": {"error": 0.1, "pearson": 0.97, "peak_shift": 0.5},
    }
    shown: Mapping[str, str] = {
        "error": "outputs: mean error over their spread",
        "largest_error": "outputs: largest error over their spread",
        **HEAT_SHOWN,
    }

    def asked(self, count: int | None) -> list[int]:
        """What raises the first output, and what lowers it."""
        return [(0, -1)[place % 2] for place in range(count or 2)]

    def truths(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        """ "spread" is the standard deviation of each output over the pictures."""
        found = [{name: answer[name] for name in ("logits", "heatmap") if name in answer} for answer in answers]
        if found and "logits" in found[0]:
            given = np.array([one["logits"] for one in found], np.float64)
            spread = np.maximum(given.std(axis=0), _least(given))
            found = [one | {"spread": spread} for one in found]
        return found

    def asked_again(self, truth: Answer, count: int | None) -> list[int]:
        return self.asked(count)

    def compare(self, truth: Answer, answer: Answer) -> Values:
        values: Values = {}
        if "logits" in truth:
            values["error"] = [float(one) for one in np.abs(answer["logits"].astype(np.float64) - truth["logits"]) / truth["spread"]]
        for before, now in zip(truth.get("heatmap", ()), answer.get("heatmap", ()), strict=True):
            for name, found in heat(before, now).items():
                values.setdefault(name, []).extend(found)
        return values

    def doubt(self, truths: Sequence[Answer], limits: Mapping[str, float]) -> str:
        given = np.array([truth["logits"] for truth in truths if "logits" in truth], np.float64)
        if len(given):
            still = np.flatnonzero(given.std(axis=0) <= _least(given))
            if len(still):
                return f"output {still[0]} is the same for all {len(given)} pictures"
        return cold(truths, limits)


def _least(given: Array) -> Array:
    """The least spread of outputs [pictures, n] that is one."""
    return np.asarray(np.maximum(STILL * np.abs(given).max(axis=0), 1e-30))
