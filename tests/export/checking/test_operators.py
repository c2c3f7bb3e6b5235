"""Every operator of the interpreter, in random forms: its numbers against others', its gradient against finite differences."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from dkcam.export.checking.differences import differences
from dkcam.export.checking.gradients import gradients
from dkcam.export.checking.interpreter import Interpreter
from dkcam.export.checking.operators import OPERATORS
from tests.export.checking import cases_of_numbers, cases_of_places  # noqa: F401
from tests.export.checking.cases import FAMILIES, Case

SEEDS = 2


def theirs(case: Case) -> tuple[Sequence[Any], float]:
    """(outputs, the largest relative difference that rounding explains)."""
    if case.runtime:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        model = case.model(np.float32).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return session.run(None, case.feed(np.float32)), 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ReferenceEvaluator(case.model()).run(None, case.feed())
    assert isinstance(found, list)
    return found, case.bound


def compare(case: Case) -> None:
    feed = {
        name: value.astype(np.float64)
        for name, value in case.feed(np.float32 if case.runtime else np.float64).items()
        if value.dtype.kind == "f"
    }
    feed = case.feed(np.float32 if case.runtime else np.float64) | feed
    interpreter = Interpreter(case.model())
    found = list(interpreter.evaluate(feed, [f"y{i}" for i in range(case.outputs)]).values())
    expected, bound = theirs(case)
    for one, other in zip(found, expected, strict=True):
        mine, other = one.numpy(), np.asarray(other)
        assert mine.shape == other.shape, f"{case}: {mine.shape}, expected {other.shape}"
        assert (mine.dtype.kind == "f") == (other.dtype.kind == "f") or case.kind == "QuantizeLinear", f"{case}: {mine.dtype}"
        mine, other = mine.astype(np.float64), other.astype(np.float64)
        scale = np.abs(other[np.isfinite(other)]).max(initial=1e-3)
        assert np.allclose(mine, other, 0, bound * scale, equal_nan=True), f"{case}: {np.abs(mine - other).max() / scale:.1e}"


def differentiate(case: Case) -> None:
    """Autograd of two random sums of the outputs at every real input, against finite differences."""
    interpreter = Interpreter(case.model())
    outputs = [f"y{i}" for i in range(case.outputs)]
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(2, *value.shape, generator=generator, dtype=value.dtype)
        for name, value in interpreter.evaluate(case.feed(), outputs).items()
        if value.is_floating_point()
    }

    def scores(values: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([(weight * values[name]).reshape(2, -1).sum(1) for name, weight in weights.items()]).sum(0)

    for name, value in case.feed().items():
        if value.dtype != np.float64 or not value.size:
            continue
        found = gradients(interpreter, case.feed(), name, scores, reads=list(weights))
        error = differences(interpreter, case.feed(), name, scores, found.gradients, reads=list(weights), directions=2).error
        assert error.max() < 1e-6, f"{case}: gradient at {name}: {error}"


@pytest.mark.parametrize("family", FAMILIES)
def test_operators(family: str) -> None:
    for seed in range(SEEDS):
        for case in FAMILIES[family](np.random.default_rng([seed, crc32(family.encode())])):
            compare(case)
            if case.smooth:
                differentiate(case)


def test_no_operator_is_left_out() -> None:
    tried = {case.kind for family in FAMILIES.values() for case in family(np.random.default_rng(0))}
    assert tried == set(OPERATORS)
