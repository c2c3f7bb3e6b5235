"""How numbers are stored and multiplied in the backbone; the head is float32 always."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class Half:
    """float16 weights and activations."""


@dataclass(frozen=True)
class Int8:
    """int8 weights per output channel, 8-bit activations, as QuantizeLinear and DequantizeLinear pairs.

    target "gpu": symmetric int8 activations (TensorRT refuses others), float biases. target "cpu": uint8 activations,
    int32 biases, residual sums in 8 bits too; weights in −63..63, since processors without VNNI add two products of
    8 bits in 16, which overflows with larger ones.

    ranges: activation → (low, high), from ``calibrate``. kept: convolutions left in float32.
    """

    target: str
    ranges: Mapping[str, Range]
    kept: frozenset[str] = frozenset()

    @property
    def largest(self) -> int:
        """Largest weight."""
        return 63 if self.target == "cpu" else 127


Numerics = Half | Int8
