"""Quantisation: gradients pass as if nothing had been rounded."""

from __future__ import annotations

import numpy as np

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import Step, single
from dkcam.export.writer import Writer, array_of


@single("QuantizeLinear")
def quantize(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """The cotangent of whole numbers is that of the real ones they stand for."""
    return cotangent


@single("DequantizeLinear")
def dequantize(writer: Writer, step: Step, cotangent: Cotangent) -> Cotangent:
    """As above; the scale must be the one that the numbers were made with."""
    made_by = step.x.producer()
    if made_by is not None and made_by.op_type == "QuantizeLinear":
        before, after = array_of(made_by.inputs[1]), step.constant(1)
        if before is not None and after is not None and not np.array_equal(before, after):
            raise step.refuse("its scale differs from that of the QuantizeLinear before it")
    return cotangent
