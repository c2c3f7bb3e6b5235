"""Parity of a finished file with autograd through the interpreter, for networks that come as a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dkcam.export.checking.comparison import Comparison, Subject
from dkcam.export.checking.engine import Run
from dkcam.export.checking.graph_reference import GraphReference
from dkcam.export.checking.kinks import Kink, kinks_between
from dkcam.export.parity import Parity
from dkcam.export.reference import Answer

GRADIENTS = 6  # classes for one batch of pictures: each is a backward pass of the reference


def verify_graph(data: bytes, subject: Subject, batches: Sequence[tuple[Sequence[str], NDArray[np.generic]]], run: Run) -> Parity:
    """Judge every map that the file gives. batches: (kind of each picture, image as the graph takes it)."""
    scores = [subject.task.found.scores.name or ""]
    kinks = kinks_between(subject.model, [layer.name for layer in subject.layers], scores)
    dense = subject.task.kind == "dense"
    if dense and scores[0] not in [kink.name for kink in kinks]:
        kinks.append(Kink(scores[0], ()))  # each class's region is where its score is the largest
    exact = GraphReference(subject.model, subject.task, subject.layers, subject.spec.explanation.method)
    held = Comparison(data, subject, exact, kinks, scores, run, ("logits", "probabilities") if dense else ())
    judged: set[int] = set()
    differences: float | None = None
    for (kinds, image), classes in zip(batches, deal_classes(np.random.default_rng(0), subject), strict=False):
        picked = _judge(held, subject, kinds, image, classes)
        judged |= set(picked.ravel().tolist())
        if differences is None:
            differences = exact.differences(image, picked)
    return held.parity(len(judged), differences)


def _judge(
    held: Comparison[GraphReference], subject: Subject, kinds: Sequence[str], image: NDArray[np.generic], classes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Judge one batch. Returns the classes that were explained, int64 [B, K]."""
    given, keep = held.said(image, classes), "gradient" in subject.outputs
    chosen = np.clip(np.asarray(given["explained"], np.int64), 0, subject.classes - 1) if "explained" in given else None
    truth = held.exact.answer(image, classes, chosen, keep_gradient=keep)
    picked = np.asarray(truth.values["explained"]) if chosen is None else chosen

    def answer(reference: GraphReference, nudge: int) -> Answer:
        return reference.answer(image, classes, picked, nudge, keep)

    held.note(kinds, classes, given, held.rows(subject.outputs, kinds, image, classes, given, truth, answer))
    return picked


def deal_classes(rng: np.random.Generator, subject: Subject) -> Iterator[NDArray[np.int64]]:
    """What to explain on each batch, int64 [K]: both ends of the ranking, and class numbers dealt so that none comes twice before
    each has come once.
    """
    pack: list[int] = []
    ranks = [-1, -2][: subject.classes]
    number = max(GRADIENTS, subject.count or 0)
    number += -number % (subject.count or 1)
    for _ in itertools.count():
        while len(pack) < number:
            pack += rng.permutation(subject.classes).tolist()
        wanted, pack = ranks + pack[: number - len(ranks)], pack[number - len(ranks) :]
        yield np.array(wanted, np.int64)
