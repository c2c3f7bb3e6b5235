"""Segmentation: does every pixel keep its class?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from dkcam.export.precision.judges.judge import HEAT, HEAT_SHOWN, Answer, Array, Figure, Values, cold, first_map, heat
from dkcam.fields import OUTPUTS


class Dense:
    """The class of each pixel, and the heatmap of the largest region's."""

    figures: Mapping[str, Figure] = {
        "pixels": Figure(True, "{ends} of the pixels keep their class, expected {limit:g} at the interval's near end"),
        **HEAT,
    }
    shares: frozenset[str] = frozenset()
    extremes: Mapping[str, tuple[str, str]] = {"worst": ("pearson", "least"), "fewest_pixels": ("pixels", "least")}
    harm: tuple[str, ...] = ("pearson", "pixels")
    limits: Mapping[str, Mapping[str, float]] = {
        "fp16": {"pixels": 0.995, "pearson": 0.999, "peak_shift": 0.1},
        "int8": {"pixels": 0.98, "pearson": 0.97, "peak_shift": 0.5},
    }
    shown: Mapping[str, str] = {
        "pixels": "pixels that keep their class, mean",
        "fewest_pixels": "pixels that keep their class, worst picture",
        **HEAT_SHOWN,
    }

    def asked(self, count: int | None) -> list[int]:
        return [-1] * (count or 1)

    def truths(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        return [self._truth(answer) for answer in answers]

    def _truth(self, answer: Answer) -> Answer:
        found, classes = {}, classes_of_pixels(answer)
        if classes is not None:
            found["pixels"] = classes.astype(np.int32)
        if "heatmap" in answer:
            found |= {"heatmap": answer["heatmap"][:1], "explained": answer["explained"][:1]}
        return found

    def asked_again(self, truth: Answer, count: int | None) -> list[int]:
        return [int(truth["explained"][0]) if "explained" in truth else -1] * (count or 1)

    def compare(self, truth: Answer, answer: Answer) -> Values:
        values, now = heat(first_map(truth), first_map(answer)), classes_of_pixels(answer)
        if "pixels" in truth and now is not None:
            values["pixels"] = [float((truth["pixels"] == now).mean())]
        return values

    def doubt(self, truths: Sequence[Answer], limits: Mapping[str, float]) -> str:
        if not all("pixels" in truth for truth in truths):
            return "the file has no output with scores for each pixel"
        counts = Counter[int]()
        for truth in truths:
            numbers, found = np.unique(truth["pixels"], return_counts=True)
            counts.update(dict(zip(numbers.tolist(), found.tolist(), strict=True)))
        commonest, count = counts.most_common(1)[0]
        if count >= limits["pixels"] * counts.total():
            return f"{count / counts.total():.1%} of the pixels have the class {commonest}, and a file that says nothing else would pass"
        return cold(truths, limits)


def classes_of_pixels(answer: Answer) -> Array | None:
    """The class of each pixel [H, W], from the network's own output: scores [n, H, W], of one class [1, H, W] or [H, W], or numbers."""
    for name, values in answer.items():
        if name in OUTPUTS or values.ndim not in (2, 3):
            continue
        if values.ndim == 3 and len(values) > 1:
            return np.asarray(values.argmax(axis=0))
        flat = values.reshape(values.shape[-2:])
        if not np.issubdtype(flat.dtype, np.floating):
            return flat
        # behind a Sigmoid, one half is where scores are zero
        return np.asarray(flat > (0.5 if flat.min() >= 0 and flat.max() <= 1 else 0.0))
    return None
