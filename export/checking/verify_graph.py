"""Parity of a finished file with autograd through the interpreter, for networks that come as a file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dkcam.export.checking.graph_reference import GraphReference
from dkcam.export.checking.kinks import follow, kinks_between
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.tasks import Task
from dkcam.export.parity import Parity, Row, judge, worse
from dkcam.spec import ModelSpec

Outputs = Mapping[str, NDArray[np.generic]]
Run = Callable[[bytes, str], Callable[[NDArray[np.generic], NDArray[np.int64], Sequence[str]], Outputs]]
"""(a file's bytes, what to call it) → a function of (image, classes, names of outputs)."""

PER_CLASS = frozenset({"explained", "weights", "heatmap", "gradient"})
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
    kinks = kinks_between(subject.model, [layer.name for layer in subject.layers], [subject.task.found.scores.name or ""])
    names = [kink.name for kink in kinks]
    file = run(data, "the new file")
    probe = run(probed(data, names), "the probe") if names else None
    exact = GraphReference(subject.model, subject.task, subject.layers, subject.spec.explanation.method)
    plain = replace(exact, dtype=torch.float32)
    rows: dict[tuple[str, str], Row] = {}
    maps: dict[int, list[NDArray[np.generic]]] = {}
    judged: set[int] = set()
    followed_kinks = units = 0
    counts: dict[str, int] = {}
    deal = deal_classes(np.random.default_rng(0), subject)
    labels = subject.spec.labels
    for kinds, image in batches:
        classes = next(deal)
        given = run_all(file, image, classes, subject)
        if probe is not None:
            seen = {name: torch.from_numpy(np.asarray(value)) for name, value in probe(image, classes[: subject.count or 1], names).items()}
            own, single = exact.values(image, names), plain.values(image, names)
            taken = follow(kinks, own, seen, single)
            exact.seen = taken.values
            plain.seen = {name: value.float() for name, value in taken.values.items()}
            followed_kinks, units = followed_kinks + taken.kinks, units + taken.units
        chosen = np.clip(np.asarray(given["explained"], np.int64), 0, subject.classes - 1) if "explained" in given else None
        keep = "gradient" in subject.outputs
        truth = exact.answer(image, classes, chosen, keep_gradient=keep)
        picked = np.asarray(truth.values["explained"]) if chosen is None else chosen
        singles = [plain.answer(image, classes, picked, nudge, keep) for nudge in range(DRAWS)]
        for at, kind in enumerate(kinds):
            counts[kind] = counts.get(kind, 0) + 1
            for name in subject.outputs:
                row = judge(name, kind, given, truth, singles, classes, labels, at)
                rows[name, kind] = worse(rows.get((name, kind)), row)
        judged |= set(picked.ravel().tolist())
        for k, wanted in enumerate(classes.tolist() if "heatmap" in given else []):
            maps.setdefault(wanted, []).extend(given["heatmap"][:, k])
    ordered = tuple(rows[name, kind] for name in subject.outputs for kind in counts)
    return Parity(ordered, dependence(maps), followed_kinks, units, 0.0, 0.0, counts, len(judged))


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


def run_all(
    file: Callable[[NDArray[np.generic], NDArray[np.int64], Sequence[str]], Outputs],
    image: NDArray[np.generic],
    classes: NDArray[np.int64],
    subject: Subject,
) -> Outputs:
    """All classes at once, or as many at a time as the graph explains."""
    fixed = subject.count or len(classes)
    parts = [file(image, classes[start : start + fixed], list(subject.outputs)) for start in range(0, len(classes), fixed)]
    return {name: np.concatenate([part[name] for part in parts], 1) if name in PER_CLASS else parts[0][name] for name in parts[0]}


def probed(data: bytes, names: Sequence[str]) -> bytes:
    """The file with inner values as outputs too."""
    proto = onnx.load_from_string(data)
    have = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return bytes(proto.SerializeToString())


def dependence(maps: Mapping[int, Sequence[NDArray[np.generic]]]) -> float | None:
    """Largest difference between two pictures' heatmaps of the same class or rank, relative to the largest value."""
    found = []
    for same in maps.values():
        stack = np.stack([one.astype(np.float64) for one in same])
        top = float(np.abs(stack).max())
        found.append(float((stack.max(0) - stack.min(0)).max()) / top if top > 0 else 0.0)
    return max(found, default=None)
