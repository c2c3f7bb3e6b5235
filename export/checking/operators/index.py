"""Taking from places and putting to places; choosing boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dkcam.export.checking.operators.table import Call, number, operator


def _positive(places: Tensor, size: int) -> Tensor:
    places = places.to(torch.int64)
    return torch.where(places < 0, places + size, places)


@operator("Gather")
def gather(call: Call, x: Tensor, places: Tensor) -> Tensor:
    axis = call.attribute("axis", 0) % x.ndim
    found = x.index_select(axis, _positive(places, x.shape[axis]).reshape(-1))
    return found.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


@operator("GatherElements")
def gather_elements(call: Call, x: Tensor, places: Tensor) -> Tensor:
    axis = call.attribute("axis", 0)
    return x.gather(axis, _positive(places, x.shape[axis]))


def _flat(call: Call, x: Tensor, places: Tensor) -> tuple[Tensor, int]:
    """(row number in the leading axes of x for each tuple of indices, how many axes are indexed)."""
    count = places.shape[-1]
    if count > x.ndim:
        raise call.refuse(f"tuples of {count} indices into {x.ndim} axes")
    rows = torch.zeros(places.shape[:-1], dtype=torch.int64)
    for axis in range(count):
        at = _positive(places[..., axis], x.shape[axis])
        if at.numel() and not 0 <= int(at.min()) <= int(at.max()) < x.shape[axis]:
            raise call.refuse(f"an index is outside axis {axis} of {x.shape[axis]}")
        rows = rows * x.shape[axis] + at
    return rows, count


@operator("GatherND")
def gather_nd(call: Call, x: Tensor, places: Tensor) -> Tensor:
    batch = call.attribute("batch_dims", 0)
    if batch:
        lead = x.shape[:batch]
        grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in lead], indexing="ij"), -1)
        grid = grid.reshape(*lead, *[1] * (places.ndim - 1 - batch), batch).expand(*places.shape[:-1], batch)
        places = torch.cat([grid, places], -1)
    rows, count = _flat(call, x, places)
    found = x.reshape(math.prod(x.shape[:count]), *x.shape[count:]).index_select(0, rows.reshape(-1))
    return found.reshape((*rows.shape, *x.shape[count:]))


REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _reduction(call: Call) -> str | None:
    form = call.attribute("reduction", "none")
    if form != "none" and form not in REDUCE:
        raise call.refuse(f"reduction = {form!r}")
    return REDUCE.get(form)


@operator("ScatterElements")
def scatter_elements(call: Call, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    axis, form = call.attribute("axis", 0), _reduction(call)
    places = _positive(places, x.shape[axis])
    if form is None:
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, form, include_self=True)


@operator("ScatterND")
def scatter_nd(call: Call, x: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    form = _reduction(call)
    rows, count = _flat(call, x, places)
    flat = x.reshape(math.prod(x.shape[:count]), -1)
    where = rows.reshape(-1, 1).expand(-1, flat.shape[1])
    given = updates.reshape(where.shape)
    y = flat.scatter(0, where, given) if form is None else flat.scatter_reduce(0, where, given, form, include_self=True)
    return y.reshape(x.shape)


@operator("OneHot")
def one_hot(call: Call, places: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size, axis = number(depth), call.attribute("axis", -1)
    axis = axis + places.ndim + 1 if axis < 0 else axis
    hot = _positive(places, size).unsqueeze(axis) == torch.arange(size).reshape(-1, *[1] * (places.ndim - axis))
    return torch.where(hot, values[1], values[0])


@operator("NonZero", branches=(0,))
def non_zero(call: Call, x: Tensor) -> Tensor:
    return call.choose(lambda x: torch.nonzero(x).T, x) if x.ndim else torch.zeros(1, int(bool(x)), dtype=torch.int64)


@operator("Compress")
def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    axis = call.maybe("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


@operator("NonMaxSuppression", branches=(0, 1))
def non_maximum_suppression(
    call: Call,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    form = call.attribute("center_point_box", 0)
    count, bound = 0 if most is None else number(most), 0.0 if overlap is None else float(overlap)
    floor = None if least is None else float(least)
    return call.choose(lambda boxes, scores: _chosen_boxes(boxes, scores, bool(form), count, bound, floor), boxes, scores)


def _chosen_boxes(boxes: Tensor, scores: Tensor, form: bool, count: int, bound: float, floor: float | None) -> Tensor:
    """int64 [n,3]: image, class, box, the best first. form: boxes are centre and size, else two corners."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if form:
        first, second = first - second / 2, first + second / 2
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    areas = (high - low).prod(-1)
    chosen = []
    for image in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            row = scores[image, kind]
            waiting = torch.sort(row, descending=True, stable=True).indices
            if floor is not None:
                waiting = waiting[row[waiting] > floor]
            for _ in range(min(count, len(waiting))):
                if not len(waiting):
                    break
                best, waiting = waiting[0], waiting[1:]
                chosen.append(torch.stack([torch.tensor(image), torch.tensor(kind), best]))
                sides = torch.minimum(high[image, best], high[image, waiting]) - torch.maximum(low[image, best], low[image, waiting])
                shared = sides.clamp(min=0).prod(-1)
                union = areas[image, best] + areas[image, waiting] - shared
                waiting = waiting[~(shared > bound * union)]
    return torch.stack(chosen) if chosen else torch.zeros(0, 3, dtype=torch.int64)
