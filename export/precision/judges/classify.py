"""Classifiers: does every picture keep its class, its probability, its heatmap?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from dkcam.export.precision.judges.judge import HEAT, HEAT_SHOWN, Answer, Array, Figure, Values, cold, first_map, heat

FLAT = 1.5  # times an even share: probabilities below say nothing


class Classify:
    """The top class, its probability, its heatmap."""

    figures: Mapping[str, Figure] = {
        "agreement": Figure(True, "{ends} of {count} pictures keep their class, expected {limit:g} at the interval's near end"),
        "pearson": HEAT["pearson"],
        "change": Figure(False, "the top class's probability changes by {ends} on average, expected {limit:g} at most"),
        "peak_shift": HEAT["peak_shift"],
    }
    shares = frozenset({"agreement"})
    extremes: Mapping[str, tuple[str, str]] = {
        "worst": ("pearson", "least"),
        "probability": ("probability", "most"),
        "probability_rms": ("change", "rms"),
    }
    harm: tuple[str, ...] = ("pearson", "agreement", "change", "probability_rms")
    limits: Mapping[str, Mapping[str, float]] = {
        "fp16": {"agreement": 0.98, "pearson": 0.999, "change": 0.005, "peak_shift": 0.1},
        "int8": {"agreement": 0.98, "pearson": 0.97, "change": 0.02, "peak_shift": 0.5},
    }
    shown: Mapping[str, str] = {
        "agreement": "pictures that keep their class",
        "change": "top class's probability: mean change",
        "probability": "largest difference of a probability",
        **HEAT_SHOWN,
    }

    def asked(self, count: int | None) -> list[int]:
        return [-1] * (count or 1)

    def truths(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        return [self._truth(answer) for answer in answers]

    def _truth(self, answer: Answer) -> Answer:
        scores = _scores(answer)
        probabilities = scores if "probabilities" in answer or scores is None else _softmax(scores)
        found = {"heatmap": answer["heatmap"][:1]} if "heatmap" in answer else {}
        if probabilities is not None:
            found |= {"probabilities": probabilities, "top": np.array(int(probabilities.argmax()))}
        return found

    def asked_again(self, truth: Answer, count: int | None) -> list[int]:
        return [int(truth["top"]) if "top" in truth else -1] * (count or 1)

    def compare(self, truth: Answer, answer: Answer) -> Values:
        values = heat(first_map(truth), first_map(answer))
        scores = _scores(answer)
        if scores is not None and "top" in truth:
            values["agreement"] = [float(int(scores.argmax()) == truth["top"])]
        if "probabilities" in answer and "top" in truth:
            apart = answer["probabilities"].astype(np.float64) - truth["probabilities"]
            values |= {"change": [float(apart[int(truth["top"])])], "probability": [float(np.abs(apart).max())]}
        return values

    def doubt(self, truths: Sequence[Answer], limits: Mapping[str, float]) -> str:
        tops = [int(truth["top"]) for truth in truths if "top" in truth]
        if tops:
            commonest, count = Counter(tops).most_common(1)[0]
            if count >= limits["agreement"] * len(tops):
                return f"{count} of {len(tops)} pictures have the class {commonest}, and a file that says nothing else would pass"
            best = [float(truth["probabilities"].max()) * truth["probabilities"].size for truth in truths if "top" in truth]
            if truths[0]["probabilities"].size > 2 and float(np.mean(best)) < FLAT:
                return f"its probabilities are flat (the top class has {np.mean(best):.2f} times an even share)"
        return cold(truths, limits)


def _scores(answer: Answer) -> Array | None:
    return next((answer[name] for name in ("probabilities", "logits") if name in answer), None)


def _softmax(scores: Array) -> Array:
    grown = np.exp(scores - scores.max())
    return np.asarray(grown / grown.sum())
