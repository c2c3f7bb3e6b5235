"""Finite differences of scores in the interpreter: a check of a gradient that needs no autograd.

Along v = A·noise, not plain noise: a dead unit stays dead, so that ties of zeros (in a MaxPool, say) are no kinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.export.checking.gradients import Scores, as_scores, interpreter_of
from dkcam.export.checking.interpreter import NOTHING, Interpreter, Values

STEP = 1e-6  # of every number: rounding costs 1e-10 of a score, curvature 1e-12, and few units cross a kink


@dataclass(frozen=True)
class Differences:
    """Of K scores along D directions: ``expected`` ⟨gradient, v⟩ and ``measured``, both [D,K]; ``scale`` [K], ‖gradient·A‖₂."""

    expected: NDArray[np.float64]
    measured: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def error(self) -> NDArray[np.float64]:
        """[K]: the largest over the directions, relative to ``scale``; absolute where that is 0."""
        worst: NDArray[np.float64] = np.abs(self.expected - self.measured).max(0)
        return worst / np.where(self.scale > 0, self.scale, 1.0)


def differences(
    model: ir.Model | onnx.ModelProto | Interpreter,
    feed: Values,
    leaf: str,
    scores: Scores | Sequence[str],
    gradient: Tensor | NDArray[np.floating],
    *,
    reads: Sequence[str] = (),
    given: Values = NOTHING,
    seen: Values = NOTHING,
    directions: int = 3,
    seed: int = 0,
    step: float = STEP,
) -> Differences:
    """Central differences of K scores at ``leaf`` against ``gradient`` [K, *leaf]; scores and reads as gradients() takes them.

    Only what follows the leaf is computed again. The model's interpreter must be in float64.
    """
    interpreter = interpreter_of(model)
    names = list(reads) if callable(scores) else list(scores)
    at = interpreter.evaluate(feed, [leaf], given=given, seen=seen)[leaf]
    rows = torch.as_tensor(gradient, dtype=at.dtype)
    if rows.shape[1:] != at.shape:
        raise ValueError(f"a gradient of shape {list(rows.shape)} at a value of shape {list(at.shape)}")

    def score(value: Tensor) -> Tensor:
        return as_scores(scores, interpreter.evaluate(feed, names, given={**given, leaf: value}, seen=seen), names)

    generator = torch.Generator().manual_seed(seed)
    expected, measured = [], []
    for _ in range(directions):
        v = at * torch.randn(at.shape, generator=generator, dtype=at.dtype)
        measured.append((score(at + step * v) - score(at - step * v)) / (2 * step))
        expected.append((rows * v).reshape(len(rows), -1).sum(1))
    scale = (rows * at).reshape(len(rows), -1).norm(dim=1)
    return Differences(torch.stack(expected).numpy(), torch.stack(measured).numpy(), scale.numpy())
