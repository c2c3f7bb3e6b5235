"""Descriptions of small models for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dkcam.spec import ExplanationSpec, InputSpec, ModelSpec


def model_spec(labels: Sequence[str] = ("a", "b"), height: int = 64, width: int = 96, **parts: Any) -> ModelSpec:
    """Of our ResNet-50, but for the parts that are given."""
    given = {"input": InputSpec(height=height, width=width, multiple=32), "explanation": ExplanationSpec(layers=("layer4",))} | parts
    return ModelSpec(labels=tuple(labels), **given)
