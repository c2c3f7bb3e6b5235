"""A file held to a reference, batch by batch: what both verifications have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dkcam.export.checking.detect_reference import DetectReference
from dkcam.export.checking.engine import File, Outputs, PlainNetwork, Run
from dkcam.export.checking.graph_reference import GraphReference
from dkcam.export.checking.kinks import Kink, follow
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.tasks import Task
from dkcam.export.parity import Parity, Row, dependence, judge, worse
from dkcam.export.reference import Answer
from dkcam.spec import ModelSpec

DRAWS = 2  # a float32 error is one draw of many

R = TypeVar("R", GraphReference, DetectReference)


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


class Comparison(Generic[R]):
    """exact: the reference in float64, whose ``seen`` follows the file. scores: names of the values that are explained. steps: see
    ``File``.
    """

    def __init__(
        self, data: bytes, subject: Subject, exact: R, kinks: Sequence[Kink], scores: Sequence[str], run: Run, steps: Collection[str] = ()
    ) -> None:
        names = [kink.name for kink in kinks]
        self.exact: R = exact
        self._plain: R = replace(exact, dtype=torch.float32)
        self._subject, self._kinks, self._names = subject, kinks, names
        self._file = File(data, names, subject.count, subject.outputs, run, steps)
        self._network = PlainNetwork(subject.model, [layer.name for layer in subject.layers], scores)
        self._rows: dict[tuple[str, str], Row] = {}
        self._maps: dict[int, list[NDArray[np.generic]]] = {}
        self._counts: dict[str, int] = {}
        self._followed = self._units = self._plainly = 0

    def said(self, image: NDArray[np.generic], classes: NDArray[np.int64]) -> Outputs:
        """The file's outputs on one batch. Where float32 cannot tell the side of a kink, the references take the file's from now on."""
        said = self._file.said(image, classes)
        self._plainly += said.plainly * len(image)
        if self._names:
            taken = follow(self._kinks, self.exact.values(image, self._names), said.seen, self._plain.values(image, self._names))
            self.exact.seen, self._plain.seen = taken.values, {name: value.float() for name, value in taken.values.items()}
            self._followed, self._units = self._followed + taken.kinks, self._units + taken.units
        return said.outputs

    def rows(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        image: NDArray[np.generic],
        classes: NDArray[np.int64],
        given: Outputs,
        truth: Answer,
        answer: Callable[[R, int], Answer],
    ) -> list[Row]:
        """A row for each of the outputs ``names`` of each picture. answer: of a reference whose picture is nudged as the number says.

        float32 is asked in torch; where that does not suffice, the engine's own float32 on the plain network, too.
        """
        singles: list[Answer] = [answer(self._plain, nudge) for nudge in range(DRAWS)]
        found = self._judged(names, kinds, classes, given, truth, singles)
        if not all(row.passed for row in found):
            engine = replace(self.exact, seen={}, moved=self._network.values(image))
            found = self._judged(names, kinds, classes, given, truth, [*singles, answer(engine, 0)])
        return found

    def _judged(
        self,
        names: Sequence[str],
        kinds: Sequence[str],
        classes: NDArray[np.int64],
        given: Outputs,
        truth: Answer,
        singles: Sequence[Answer],
    ) -> list[Row]:
        labels = self._subject.spec.labels
        each = ((at, kind, name) for at, kind in enumerate(kinds) for name in names)
        return [judge(name, kind, given, truth, singles, classes, labels, at) for at, kind, name in each]

    def note(self, kinds: Sequence[str], classes: NDArray[np.int64], given: Outputs, rows: Sequence[Row]) -> None:
        """Keep a batch's result."""
        for row in rows:
            self._rows[row.output, row.pictures] = worse(self._rows.get((row.output, row.pictures)), row)
        for kind in kinds:
            self._counts[kind] = self._counts.get(kind, 0) + 1
        for k, wanted in enumerate(classes.tolist() if "heatmap" in given else []):
            self._maps.setdefault(wanted, []).extend(given["heatmap"][:, k])

    def parity(self, classes: int, differences: float | None = None) -> Parity:
        """classes: how many were judged. differences: see ``Parity``."""
        ordered = tuple(self._rows[name, kind] for name in self._subject.outputs for kind in self._counts)
        return Parity(
            ordered,
            input_dependence=dependence(self._maps),
            kinks=self._followed,
            units=self._units,
            images=self._counts,
            classes=classes,
            plainly=self._plainly,
            differences=differences,
        )
