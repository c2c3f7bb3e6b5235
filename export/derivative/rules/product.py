"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dkcam.export.derivative.axes import moved
from dkcam.export.derivative.cotangent import Cotangent, chosen_rows, unbroadcast
from dkcam.export.derivative.rule import Step, rule
from dkcam.export.writer import Writer, rank_of, shape_of


def of_left(writer: Writer, cotangent: Cotangent, y: ir.Value, a: ir.Value, b: ir.Value) -> Cotangent:
    """The cotangent of a [*, m, k] in y [*, m, n] = a b: that of y times bᵀ, summed over the batch axes that a does not have."""
    g, d = _apart(writer, cotangent, -1)
    rows = chosen_rows(g)
    if rows is not None and rank_of(b) == 2:
        return unbroadcast(writer, Cotangent(writer.op("Gather", writer.swap_last(b), rows, axis=0), d), y, a, own=2)
    if shape_of(g)[-1] == 1:
        b = writer.sum(b, -1)  # the same for all n: one product with the sum
    return unbroadcast(writer, Cotangent(writer.op("MatMul", g, writer.swap_last(b)), d), y, a, own=2)


def of_right(writer: Writer, cotangent: Cotangent, y: ir.Value, a: ir.Value, b: ir.Value) -> Cotangent:
    """The cotangent of b [*, k, n] in y [*, m, n] = a b: aᵀ times that of y."""
    g, d = _apart(writer, cotangent, -2)
    if shape_of(g)[-2] == 1:
        a = writer.sum(a, -2)
    return unbroadcast(writer, Cotangent(writer.op("MatMul", writer.swap_last(a), g), d), y, b, own=2)


def _apart(writer: Writer, cotangent: Cotangent, axis: int) -> tuple[ir.Value, ir.Value | None]:
    """(g, d) where d does not vary along the axis that is summed over and may stay outside of the product; else (g · d, None)."""
    d = cotangent.d
    if d is None or rank_of(d) < -axis or shape_of(d)[axis] == 1:
        return cotangent.g, d
    return cotangent.whole(writer), None


@rule("MatMul")
def matmul(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    (cotangent,) = cotangents
    assert cotangent is not None
    a, b, y = step.input(0), step.input(1), step.y
    row, column = rank_of(a) == 1, rank_of(b) == 1  # vectors stand for [1, k] and [k, 1]
    if row or column:
        g = cotangent.whole(writer)
        if column:
            g, y, b = writer.unsqueeze(g, rank_of(g)), writer.unsqueeze(y, rank_of(y)), writer.unsqueeze(b, 1)
        if row:
            g, y, a = writer.unsqueeze(g, rank_of(g) - 1), writer.unsqueeze(y, rank_of(y) - 1), writer.unsqueeze(a, 0)
        cotangent = Cotangent(g)
    result = {}
    if step.active[0]:
        left = of_left(writer, cotangent, y, a, b)
        result[0] = Cotangent(writer.squeeze(left.g, 1)) if row else left
    if step.active[1]:
        right = of_right(writer, cotangent, y, a, b)
        result[1] = Cotangent(writer.squeeze(right.g, 2)) if column else right
    return result


@rule("Gemm")
def gemm(writer: Writer, step: Step, cotangents: Sequence[Cotangent | None]) -> Mapping[int, Cotangent]:
    """y = α a b + β c, a and b transposed where transA and transB say so."""
    (cotangent,) = cotangents
    assert cotangent is not None
    a, b, y = step.input(0), step.input(1), step.y
    alpha, beta = step.attribute("alpha", 1.0), step.attribute("beta", 1.0)
    turned = bool(step.attribute("transA", 0)), bool(step.attribute("transB", 0))
    a, b = writer.swap_last(a) if turned[0] else a, writer.swap_last(b) if turned[1] else b
    scaled = cotangent if alpha == 1 else cotangent.times(writer, writer.number(alpha))
    result = {}
    for index, function in enumerate((of_left, of_right)):
        if step.active[index]:
            one = function(writer, scaled, y, a, b)
            result[index] = moved(writer, one, [1, 0]) if turned[index] else one
    if len(step.active) > 2 and step.active[2]:
        scaled = cotangent if beta == 1 else cotangent.times(writer, writer.number(beta))
        result[2] = unbroadcast(writer, scaled, y, step.input(2))
    return result
