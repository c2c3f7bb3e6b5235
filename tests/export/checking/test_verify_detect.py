"""The check that what was taken for a detector's raw scores are its scores, box by box."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dkcam.errors import ExportError
from dkcam.export.checking.verify_detect import check_scores
from dkcam.export.explain.detect.plan import DetectPlan
from tests.export.explain.detect.test_detect import CASES, HEIGHT, WIDTH, opened


def check(plan: DetectPlan, network: object) -> None:
    picture = np.random.default_rng(0).random((1, 3, HEIGHT, WIDTH)).astype(np.float32)
    model = network.model  # type: ignore[attr-defined]
    check_scores(model, plan, {model.graph.inputs[0].name: picture}, np.random.default_rng(0))


@pytest.mark.parametrize("kind", CASES)
def test_the_raw_scores_of_every_layout_are_its_scores(kind: str) -> None:
    network, plan = opened(CASES[kind])
    check(plan, network)


@pytest.mark.parametrize("kind", ["yolov8", "ssd", "yolox"])
def test_scores_of_another_box_are_refused(kind: str) -> None:
    network, plan = opened(CASES[kind])
    level = plan.raw.level
    start = plan.raw.start.copy()
    first = np.flatnonzero(level == 0)
    start[first] = np.roll(start[first], 1)  # each box of the first level has its neighbour's scores
    with pytest.raises(ExportError, match="does not move that score alone; name the decoding"):
        check(replace(plan, raw=replace(plan.raw, start=start)), network)


@pytest.mark.parametrize("kind", ["yolov8", "yolox"])
def test_scores_of_another_class_are_refused(kind: str) -> None:
    network, plan = opened(CASES[kind])
    start = plan.raw.start + plan.raw.levels[0].step * (plan.raw.level == 0)
    with pytest.raises(ExportError, match="does not move that score alone; name the decoding"):
        check(replace(plan, raw=replace(plan.raw, start=start)), network)
