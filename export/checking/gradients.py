"""Autograd of many scores at one value of a graph: the reference of every gradient that is written into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
import torch
from torch import Tensor

from dkcam.errors import ExportError
from dkcam.export.checking.interpreter import NOTHING, Interpreter, Tally, Values

Scores = Callable[[dict[str, Tensor]], Tensor]
"""Values by name → K scalars [K]."""


@dataclass(frozen=True)
class Gradients:
    """leaf: the value [...] itself; scores: [K]; gradients: [K, ...]. All in the interpreter's type.

    flipped: choices that were made by ``seen`` values and that this run would have made otherwise, of ``choices``.
    """

    leaf: Tensor
    scores: Tensor
    gradients: Tensor
    flipped: int
    choices: int


def gradients(
    model: ir.Model | onnx.ModelProto | Interpreter,
    feed: Values,
    leaf: str,
    scores: Scores | Sequence[str],
    *,
    reads: Sequence[str] = (),
    dtype: torch.dtype = torch.float64,
    given: Values = NOTHING,
    seen: Values = NOTHING,
) -> Gradients:
    """The gradient of each of K scores at ``leaf``.

    scores: a function of the values named in ``reads``, or names of values, whose every number is a score, in this order. One
    backward pass a score, so that memory does not grow with K but by the result. A score that does not depend on the leaf has gradient 0.
    Errors: those of Interpreter.evaluate; ExportError where scores are not [K].
    """
    interpreter = interpreter_of(model, dtype)
    names = list(reads) if callable(scores) else list(scores)
    tally: Tally = {}
    values = interpreter.evaluate(feed, [*names, leaf], leaves=[leaf], given=given, seen=seen, tally=tally)
    with torch.enable_grad():
        found = as_scores(scores, values, names)
    at = values[leaf]
    rows = torch.zeros(len(found), *at.shape, dtype=at.dtype)
    for index, score in enumerate(found if found.requires_grad else ()):
        (row,) = torch.autograd.grad(score, at, retain_graph=index + 1 < len(found), allow_unused=True)
        if row is not None:
            rows[index] = row
    flipped, choices = sum(one for one, _ in tally.values()), sum(all_ for _, all_ in tally.values())
    return Gradients(at.detach(), found.detach(), rows, flipped, choices)


def as_scores(scores: Scores | Sequence[str], values: dict[str, Tensor], names: Sequence[str]) -> Tensor:
    """[K]. Errors: ExportError where it is not."""
    found = scores(values) if callable(scores) else torch.cat([values[name].reshape(-1) for name in names])
    if found.ndim != 1:
        raise ExportError(f"scores have shape {list(found.shape)}, expected [K]")
    return found


def interpreter_of(model: ir.Model | onnx.ModelProto | Interpreter, dtype: torch.dtype = torch.float64) -> Interpreter:
    return model if isinstance(model, Interpreter) else Interpreter(model, dtype=dtype)
