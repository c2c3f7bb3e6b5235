"""How numbers are stored and multiplied upstream of a boundary; what follows is float32 always."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Half:
    """float16 weights and activations. largest: magnitudes that values reached on pictures, by name; none is no limit."""

    largest: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Int8:
    """int8 weights per output channel, 8-bit activations, as QuantizeLinear and DequantizeLinear pairs.

    target "gpu": symmetric int8 activations (TensorRT refuses others), float biases. target "cpu": uint8 activations,
    int32 biases, residual sums in 8 bits too; weights in −63..63, since processors without VNNI add two products of
    8 bits in 16, which overflows with larger ones.

    ranges: value → (low, high), from ``calibrate``. kept: convolutions and matrix products left in float32.
    """

    target: str
    ranges: Mapping[str, Range]
    kept: frozenset[str] = frozenset()

    @property
    def largest(self) -> int:
        """Largest weight."""
        return 63 if self.target == "cpu" else 127

    def step(self, name: str) -> tuple[float, int]:
        """(step, zero point) of a value's 8 bits."""
        low, high = self.ranges[name]
        if self.target == "gpu":
            return _float32(max(-low, high, 1e-6) / 127), 0
        step = _float32(max(high - low, 1e-6) / 255)
        return step, min(max(round(-low / step), 0), 255)


def _float32(value: float) -> float:
    return float(np.float32(value))


Numerics = Half | Int8
