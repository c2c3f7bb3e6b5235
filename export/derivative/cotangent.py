"""What travels backwards: for each of K explained scalars, its derivative at a value.

A cotangent of a value v [*S] is a pair (g, d) and means g · d. g [K, *S'] carries the K scalars; d [*S''], or None for 1,
does not depend on K. Both broadcast to [K, *S] by NumPy's rule, and g has exactly one axis more than v. An axis along which
the cotangent is even stays 1 ("lazy"). So

- a pointwise operator multiplies d alone: SiLU, a GELU of five nodes, a batch-norm become one diagonal, applied once for all K;
- the cotangent of a pooling stays [K, B, C, 1, 1]: global pooling and a linear head give their closed form by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.writer import Dimension, UnknownShape, Writer, array_of, rank_of, shape_of


@dataclass(frozen=True)
class Cotangent:
    """g float32 [K, *S'], d float32 [*S''] or None. See the module."""

    g: ir.Value
    d: ir.Value | None = None

    def times(self, writer: Writer, local: ir.Value | None) -> Cotangent:
        """Multiplied by a local derivative that does not depend on K; None is 1."""
        if local is None:
            return self
        return Cotangent(self.g, local if self.d is None else writer.mul(self.d, local))

    def whole(self, writer: Writer) -> ir.Value:
        """g · d, [K, *S'] with lazy axes still 1."""
        return writer.mul(self.g, self.d)


def same(a: Dimension, b: Dimension) -> bool:
    """Whether two dimensions are equal. UnknownShape where that depends on the sizes at run time."""
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    raise UnknownShape(f"whether {a} equals {b} depends on the size at run time")


def full(writer: Writer, whole: ir.Value, like: ir.Value) -> ir.Value:
    """Lazy axes of [K, *S'] spread out to [K, *S], S the shape of ``like``."""
    if all(a == b or a != 1 for a, b in zip(shape_of(whole)[1:], shape_of(like), strict=True)):
        return whole
    return writer.expand(whole, 1, writer.dims(like))


def fold(writer: Writer, whole: ir.Value, like: ir.Value) -> ir.Value:
    """[K, B, …] → [K·B, …], spread out to the shape of ``like`` [B, …]: for operators that know one batch axis alone."""
    return writer.reshape(full(writer, whole, like), -1, writer.dims(like, 1))


def unfold(writer: Writer, value: ir.Value, like: ir.Value) -> ir.Value:
    """[K·B, …] → [K, B, …], where ``like`` is [B, …]."""
    return writer.reshape(value, -1, writer.dims(like))


def spread(writer: Writer, whole: ir.Value, axis: int, size: Dimension, like: ir.Value) -> ir.Value:
    """A lazy axis of ``like`` (``axis`` counts without K) spread out to its size; the others stay as they are."""
    if shape_of(whole)[axis + 1] != 1 or size == 1:
        return whole
    after = [1] * (rank_of(like) - axis - 1)
    return writer.expand(whole, [1] * (axis + 1), writer.dims(like, axis, axis + 1), after)


def unbroadcast(writer: Writer, cotangent: Cotangent, out: ir.Value, source: ir.Value, own: int = 0) -> Cotangent:
    """The cotangent of ``source``, which was broadcast to the shape of ``out``: sums over the axes that were repeated.

    own: so many axes at the end are already those of ``source`` (a matrix product's).
    """
    outer, inner = shape_of(out), shape_of(source)
    rank, lead = len(outer), len(outer) - len(inner)
    outer[rank - own :] = inner[len(inner) - own :]
    axes = [a for a in range(rank) if a < lead or (inner[a - lead] == 1 and outer[a] != 1)]
    for a in range(lead, rank):
        if a not in axes:
            same(inner[a - lead], outer[a])
    if not axes:
        return cotangent
    g, d = cotangent.g, cotangent.d
    sizes_g = shape_of(g)[1:]
    ones: list[Dimension] = [1] * (rank if d is None else rank - rank_of(d))
    sizes_d = ones if d is None else ones + shape_of(d)
    only_d = [a for a in axes if sizes_g[a] == 1 and sizes_d[a] != 1]
    only_g = [a for a in axes if sizes_g[a] != 1 and sizes_d[a] == 1]
    both = [a for a in axes if sizes_g[a] != 1 and sizes_d[a] != 1]
    even = [a for a in axes if sizes_g[a] == 1 and sizes_d[a] == 1]
    if both:
        g, d = writer.mul(g, d), None
        only_g, only_d = only_g + only_d + both, []
    if only_d and d is not None:
        d = writer.sum(d, *(a - (rank - rank_of(d)) for a in only_d))
    if only_g:
        g = writer.sum(g, *(a + 1 for a in only_g))
    for a in even:
        if outer[a] != 1:
            count = writer.size(out, a)
            d = count if d is None else writer.mul(d, count)
    if lead:
        g = writer.squeeze(g, *range(1, lead + 1))
        if d is not None and rank_of(d) > len(inner):
            d = writer.squeeze(d, *range(rank_of(d) - len(inner)))
    return Cotangent(g, d)


def merge(writer: Writer, cotangents: list[Cotangent]) -> Cotangent:
    """The sum: where the part with K is the same, only the diagonals add up; where the diagonal is, the parts with K."""
    groups: dict[ir.Value, list[ir.Value | None]] = {}
    for cotangent in cotangents:
        groups.setdefault(cotangent.g, []).append(cotangent.d)
    by_diagonal: dict[ir.Value | None, ir.Value] = {}
    for g, diagonals in groups.items():
        total = diagonals[0]
        for other in diagonals[1:]:
            total = writer.add(writer.number(1.0) if total is None else total, writer.number(1.0) if other is None else other)
        by_diagonal[total] = writer.add(by_diagonal[total], g) if total in by_diagonal else g
    parts = [Cotangent(g, d) for d, g in by_diagonal.items()]
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].whole(writer)
    for one in parts[1:]:
        whole = writer.add(whole, one.whole(writer))
    return Cotangent(whole)


def chosen_rows(whole: ir.Value) -> ir.Value | None:
    """Class numbers int64 [K, …] where ``whole`` [K, …, n] is a one-hot seed, None for anything else.

    Its product with a matrix [n, m] is then the matrix's rows, picked by a Gather. A cotangent is one-hot only as a task's seed.
    """
    node = whole.producer()
    if node is None or node.op_type != "OneHot" or ("axis" in node.attributes and node.attributes["axis"].as_int() != -1):
        return None
    off_on = array_of(node.inputs[2])
    return node.inputs[0] if off_on is not None and off_on.tolist() == [0, 1] else None
