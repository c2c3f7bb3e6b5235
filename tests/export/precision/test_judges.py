"""Each task's judge: its figures by their definitions, what it asks, and when it says that nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from dkcam.export.pictures import Pictures
from dkcam.export.precision.fidelity import Fidelity, compare, doubt, truths
from dkcam.export.precision.judges import JUDGES
from dkcam.export.precision.judges.dense import classes_of_pixels
from dkcam.export.precision.judges.detect import iou
from dkcam.export.precision.judges.judge import heat
from tests.specs import model_spec

Answer = Mapping[str, np.ndarray]
COLD = np.zeros((4, 5), np.float32)


def warm(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((4, 5)).astype(np.float32)


class Canned:
    """An engine that answers in turn."""

    device, sha256, lanes, cuda = "cpu", "", 1, None

    def __init__(self, answers: Sequence[Answer], task: str) -> None:
        self.spec = model_spec(("a", "b", "c"), 64, 96, task=task)
        self._answers, self.asked = iter(answers), list[list[int]]()

    def run(self, image: Any, classes: Any, key_mask: Any = None) -> Mapping[str, Any]:
        self.asked.append(classes.tolist())
        return {name: value[None] for name, value in next(self._answers).items()}

    def close(self) -> None: ...


def judged(task: str, before: Sequence[Answer], now: Sequence[Answer]) -> Fidelity:
    pictures = Pictures([np.zeros((64, 96, 3), np.uint8)] * len(before), range(len(before)))
    return compare(Canned(now, task), truths(Canned(before, task), pictures, task), task)


def doubts(task: str, answers: Sequence[Answer]) -> str:
    pictures = Pictures([np.zeros((64, 96, 3), np.uint8)] * len(answers), range(len(answers)))
    return doubt(truths(Canned(answers, task), pictures, task), task, JUDGES[task].limits["int8"])


def boxes(*given: tuple[tuple[float, float, float, float], float, int], seed: int = 0) -> Answer:
    """(box, score, class) each."""
    return {
        "boxes": np.array([one[0] for one in given], np.float32),
        "scores": np.array([one[1] for one in given], np.float32),
        "explained": np.array([one[2] for one in given]),
        "heatmap": np.stack([warm(seed + 10 * index) for index in range(len(given))]),
    }


LEFT, RIGHT, SHIFTED = (0.1, 0.1, 0.4, 0.5), (0.6, 0.1, 0.9, 0.5), (0.12, 0.1, 0.42, 0.5)


def test_overlap_of_boxes() -> None:
    assert iou(np.array(LEFT), np.array(LEFT)) == pytest.approx(1)
    assert iou(np.array(LEFT), np.array(RIGHT)) == 0
    assert iou(np.array(LEFT), np.array(SHIFTED)) == pytest.approx(0.28 / 0.32)
    assert iou(np.zeros(4), np.zeros(4)) == 0


def test_boxes_stay_in_any_order() -> None:
    before = boxes((LEFT, 0.9, 1), (RIGHT, 0.8, 1))
    now = {name: value[::-1] for name, value in boxes((SHIFTED, 0.7, 1), (RIGHT, 0.85, 1)).items()}
    found = judged("detect", [before], [now])
    assert found.means["agreement"].value == 1 and found.means["agreement"].count == 2
    assert found.means["change"].value == pytest.approx((-0.2 + 0.05) / 2)
    assert found.means["pearson"].value == pytest.approx(1) and found.means["box_iou"].value == pytest.approx((0.28 / 0.32 + 1) / 2)


@pytest.mark.parametrize(
    ("now", "share"),
    [
        (boxes((LEFT, 0.9, 1), (RIGHT, 0.8, 2)), 1 / 3),  # another class: one lost, one that was not there
        (boxes((LEFT, 0.9, 1), (RIGHT, 0.1, 1)), 1 / 2),  # lost
        (boxes((LEFT, 0.9, 1), (RIGHT, 0.2, 1)), 1.0),  # less sure, but there
        (boxes((LEFT, 0.9, 1), (RIGHT, 0.8, 1), ((0, 0.6, 0.2, 0.9), 0.5, 0)), 2 / 3),  # one too many
        (boxes((LEFT, 0.9, 1), (LEFT, 0.8, 1)), 1 / 2),  # twice the same, which overlaps a box of the model's
    ],
)
def test_lost_and_new_boxes_count(now: Answer, share: float) -> None:
    found = judged("detect", [boxes((LEFT, 0.9, 1), (RIGHT, 0.8, 1))], [now])
    assert found.means["agreement"].value == pytest.approx(share)


def test_one_box_stands_for_one_alone() -> None:
    found = judged("detect", [boxes((LEFT, 0.9, 1), (SHIFTED, 0.8, 1))], [boxes((LEFT, 0.9, 1))])
    assert found.means["agreement"].value == pytest.approx(1 / 2)


def test_peaks_of_large_maps_are_measured_on_seven_cells() -> None:
    small, large = np.zeros((2, 6)), np.zeros((14, 28))
    for one in (small, large):
        one[0, 1] = 1
    assert heat(small, np.roll(small, 2, axis=1))["peak_shift"] == [2]
    assert heat(large, np.roll(large, 2, axis=1))["peak_shift"] == [0.5]


def test_a_detector_s_maps_belong_to_their_boxes() -> None:
    before, swapped = boxes((LEFT, 0.9, 1), (RIGHT, 0.8, 1)), boxes((LEFT, 0.9, 1), (RIGHT, 0.8, 1))
    found = judged("detect", [before], [dict(swapped, heatmap=swapped["heatmap"][::-1])])
    expected = np.corrcoef(before["heatmap"][0].ravel(), before["heatmap"][1].ravel())[0, 1]
    assert found.means["agreement"].value == 1 and found.means["pearson"].value == pytest.approx(expected, abs=1e-6)


def test_detectors_are_asked_for_their_best_boxes() -> None:
    engine = Canned([boxes((LEFT, 0.9, 1))], "detect")
    truths(engine, Pictures([np.zeros((64, 96, 3), np.uint8)], [0]), "detect")
    assert engine.asked == [[-1, -2, -3, -4, -5, -6, -7, -8, -9, -10]]


def test_outputs_are_judged_beside_their_spread() -> None:
    before = [{"logits": np.array([value, 100 * value]), "heatmap": np.stack([warm(0), COLD])} for value in (0.0, 1.0, 2.0)]
    now = [dict(one, logits=one["logits"] + np.array([0.1, 0.0])) for one in before]
    found = judged("regress", before, now)
    spread = np.std([0.0, 1.0, 2.0])
    assert found.means["error"].value == pytest.approx(0.1 / spread / 2) and found.numbers["largest_error"] == pytest.approx(0.1 / spread)
    assert found.means["pearson"].count == 3  # what lowers the output has no heat here
    assert found.misses(JUDGES["regress"].limits["fp16"]).startswith("outputs change by 0.0612")


def test_pixels_keep_their_class() -> None:
    scores = np.random.default_rng(0).random((3, 4, 5))
    flipped = scores.copy()
    flipped[:, 0, 0] = np.roll(scores[:, 0, 0], 1)
    said = {"explained": np.array([2]), "heatmap": warm(0)[None]}
    found = judged("dense", [dict(said, seg=scores)] * 2, [dict(said, seg=scores), dict(said, seg=flipped)])
    assert found.means["pixels"].value == pytest.approx(1 - 1 / 40) and found.numbers["fewest_pixels"] == pytest.approx(1 - 1 / 20)


def test_a_class_of_each_pixel() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 3, 4))
    squashed = 1 / (1 + np.exp(-scores))
    for values in (scores, squashed, (scores > 0).astype(np.int64)):
        found = classes_of_pixels({"heatmap": warm(0), "seg": values})
        assert found is not None and np.array_equal(found.astype(bool), scores[0] > 0)
    assert classes_of_pixels({"heatmap": warm(0)[None], "logits": np.zeros(3)}) is None


def classified(probabilities: Sequence[float], seed: int) -> Answer:
    return {"probabilities": np.array(probabilities), "heatmap": warm(seed)[None]}


DOUBTS: dict[str, tuple[str, list[Answer]]] = {
    "of 40 pictures have the class 1": ("classify", [classified([0.1, 0.8, 0.1], seed) for seed in range(40)]),
    "probabilities are flat": ("classify", [classified(np.roll([0.34, 0.33, 0.33], seed).tolist(), seed) for seed in range(40)]),
    "different pictures are as alike": ("classify", [classified(np.roll([0.8, 0.1, 0.1], seed).tolist(), 0) for seed in range(40)]),
    "no heatmap has any heat": (
        "classify",
        [dict(classified(np.roll([0.8, 0.1, 0.1], seed).tolist(), 0), heatmap=COLD[None]) for seed in range(40)],
    ),
    "none of 3 pictures has a box": ("detect", [boxes((LEFT, 0.2, 1))] * 3),
    "output 1 is the same": ("regress", [{"logits": np.array([seed, 7.0]), "heatmap": warm(seed)[None]} for seed in range(9)]),
    "100.0% of the pixels have the class 2": (
        "dense",
        [{"seg": np.stack([warm(1), warm(2), 9 + warm(3)]), "explained": np.array([2]), "heatmap": warm(s)[None]} for s in range(9)],
    ),
    "no output with scores for each pixel": ("dense", [{"logits": np.zeros(3), "explained": np.array([2]), "heatmap": warm(0)[None]}]),
}


@pytest.mark.parametrize("why", DOUBTS)
def test_what_cannot_tell_is_not_believed(why: str) -> None:
    assert why in doubts(*DOUBTS[why])


def test_sound_pictures_raise_no_doubt() -> None:
    assert doubts("classify", [classified(np.roll([0.8, 0.1, 0.1], seed).tolist(), seed) for seed in range(40)]) == ""
    assert doubts("detect", [boxes((LEFT, 0.9, 1), seed=seed) for seed in range(9)]) == ""
    assert doubts("regress", [{"logits": np.array([float(seed)]), "heatmap": warm(seed)[None]} for seed in range(9)]) == ""
    varied = [{"seg": np.stack([warm(s), warm(s + 20)]), "explained": np.array([1]), "heatmap": warm(s)[None]} for s in range(9)]
    assert doubts("dense", varied) == ""


@pytest.mark.parametrize("task", JUDGES)
def test_every_limit_is_of_a_figure_and_every_figure_has_one(task: str) -> None:
    judge = JUDGES[task]
    assert all(set(limits) == set(judge.figures) for limits in judge.limits.values()) and set(judge.limits) == {"fp16", "int8"}
    for name, figure in judge.figures.items():
        assert figure.words.format(ends="1 (1 to 1)", count=3, limit=0.5)
        tight, loose = judge.limits["fp16"][name], judge.limits["int8"][name]
        assert tight >= loose if figure.least else tight <= loose
