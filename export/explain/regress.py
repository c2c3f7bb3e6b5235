"""Regressors: what raises an output, and what lowers it."""

from __future__ import annotations

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.explain.scores import Behind, Explained, rows, seed
from dkcam.export.writer import Writer, rank_of


def explain(writer: Writer, found: Behind, classes: ir.Value) -> Explained:
    """logits float32 [B, n], the outputs as they are, and explained int64 [B, K], the number of the output.

    classes: int64 [K] or [B, K]. i ≥ 0 explains what raises output i, −1 − i what lowers it: ``[0, −1]`` gives both sides of the
    first output. The derivative is that of the output itself, behind its last activation.
    """
    logits = rows(writer, found.scores)
    falls = writer.op("Less", classes, writer.ints(0))
    index = writer.op("Where", falls, writer.sub(writer.neg(classes), writer.ints(1)), classes)
    sign = writer.op("Where", falls, writer.number(-1.0), writer.number(1.0))
    if rank_of(classes) == 2:
        index, sign = writer.transpose(index, 1, 0), writer.transpose(sign, 1, 0)
    else:
        batch = writer.dims(found.scores, 0, 1)
        index = writer.expand(writer.unsqueeze(index, 1), 1, batch)
        sign = writer.expand(writer.unsqueeze(sign, 1), 1, batch)
    hot = seed(writer, found.scores, index)
    signed = writer.mul(hot.g, writer.unsqueeze(sign, *range(2, rank_of(hot.g))))
    outputs = {"logits": logits, "explained": writer.transpose(index, 1, 0)}
    return Explained(outputs, {found.scores: Cotangent(signed)})
