"""A cotangent's axes: put in, taken out, moved, regrouped, and linear maps along one of them.

Each works on whichever part, g or d, varies along the axis, so that pairs stay pairs and lazy axes stay lazy. Axes count without K.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.derivative.cotangent import Cotangent, spread
from dkcam.export.writer import Dimension, Writer, factors, rank_of, shape_of

FEW = 3  # runs of neighbours that are sent back by a slice and a pad each


def _even(value: ir.Value) -> bool:
    """Whether all its axes are 1, so that it means the same in any order of axes."""
    return all(size == 1 for size in shape_of(value))


def _ranked(writer: Writer, d: ir.Value, rank: int) -> ir.Value:
    """d with as many axes as its value."""
    return writer.unsqueeze(d, *range(rank - rank_of(d)))


def inserted(writer: Writer, cotangent: Cotangent, axes: Sequence[int], rank: int) -> Cotangent:
    """With new axes of size 1, which ``axes`` numbers in the result of ``rank`` axes."""
    g, d = writer.unsqueeze(cotangent.g, *(axis + 1 for axis in sorted(axes))), cotangent.d
    if d is not None and not _even(d):
        old = [axis for axis in range(rank) if axis not in axes][rank - len(axes) - rank_of(d) :]
        new = [axis for axis in range(old[0], rank) if axis not in old]
        d = writer.unsqueeze(d, *(axis - old[0] for axis in new))
    return Cotangent(g, d)


def removed(writer: Writer, cotangent: Cotangent, axes: Sequence[int], rank: int) -> Cotangent:
    """Without the axes, which are 1; ``rank`` is that of the value they are taken from."""
    g, d = writer.squeeze(cotangent.g, *(axis + 1 for axis in sorted(axes))), cotangent.d
    if d is not None:
        first = rank - rank_of(d)
        d = writer.squeeze(d, *(axis - first for axis in sorted(axes) if axis >= first))
    return Cotangent(g, d)


def moved(writer: Writer, cotangent: Cotangent, order: Sequence[int]) -> Cotangent:
    """Transposed: axis i of the result was axis order[i]."""
    g, d = writer.transpose(cotangent.g, 0, *(axis + 1 for axis in order)), cotangent.d
    if d is not None and not _even(d):
        d = writer.transpose(_ranked(writer, d, len(order)), *order)
    return Cotangent(g, d)


Linear = Callable[[ir.Value, int], ir.Value]
"""(value, its axis) → the value after a linear map along that axis."""


def along(
    writer: Writer, cotangent: Cotangent, axis: int, like: ir.Value, apply: Linear, even: NDArray[np.float64] | None = None
) -> Cotangent:
    """A linear map along one axis of the cotangent of ``like``.

    even: what the map makes of ones, for a cotangent that does not vary there; None spreads such a cotangent out first.
    """
    g, d = cotangent.g, cotangent.d
    rank = rank_of(like)
    first = rank if d is None else rank - rank_of(d)
    varies = shape_of(g)[axis + 1] != 1
    if d is not None and axis >= first and shape_of(d)[axis - first] != 1:
        if not varies:
            return Cotangent(g, apply(d, axis - first))
        g, d = cotangent.whole(writer), None
    if varies:
        return Cotangent(apply(g, axis + 1), d)
    if even is None:
        return Cotangent(apply(spread(writer, g, axis, shape_of(like)[axis], like), axis + 1), d)
    if np.all(even == even[:1]):
        return Cotangent(g, d).times(writer, writer.number(float(even[0])) if len(even) and even[0] != 1 else None)
    return Cotangent(g, d).times(writer, writer.constant(even.reshape(-1, *[1] * (rank - axis - 1)), np.float32))


# numbers that were picked along an axis


def sent_back(writer: Writer, cotangent: Cotangent, axis: int, like: ir.Value, source: NDArray[np.int64], size: int) -> Cotangent:
    """From ``like``, whose number i along the axis came from number source[i] of ``size``, or from nowhere where that is −1."""
    counts = np.bincount(source[source >= 0], minlength=size).astype(np.float64)
    return along(writer, cotangent, axis, like, lambda value, at: _sent_back(writer, value, at, source, size), counts)


def _sent_back(writer: Writer, value: ir.Value, axis: int, source: NDArray[np.int64], size: int) -> ir.Value:
    pieces = runs(source)
    kept = source[source >= 0]
    once = len(set(kept.tolist())) == len(kept)
    if (once and len(pieces) == 1 and pieces[0][2] == 1) or (not once and len(pieces) <= FEW):
        total: ir.Value | None = None
        for start, length, step in pieces:
            piece = _piece(writer, value, axis, start, length, source, size, step)
            total = piece if total is None else writer.add(total, piece)
        if total is not None:
            return total
    if once:  # a permutation, perhaps with holes: gather by its inverse
        back = np.full(size, len(source), np.int64)
        back[kept] = np.flatnonzero(source >= 0)
        if len(kept) < size:
            value = writer.pad(value, axis, 0, 1)
        return writer.op("Gather", value, writer.constant(back), axis=axis)
    hot = source[:, None] == np.arange(size)[None]
    return product_along(writer, value, axis, writer.constant(hot, np.float32))


def _piece(
    writer: Writer, value: ir.Value, axis: int, start: int, length: int, source: NDArray[np.int64], size: int, step: int
) -> ir.Value:
    """One run, at its place among zeros."""
    piece = writer.slice(value, axis, start, start + length)
    if step == -1:
        piece = writer.slice(piece, axis, -1, -(2**31), -1)
    elif step == 0:
        piece, length = writer.sum(piece, axis), 1
    low = int(source[start : start + length].min())
    return writer.pad(piece, axis, low, size - low - length)


def runs(source: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """(start, length, step) of runs whose sources go up by one, down by one, or stay; −1 is left out."""
    found: list[tuple[int, int, int]] = []
    i, n = 0, len(source)
    while i < n:
        if source[i] < 0:
            i += 1
            continue
        j = i + 1
        step = int(source[j] - source[i]) if j < n and source[j] >= 0 else 1
        if abs(step) <= 1:
            while j < n and source[j] >= 0 and source[j] - source[j - 1] == step:
                j += 1
        found.append((i, j - i, step if abs(step) <= 1 else 1))
        i = j
    return found


def product_along(writer: Writer, value: ir.Value, axis: int, hot: ir.Value) -> ir.Value:
    """Σ over n of value [*, n, post] · hot [n, m] → [*, m, post]; hot [pre, n, m] goes by the axes right before n."""
    after = rank_of(value) - axis - 1
    if after == 0:
        if rank_of(hot) == 2:
            return writer.op("MatMul", value, hot)
        return writer.squeeze(writer.op("MatMul", writer.unsqueeze(value, axis), hot), axis)
    flat = value if after == 1 else writer.reshape(value, writer.dims(value, 0, axis + 1), -1)
    product = writer.op("MatMul", writer.swap_last(hot), flat)
    return product if after == 1 else writer.reshape(product, writer.dims(product, 0, axis + 1), writer.dims(value, axis + 1))


# the same numbers in another shape


def regrouped(writer: Writer, cotangent: Cotangent, source: ir.Value, like: ir.Value) -> Cotangent:
    """From ``like`` to ``source``, which holds the same numbers in the same order in another shape.

    Axes fall into groups of equal product; a group along which a part is lazy stays lazy.
    """
    pairs = groups(shape_of(source), shape_of(like))
    g = _regrouped(writer, cotangent.g, 1, pairs, source, like)
    d = cotangent.d
    if d is not None and not _even(d):
        d = _regrouped(writer, _ranked(writer, d, rank_of(like)), 0, pairs, source, like)
    elif d is not None:
        d = writer.reshape(d, []) if rank_of(d) > rank_of(source) else d
    return Cotangent(g, d)


def _regrouped(
    writer: Writer, part: ir.Value, lead: int, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], source: ir.Value, like: ir.Value
) -> ir.Value:
    sizes = shape_of(part)[lead:]
    to, spread_to = [1] * rank_of(source), [1] * rank_of(like)
    for inner, outer in pairs:
        if any(sizes[axis] != 1 for axis in outer):
            for axis in inner:
                to[axis] = -1
            for axis in outer:
                spread_to[axis] = -1
    if -1 in spread_to:
        part = writer.expand(part, [1] * lead, *(1 if one == 1 else writer.dims(like, a, a + 1) for a, one in enumerate(spread_to)))
    wanted = [1 if one == 1 else size for one, size in zip(to, shape_of(source), strict=True)]
    parts: list[int | ir.Value] = [size if isinstance(size, int) else writer.dims(source, a, a + 1) for a, size in enumerate(wanted)]
    if lead:
        parts.insert(0, writer.dims(part, 0, 1))
    known = shape_of(part)[:lead] + wanted
    named = [index for index, one in enumerate(parts) if isinstance(one, ir.Value) and one.const_value is None]
    if named and 0 not in wanted:
        parts[named[0]] = -1  # one name is the rest: no Shape is read while the graph runs
    result = writer.reshape(part, *parts)
    if result is part and shape_of(part) != known:  # one size under two names
        result = writer.op("Identity", part)
    if result is not part:
        result.shape = ir.Shape(known)
    return result


def groups(a: Sequence[Dimension], b: Sequence[Dimension]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of a and b with equal products, as short as can be told; axes of 1 are alone."""
    if 0 in a or 0 in b:
        return [(list(range(len(a))), list(range(len(b))))]
    left, done_a, done_b = _from_left(a, b)
    right, rest_a, rest_b = _from_left(a[done_a:][::-1], b[done_b:][::-1])
    last_a, last_b = len(a) - 1, len(b) - 1
    turned = [([last_a - i for i in one], [last_b - j for j in other]) for one, other in right]
    middle = (list(range(done_a, len(a) - rest_a)), list(range(done_b, len(b) - rest_b)))
    return left + ([middle] if middle[0] or middle[1] else []) + turned


