"""Units so near to a kink that float32 and float64 stand on different sides of it.

At a ReLU's kink the derivative is a convention, and a value that float64 finds at +1e-9 may be −1e-9 in float32. Of ten million
units some always are; each switches its part of the gradient on or off. The reference follows the finished file there, and only
there; those that follow against their own side are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from dkcam.export.checking.interpreter import Interpreter
from dkcam.export.derivative.sweep import ancestors
from dkcam.export.writer import array_of

NEAR = 1e-5  # of a value's largest in the picture: float32 cannot tell the side of what is nearer to the kink …
WIDEST = 1e-3  # … nor, in deep networks, of what a float32 run is off by; but never of more than this
FACTOR = 4.0
AT_ZERO = frozenset({"Relu", "LeakyRelu", "PRelu", "Elu", "Celu", "Selu", "Abs", "ThresholdedRelu", "Softsign", "Shrink"})


@dataclass(frozen=True)
class Kink:
    """An input at which some operator has to choose a side. at: the numbers where it does, () where it chooses a largest."""

    name: str
    at: tuple[float, ...]


def kinks_between(model: ir.Model, layers: Sequence[str], scores: Sequence[str]) -> list[Kink]:
    """Those that a gradient of the scores passes on its way to the layers, both given by their values' names."""
    interpreter = Interpreter(model)
    names = dict.fromkeys(name for layer in layers for name in interpreter.branches(scores, layer))
    sides: dict[str, dict[float, None]] = {name: {} for name in names}
    needed = ancestors([value for node in model.graph for value in node.outputs if value.name in scores])
    for node in (node for node in model.graph if node in needed):
        for value in node.inputs:
            if value is not None and value.name in sides:
                sides[value.name].update(dict.fromkeys(_sides(node)))
    return [Kink(name, tuple(at)) for name, at in sides.items()]


def _sides(node: ir.Node) -> tuple[float, ...]:
    """The numbers at which an operator's derivative jumps; () where it has none, or chooses among its inputs."""
    kind = node.op_type
    if kind in AT_ZERO:
        return (0.0,)
    if kind == "HardSwish":
        return (-3.0, 3.0)
    if kind == "HardSigmoid":
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.2
        beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 0.5
        return (-beta / alpha, (1 - beta) / alpha)
    if kind == "Clip":
        bounds = [array_of(value) for value in node.inputs[1:]]
        return tuple(float(bound.reshape(())) for bound in bounds if bound is not None)
    return ()


@dataclass(frozen=True)
class Followed:
    """values: what the reference takes its sides from, by name. kinks: units that follow against their own side. units: all."""

    values: Mapping[str, Tensor]
    kinks: int
    units: int


def follow(
    kinks: Sequence[Kink], exact: Mapping[str, Tensor], seen: Mapping[str, Tensor], single: Mapping[str, Tensor] | None = None
) -> Followed:
    """float64's own values, replaced by those that the file ``seen`` where both are as near as rounding.

    single: a float32 run of the reference, whose error says how much rounding there is, for each channel.
    """
    values, count, units = {}, 0, 0
    for kink in kinks:
        own = exact[kink.name]
        other = seen[kink.name].to(own)
        band = NEAR * own.abs().amax()
        if single is not None and own.ndim > 1:
            over = tuple(axis for axis in range(own.ndim) if axis > 1) or (0,)
            off = FACTOR * (single[kink.name].to(own) - own).abs().amax(over, keepdim=True)
            band = off.clamp(min=band, max=WIDEST / NEAR * band)
        blend = torch.where((other - own).abs() <= band, other, own)
        count += sum(int(((blend > side) != (own > side)).sum()) for side in kink.at)
        units += own.numel() if kink.at else 0
        values[kink.name] = blend
    return Followed(values, count, units)
