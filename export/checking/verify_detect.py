"""Parity of a detector's file with plain NumPy and autograd through the interpreter.

Judged on a file that takes boxes of any score, however unsure: a network that finds nothing on the pictures has no heat to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dkcam.errors import ExportError
from dkcam.export.checking.comparison import Comparison, Subject
from dkcam.export.checking.detect_reference import Detection, DetectReference
from dkcam.export.checking.engine import Outputs, Run
from dkcam.export.checking.interpreter import Interpreter
from dkcam.export.checking.kinks import kinks_between
from dkcam.export.derivative.sweep import activated, ancestors
from dkcam.export.explain.detect.plan import DetectPlan
from dkcam.export.parity import TOLERANCE, Parity, Row
from dkcam.export.reference import Answer
from dkcam.printable import printable

ANY = 1e-6  # a score that every box has
SAME = 1e-4  # scores that float32 may order either way
RANKS, CLASSES = 4, 2  # asked for on each picture
MOVED = 4  # raw scores of each level


def verify_detect(
    data: bytes, subject: Subject, plan: DetectPlan, batches: Sequence[tuple[Sequence[str], NDArray[np.generic]]], run: Run
) -> Parity:
    """Judge boxes, scores and the heat of each. plan, data: with ``ANY`` for a threshold. batches: see ``verify_graph``."""
    scores = [value.name or "" for value in plan.scores]
    kinks = kinks_between(subject.model, [layer.name for layer in subject.layers], scores)
    exact = DetectReference(subject.model, plan, subject.layers, subject.spec.explanation.method)
    held = Comparison(data, subject, exact, kinks, scores, run)
    rng = np.random.default_rng(0)
    for kinds, image in batches:
        classes = np.r_[-np.arange(1, min(RANKS, plan.ranks) + 1), rng.permutation(plan.raw.classes)[:CLASSES] + plan.layout.first]
        classes = np.concatenate([classes, [-1] * (-len(classes) % (subject.count or 1))]).astype(np.int64)
        _judge(held, subject, kinds, image, classes)
    return held.parity(plan.raw.classes)


def _judge(
    held: Comparison[DetectReference], subject: Subject, kinds: Sequence[str], image: NDArray[np.generic], classes: NDArray[np.int64]
) -> None:
    given = held.said(image, classes)
    own, followed = _followed(held.exact, image, classes, given)

    def answer(reference: DetectReference, nudge: int) -> Answer:
        return reference.answer(image, classes, followed, nudge)

    others = [name for name in subject.outputs if name != "explained"]
    rows = held.rows(others, kinds, image, classes, given, answer(held.exact, 0), answer)
    if "explained" in subject.outputs:
        rows += [_choice(kind, own[at], followed[at], given, at, subject) for at, kind in enumerate(kinds)]
    held.note(kinds, classes, given, rows)


def _followed(
    exact: DetectReference, image: NDArray[np.generic], classes: NDArray[np.int64], given: Outputs
) -> tuple[list[list[Detection | None]], list[list[Detection | None]]]:
    """The reference's own boxes, and those that the file took: its own, or where the file has another, the anchor it must have taken."""
    layout = exact.plan.layout
    tables = [columns.value.name or "" for columns in (layout.scores, layout.boxes, layout.objectness) if columns is not None]
    values = exact.values(image, list(dict.fromkeys(tables)))
    own = [exact.chosen(values, at, classes) for at in range(len(image))]
    found: list[list[Detection | None]] = []
    for at, mine in enumerate(own):
        row: list[Detection | None] = []
        for k, one in enumerate(mine):
            score, label, box = float(given["scores"][at, k]), int(given["explained"][at, k]), given["boxes"][at, k]
            if score <= 0:
                row.append(None)
            elif one is not None and one.label == label and abs(one.score - score) <= SAME and _near(one.box, box):
                row.append(one)
            else:
                row.append(exact.nearest(values, at, label, box, score))
        found.append(row)
    return own, found


