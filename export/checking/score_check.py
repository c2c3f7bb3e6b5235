"""A score found wrongly would be explained in silence: perturbing it has to change the output that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dkcam.errors import ExportError
from dkcam.export.checking.interpreter import Interpreter
from dkcam.export.explain.scores import class_axis
from dkcam.export.explain.tasks import Task
from dkcam.export.writer import shape_of
from dkcam.printable import printable

CHECKED = 16  # classes


def check_score(model: ir.Model, task: Task, feed: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> None:
    """Move the score of one class after the other: the output must move, and where it has the same classes, most in that class.

    Errors: ExportError naming score and output.
    """
    score, output = task.found.scores.name or "", task.output.name or ""
    if score == output:
        return
    interpreter = Interpreter(model)
    plain = interpreter.evaluate({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()}, [score, output])
    axis = 1 if task.kind == "dense" else class_axis(task.found.scores)
    shape = shape_of(task.found.scores)
    count = shape[axis] if len(shape) > axis else 1
    assert isinstance(count, int)
    size = max(float(plain[score].std()) if plain[score].numel() > 1 else 0.0, float(plain[score].abs().max()), 1e-3)
    same = plain[output].is_floating_point() and _length(plain[output]) == _length(plain[score])
    for index in rng.permutation(count)[:CHECKED].tolist():
        moved = plain[score].clone()
        moved.select(axis, index).add_(size)
        after = interpreter.evaluate({}, [output], given={score: moved})[output]
        change = (after.double() - plain[output].double()).abs()
        if not bool(change.max() > 0):
            raise _wrong(task, f"moving class {index} changes nothing")
        if same and count > 1:
            by_class = change.reshape(len(change), -1) if task.kind != "dense" else change.movedim(1, -1).reshape(-1, count).amax(0)[None]
            if by_class.shape[1] == count and int(by_class.sum(0).argmax()) != index and float(by_class.sum(0)[index]) == 0:
                raise _wrong(task, f"moving class {index} leaves that class as it was")


def _length(value: torch.Tensor) -> int:
    return value.numel()


def _wrong(task: Task, why: str) -> ExportError:
    return ExportError(
        f"{printable(task.found.scores.name or '')} was taken for the score behind {printable(task.output.name or '')}, but {why}; "
        "name the output to explain with --outputs, and its --task; nothing was written"
    )