def _from_left(a: Sequence[Dimension], b: Sequence[Dimension]) -> tuple[list[tuple[list[int], list[int]]], int, int]:
    """Groups as far as they can be told from the left, and how many axes of each they take."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        if i < len(a) and a[i] == 1:
            found.append(([i], []))
            i += 1
        elif j < len(b) and b[j] == 1:
            found.append(([], [j]))
            j += 1
        else:
            ends = _equal_products(a, b, i, j)
            if ends is None:
                break
            found.append((list(range(i, ends[0])), list(range(j, ends[1]))))
            i, j = ends
    return found, i, j


def _equal_products(a: Sequence[Dimension], b: Sequence[Dimension], i: int, j: int) -> tuple[int, int] | None:
    """The nearest ends with a[i:end] and b[j:end] of equal product; None where that cannot be told."""
    product_a, product_b = (Fraction(1), Counter[str]()), (Fraction(1), Counter[str]())
    grow_a = grow_b = True
    while True:
        if (grow_a and i == len(a)) or (grow_b and j == len(b)):
            return None
        if grow_a:
            product_a, i = _times(product_a, a[i]), i + 1
        if grow_b:
            product_b, j = _times(product_b, b[j]), j + 1
        if product_a == product_b:
            return i, j
        (number_a, names_a), (number_b, names_b) = product_a, product_b
        if names_a == names_b:
            grow_a = number_a < number_b
        elif names_a <= names_b or names_b <= names_a:
            grow_a = names_a <= names_b
        else:
            return None
        grow_b = not grow_a


def _times(product: tuple[Fraction, Counter[str]], dimension: Dimension) -> tuple[Fraction, Counter[str]]:
    number, names = factors(dimension)
    return product[0] * number, product[1] + names