def _near(own: NDArray[np.generic], given: NDArray[np.generic]) -> bool:
    return bool(np.abs(np.clip(own, 0, 1) - given).max() <= SAME)


def _choice(
    kind: str, own: Sequence[Detection | None], followed: Sequence[Detection | None], given: Outputs, at: int, subject: Subject
) -> Row:
    """Another box than the reference's is no error where float32 cannot tell their scores apart; its error is what they differ by."""
    gaps = [
        0.0
        if one is other or (one is not None and other is not None and one.anchor == other.anchor and one.label == other.label)
        else abs(one.score - other.score)
        if one is not None and other is not None
        else max(one.score if one is not None else 0.0, other.score if other is not None else 0.0)
        for one, other in zip(own, followed, strict=True)
    ]
    worst = int(np.argmax(gaps))
    label = int(given["explained"][at, worst])
    name = subject.spec.labels[label] if 0 <= label < len(subject.spec.labels) else ""
    return Row("explained", kind, len(gaps), name, float(label), 1.0, gaps[worst], 0.0, TOLERANCE)


def check_scores(model: ir.Model, plan: DetectPlan, feed: Mapping[str, NDArray[np.generic]], rng: np.random.Generator) -> None:
    """Move the raw score of one box and class after the other: that box's score in the network's output must move, and no other box's.

    Errors: ExportError naming the raw score. (A YOLO head of which one level is taken for all would pass everything else.)
    """
    interpreter, layout, raw = Interpreter(model), plan.layout, plan.raw
    table = layout.classes
    output, elements, rows = table.value.name or "", table.elements(), layout.scores.elements()
    names = [level.scores.name or "" for level in raw.levels]
    if output in names:
        return
    beside = _beside(model, names, output)  # what else the output is made of is computed once
    plain = interpreter.evaluate(
        {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()},
        list(dict.fromkeys([output, *names, *beside])),
    )
    before = plain[output][0].reshape(-1)
    picked = [rng.permutation(np.flatnonzero(raw.level == number))[:MOVED] for number in range(len(raw.levels))]
    for anchor in np.concatenate(picked).tolist():
        label = int(rng.integers(raw.classes))
        level = raw.levels[int(raw.level[anchor])]
        name = level.scores.name or ""
        moved = plain[name].clone(memory_format=torch.contiguous_format)
        place = int(raw.start[anchor]) + label * level.step
        score = moved[0].view(-1)[place]
        moved[0].view(-1)[place] = 0 if float(score.abs()) > 1 else score + 1  # a Sigmoid hides what happens far from 0
        others = {other: plain[other] for other in (*names, *beside)}
        after = interpreter.evaluate({}, [output], given={**others, name: moved})[output][0].reshape(-1)
        changed = set(np.flatnonzero(((after - before) != 0).numpy()).tolist())
        mine = set(rows[anchor].tolist())  # a Softmax moves what stands for no object, too
        if int(elements[anchor, label]) not in changed or not changed <= mine:
            raise ExportError(
                f"{printable(name)} was taken for the scores behind {printable(output)}, but moving that of box {anchor} and class {label} "
                "does not move that score alone; name the decoding with --decode, or the --task; nothing was written"
            )


def _beside(model: ir.Model, scores: Sequence[str], output: str) -> list[str]:
    """Values that an output needs besides the scores, where their ways meet."""
    nodes = list(model.graph)
    named = {value.name: value for node in nodes for value in node.outputs}
    active, needed = activated(nodes, [named[name] for name in scores]), ancestors([named[output]])
    meeting = [node for node in nodes if node in needed and any(value in active for value in node.inputs if value is not None)]
    values = (value for node in meeting for value in node.inputs if value is not None and value not in active)
    return [name for name in dict.fromkeys(value.name or "" for value in values) if name in named or name == "image"]
