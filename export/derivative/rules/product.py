"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from dkcam.export.derivative.axes import moved, removed
from dkcam.export.derivative.cotangent import Cotangent, chosen_rows, unbroadcast
from dkcam.export.derivative.rule import Step, rule
from dkcam.export.writer import Writer, rank_of, shape_of


def of_left(writer: Writer, cotangent: Cotangent, y: ir.Value, a: ir.Value, b: ir.Value) -> Cotangent:
    """The cotangent of a [*, m, k] in y [*, m, n] = a b: that of y times bᵀ, summed over the batch axes that a does not have."""
    if shape_of(cotangent.g)[-1] == 1:  # g stays outside: a product without K
        product = writer.swap_last(writer.sum(b, -1))
        if _varies(cotangent.d, -1):
            product, cotangent = writer.op("MatMul", _matrix(writer, cotangent.d), writer.swap_last(b)), Cotangent(cotangent.g)
        return unbroadcast(writer, cotangent.times(writer, product), y, a, own=2)
    apart = _apart(writer, cotangent, -1)
    rows = chosen_rows(apart.g)
    if rows is not None and rank_of(b) == 2:
        product = writer.op("Gather", writer.swap_last(b), rows, axis=0)
    else:
        product = writer.op("MatMul", apart.g, writer.swap_last(b))
    return unbroadcast(writer, Cotangent(product, apart.d), y, a, own=2)


def of_right(writer: Writer, cotangent: Cotangent, y: ir.Value, a: ir.Value, b: ir.Value) -> Cotangent:
    """The cotangent of b [*, k, n] in y [*, m, n] = a b: aᵀ times that of y."""
    if shape_of(cotangent.g)[-2] == 1:
        product = writer.swap_last(writer.sum(a, -2))
        if _varies(cotangent.d, -2):
            product, cotangent = writer.op("MatMul", writer.swap_last(a), _matrix(writer, cotangent.d)), Cotangent(cotangent.g)
        return unbroadcast(writer, cotangent.times(writer, product), y, b, own=2)
    apart = _apart(writer, cotangent, -2)
    return unbroadcast(writer, Cotangent(writer.op("MatMul", writer.swap_last(a), apart.g), apart.d), y, b, own=2)


def _varies(d: ir.Value | None, axis: int) -> bool:
    return d is not None and rank_of(d) >= -axis and shape_of(d)[axis] != 1


def _matrix(writer: Writer, d: ir.Value | None) -> ir.Value:
    """d with two axes at least."""
    assert d is not None
    return writer.unsqueeze(d, 0) if rank_of(d) == 1 else d


def _apart(writer: Writer, cotangent: Cotangent, axis: int) -> Cotangent:
    """d stays outside of the product where it does not vary along the axis that is summed over; else it goes into g."""
    return Cotangent(cotangent.whole(writer)) if _varies(cotangent.d, axis) else cotangent


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
        result[0] = removed(writer, left, [0], 2) if row else left
    if step.active[1]:
        right = of_right(writer, cotangent, y, a, b)
        result[1] = removed(writer, right, [1], 2) if column else right
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
