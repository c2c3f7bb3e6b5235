"""Picking boxes in the graph against plain NumPy, with ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dkcam.export.explain.detect import select
from dkcam.export.explain.detect.layout import Columns, Layout
from tests.export.explain.detect.running import blank, finished, run

Array = NDArray[Any]
CONF, IOU = 0.25, 0.45


def greedy(score: Array, label: Array, corners: Array, iou: float) -> list[int]:
    """Numbers of the boxes kept, the best first; of equal scores the lower number comes first."""
    area = np.maximum(corners[:, 2] - corners[:, 0], 0) * np.maximum(corners[:, 3] - corners[:, 1], 0)
    kept: list[int] = []
    for i in np.argsort(-score, kind="stable"):
        if score[i] < CONF or (corners[i, 2:] - corners[i, :2]).min() <= select.THIN:
            continue
        for j in kept:
            low, high = np.maximum(corners[i, :2], corners[j, :2]), np.minimum(corners[i, 2:], corners[j, 2:])
            wide, tall = np.maximum(high - low, np.float32(0))
            if label[i] == label[j] and wide * tall > np.float32(iou / (1 + iou)) * area[i] + np.float32(iou / (1 + iou)) * area[j]:
                break
        else:
            kept.append(int(i))
    return kept


def scene(random: np.random.Generator, batch: int, anchors: int, classes: int, levels: int) -> tuple[Array, Array]:
    """Scores [B, A, n] in few levels, so that many are equal, and boxes [B, A, 4] around few objects, some of them empty."""
    centre = random.integers(1, 4, (batch, anchors, 2)) / 4 + random.normal(0, 0.03, (batch, anchors, 2))
    size = random.choice([0.0, 0.2, 0.25, 0.3], (batch, anchors, 2), p=[0.03, 0.37, 0.3, 0.3])
    boxes = np.concatenate([centre - size / 2, centre + size / 2], 2).astype(np.float32)
    scores = np.round(random.random((batch, anchors, classes)) ** 4 * levels) / levels
    return scores.astype(np.float32), boxes


def expected(scores: Array, boxes: Array, asked: Array) -> tuple[Array, Array, Array]:
    """(explained, scores, boxes) of [B, K] questions."""
    best, label = scores.max(2), scores.argmax(2)
    explained, values, corners = np.maximum(asked, -1), np.zeros(asked.shape, np.float32), np.zeros((*asked.shape, 4), np.float32)
    for b in range(len(scores)):
        kept = greedy(best[b], label[b], boxes[b], IOU)
        for k, c in enumerate(asked[b]):
            fitting = kept[-c - 1 :] if c < 0 else [i for i in kept if label[b, i] == c]
            if fitting:
                i = fitting[0]
                explained[b, k], values[b, k], corners[b, k] = label[b, i], best[b, i], boxes[b, i]
    return explained, values, corners


def written(layout: Layout, writer: Any, values: Any, most: int, ranks: int) -> dict[str, Any]:
    found = select.candidates(writer, layout, most)
    corners = select.take(writer, layout.boxes.value, 1, found.anchor)
    score = select.certain(writer, found, corners, CONF)
    kept = select.suppress(writer, found, score, corners, IOU, ranks) if layout.suppress else select.ranked(writer, score, ranks)
    picked = select.pick(writer, found, score, kept, values["classes"])
    box = writer.mul(select.take(writer, corners, 1, picked.number), writer.unsqueeze(select.certainty(writer, picked), 2))
    return {"explained": select.explained(writer, found, picked, values["classes"]), "scores": picked.score, "boxes": box}


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, "B"])
@pytest.mark.parametrize("each", [False, True], ids=["shared", "per picture"])
def test_suppression_is_plain_greedy(axis: int, batch: int | str, each: bool) -> None:
    anchors, classes, ranks = 60, 3, 9
    shape = [batch, anchors, classes] if axis == 2 else [batch, classes, anchors]
    model, writer, values = blank(
        {
            "table": (shape, "float32"),
            "corners": ([batch, anchors, 4], "float32"),
            "classes": ([batch, "K"] if each else ["K"], "int64"),
        }
    )
    layout = Layout("test", Columns(values["table"], axis, 0, classes), Columns(values["corners"], 2, 0, 4), form="xyxy")
    proto = finished(model, written(layout, writer, values, 1024, ranks))
    for number in range(12):
        random = np.random.default_rng(number)
        size = 2 if batch == "B" else int(batch)
        scores, boxes = scene(random, size, anchors, classes, [4, 8, 100][number % 3])
        asked = random.permutation(np.r_[-ranks - 2 : 0, 0 : classes + 1])
        asked = np.stack([random.permutation(asked) for _ in range(size)]) if each else asked
        feed = {"table": scores if axis == 2 else scores.transpose(0, 2, 1), "corners": boxes, "classes": asked}
        found = run(proto, feed)
        wanted = expected(scores, boxes, np.broadcast_to(asked, (size, asked.shape[-1])))
        beyond = np.broadcast_to(asked, wanted[0].shape) < -ranks
        wanted = tuple(np.where(beyond if w.ndim == 2 else beyond[..., None], -1 if i == 0 else 0, w) for i, w in enumerate(wanted))
        for name, one in zip(("explained", "scores", "boxes"), wanted, strict=True):
            np.testing.assert_array_equal(found[name], one, err_msg=f"{name}, scene {number}, classes {asked}")
