"""The rendered drive's control: the runner-up's heatmap beside the top class's, from the same run of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.runtime.explainer import Classes, Explains, class_number
from dkcam.runtime.explanation import Explanation

EXTRA = (-1, -2)  # top class and runner-up, after the classes that were asked for
MOST = 16  # classes in one run, as TensorRT profiles allow


@dataclass(frozen=True)
class Compared(Explanation):
    """What was asked for, drawn and written as ever; top_heat, runner_up: float32 [h, w], maps of the two likeliest classes."""

    top_heat: NDArray[np.float32] | None = None
    runner_up: NDArray[np.float32] | None = None


class WithRunnerUp:
    """Explains as the explainer it is given; every answer is a ``Compared``. classes: what that one explains by itself."""

    def __init__(self, explainer: Explains, classes: Classes) -> None:
        self.engine, self.spec = explainer.engine, explainer.spec
        self.prepare, self.inputs, self.prepared_from = explainer.prepare, explainer.inputs, explainer.prepared_from
        self.warm_up = explainer.warm_up
        self._explainer, self._classes = explainer, _numbers(explainer, classes)

    @property
    def device(self) -> str:
        return self._explainer.device

    def infer(self, prepared: Any, classes: Classes | None = None, *, masks: bool = True) -> Explanation:
        return self.infer_many([prepared], classes, masks=masks)[0]

    def infer_many(self, prepared: Sequence[Any], classes: Classes | None = None, *, masks: bool = True) -> list[Explanation]:
        wanted = self._classes if classes is None else _numbers(self._explainer, classes)
        asked = (*wanted, *(k for k in EXTRA if k not in wanted))
        if len(asked) > MOST:
            return self._explainer.infer_many(prepared, wanted, masks=masks)
        rows = [asked.index(k) for k in EXTRA]
        return [_compared(said, len(wanted), rows) for said in self._explainer.infer_many(prepared, asked, masks=masks)]


def _compared(said: Explanation, count: int, rows: Sequence[int]) -> Compared:
    spread = said.heatmap_std
    kept = replace(
        said, explained=said.explained[:count], heatmap=said.heatmap[:count], heatmap_std=None if spread is None else spread[:count]
    )
    top, runner_up = (said.heatmap[row] for row in rows)
    return Compared(**{each.name: getattr(kept, each.name) for each in fields(kept)}, top_heat=top, runner_up=runner_up)


def _numbers(explainer: Explains, classes: Classes) -> tuple[int, ...]:
    return tuple(class_number(explainer.spec, name) for name in classes)


def with_runner_up(explainer: Explains, classes: Classes) -> Explains:
    """The explainer itself where it is no classifier, its graph explains a fixed number of classes, or it knows only one."""
    spec = explainer.spec
    free = spec.task == "classify" and spec.explanation.count is None and len(spec.labels) > 1
    return WithRunnerUp(explainer, classes) if free else explainer
