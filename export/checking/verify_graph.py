"""Parity of a finished file with autograd through the interpreter, for networks that come as a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dkcam.export.checking.engine import File, Outputs, PlainNetwork, Run
from dkcam.export.checking.graph_reference import GraphReference
from dkcam.export.checking.kinks import Kink, follow, kinks_between
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.tasks import Task
from dkcam.export.parity import Parity, Row, judge, worse
from dkcam.export.reference import Answer
from dkcam.spec import ModelSpec

DRAWS = 2  # a float32 error is one draw of many
GRADIENTS = 6  # classes for one batch of pictures: each is a backward pass of the reference


@dataclass(frozen=True)
class Subject:
    """What is verified. model: the network with ``image`` in place, as it was before anything was explained; task and layers name its
    values. classes: how many there are.
    """

    model: ir.Model
    task: Task
    layers: Sequence[Layer]
    spec: ModelSpec
    classes: int

    @property
    def outputs(self) -> Sequence[str]:
        return self.spec.explanation.outputs

    @property
    def count(self) -> int | None:
        return self.spec.explanation.count


def verify_graph(data: bytes, subject: Subject, batches: Sequence[tuple[Sequence[str], NDArray[np.generic]]], run: Run) -> Parity:
    """Judge every map that the file gives. batches: (kind of each picture, image as the graph takes it)."""
    layers, scores = [layer.name for layer in subject.layers], [subject.task.found.scores.name or ""]
    kinks = kinks_between(subject.model, layers, scores)
    if subject.task.kind == "dense" and scores[0] not in [kink.name for kink in kinks]:
        kinks.append(Kink(scores[0], ()))  # each class's region is where its score is the largest
    names = [kink.name for kink in kinks]
    steps = ("logits", "probabilities") if subject.task.kind == "dense" else ()
    file, plain_network = File(data, names, subject.count, subject.outputs, run, steps), PlainNetwork(subject.model, layers, scores)
    exact = GraphReference(subject.model, subject.task, subject.layers, subject.spec.explanation.method)
    plain = replace(exact, dtype=torch.float32)
    rows: dict[tuple[str, str], Row] = {}
    maps: dict[int, list[NDArray[np.generic]]] = {}
    judged: set[int] = set()
    followed_kinks = units = plainly = 0
    differences: float | None = None
    counts: dict[str, int] = {}
    deal = deal_classes(np.random.default_rng(0), subject)
    for kinds, image in batches:
        classes = next(deal)
        said = file.said(image, classes)
        given, plainly = said.outputs, plainly + said.plainly * len(kinds)
        if names:
            taken = follow(kinks, exact.values(image, names), said.seen, plain.values(image, names))
            exact.seen, plain.seen = taken.values, {name: value.float() for name, value in taken.values.items()}
            followed_kinks, units = followed_kinks + taken.kinks, units + taken.units
        chosen = np.clip(np.asarray(given["explained"], np.int64), 0, subject.classes - 1) if "explained" in given else None
        keep = "gradient" in subject.outputs
        truth = exact.answer(image, classes, chosen, keep_gradient=keep)
        picked = np.asarray(truth.values["explained"]) if chosen is None else chosen
        if differences is None:
            differences = exact.differences(image, picked)
        singles = [plain.answer(image, classes, picked, nudge, keep) for nudge in range(DRAWS)]
        found = judge_all(subject, subject.outputs, kinds, given, truth, singles, classes)
        if not all(row.passed for row in found):
            engine = replace(exact, seen={}, moved=plain_network.values(image))
            singles.append(engine.answer(image, classes, picked, keep_gradient=keep))
            found = judge_all(subject, subject.outputs, kinds, given, truth, singles, classes)
        for row in found:
            rows[row.output, row.pictures] = worse(rows.get((row.output, row.pictures)), row)
        for kind in kinds:
            counts[kind] = counts.get(kind, 0) + 1
        judged |= set(picked.ravel().tolist())
        for k, wanted in enumerate(classes.tolist() if "heatmap" in given else []):
            maps.setdefault(wanted, []).extend(given["heatmap"][:, k])
    ordered = tuple(rows[name, kind] for name in subject.outputs for kind in counts)
    return Parity(ordered, dependence(maps), followed_kinks, units, 0.0, 0.0, counts, len(judged), plainly, differences)


def judge_all(
    subject: Subject,
    outputs: Sequence[str],
    kinds: Sequence[str],
    given: Outputs,
    truth: Answer,
    singles: Sequence[Answer],
    classes: NDArray[np.int64],
) -> list[Row]:
    """A row for each output of each picture of a batch."""
    labels = subject.spec.labels
    each = ((at, kind, name) for at, kind in enumerate(kinds) for name in outputs)
    return [judge(name, kind, given, truth, singles, classes, labels, at) for at, kind, name in each]


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


def dependence(maps: Mapping[int, Sequence[NDArray[np.generic]]]) -> float | None:
    """Largest difference between two pictures' heatmaps of the same class or rank, relative to the largest value."""
    found = []
    for same in maps.values():
        stack = np.stack([one.astype(np.float64) for one in same])
        top = float(np.abs(stack).max())
        found.append(float((stack.max(0) - stack.min(0)).max()) / top if top > 0 else 0.0)
    return max(found, default=None)
