"""Reductions, and what orders numbers along an axis. ReduceMax and ReduceMin share a gradient evenly among equals."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dkcam.export.checking.operators.table import Call, ints, number, operator

Axes = tuple[int, ...]


def _mean(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keep)
    return torch.div(x.sum(axes, keep), math.prod(x.shape[a] for a in axes), rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, axes: Axes, keep: bool) -> Tensor:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = x.prod(axis, keepdim=keep).to(x.dtype)
    return x


def _norm(x: Tensor, axes: Axes, keep: bool, order: int) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, order, axes, keep)
    return found


def _rounded(function: Callable[[Tensor, Axes, bool], Tensor]) -> Callable[[Tensor, Axes, bool], Tensor]:
    """For whole numbers: computed with real ones, then cut."""
    return lambda x, axes, keep: function(x, axes, keep) if x.is_floating_point() else function(x.double(), axes, keep).to(x.dtype)


REDUCTIONS: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep).to(x.dtype),
    "ReduceMean": _mean,
    "ReduceProd": _product,
    "ReduceL1": _rounded(partial(_norm, order=1)),
    "ReduceL2": _rounded(partial(_norm, order=2)),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep).to(x.dtype),
    "ReduceLogSum": _rounded(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": _rounded(torch.logsumexp),
}


def _axes(call: Call, x: Tensor, axes: Tensor | None) -> Axes | None:
    """The axes reduced; None for nothing at all."""
    given = call.maybe("axes") if axes is None else ints(axes)
    nothing = call.attribute("noop_with_empty_axes", 0)
    if not given:
        return None if nothing else tuple(range(x.ndim))
    return tuple(given)


def _enter(kind: str, function: Callable[[Tensor, Axes, bool], Tensor]) -> None:
    @operator(kind)
    def apply(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        keep, over = bool(call.attribute("keepdims", 1)), _axes(call, x, axes)
        if over is None:
            over = ()
            if kind in ("ReduceSum", "ReduceMean", "ReduceProd"):
                return x
            raise call.refuse("noop_with_empty_axes without axes")
        return function(x, over, keep) if x.ndim else function(x.reshape(1), (0,), False)


for kind, function in REDUCTIONS.items():
    _enter(kind, function)


@operator("ReduceMax", branches=(0,))
def reduce_max(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return _extreme(call, x, axes, torch.amax)


@operator("ReduceMin", branches=(0,))
def reduce_min(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return _extreme(call, x, axes, torch.amin)


def _extreme(call: Call, x: Tensor, axes: Tensor | None, function: Callable[..., Tensor]) -> Tensor:
    keep, over = bool(call.attribute("keepdims", 1)), _axes(call, x, axes)
    return x if over is None or not x.ndim else extreme(call, x, over, keep, function)


def extreme(call: Call, x: Tensor, over: Axes, keep: bool, function: Callable[..., Tensor]) -> Tensor:
    """torch.amax or amin over axes, on the side of its equals that the other run took."""
    if not call.seen:
        return function(x, over, keep)
    best = call.choose(lambda x: x == function(x, over, True), x)
    share = best / best.sum(over, keepdim=True)
    return torch.where(best, x, torch.zeros_like(x)).mul(share).sum(over, keep).to(x.dtype)


@operator("ArgMax", branches=(0,))
def arg_max(call: Call, x: Tensor) -> Tensor:
    return _arg(call, x, lambda x: x)


@operator("ArgMin", branches=(0,))
def arg_min(call: Call, x: Tensor) -> Tensor:
    return _arg(call, x, lambda x: -x if x.is_floating_point() else -x.to(torch.int64))


def _arg(call: Call, x: Tensor, height: Callable[[Tensor], Tensor]) -> Tensor:
    axis, keep = call.attribute("axis", 0), bool(call.attribute("keepdims", 1))
    if call.attribute("select_last_index", 0):
        return call.choose(lambda x: x.shape[axis] - 1 - height(x).flip(axis).argmax(axis, keep), x)
    return call.choose(lambda x: height(x).argmax(axis, keep), x)


@operator("TopK", branches=(0,))
def top_k(call: Call, x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
    axis = call.attribute("axis", -1)
    call.attribute("sorted", 1)  # where order is free, this one is as good
    count, largest = number(k), bool(call.attribute("largest", 1))
    chosen = call.choose(lambda x: torch.sort(x, dim=axis, descending=largest, stable=True).indices.narrow(axis, 0, count), x)
    return x.gather(axis, chosen), chosen


@operator("CumSum")
def cumulative_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    at = number(axis)
    exclusive, reverse = call.attribute("exclusive", 0), call.attribute("reverse", 0)
    if reverse:
        x = x.flip(at)
    y = x.cumsum(at).to(x.dtype)
    if exclusive:
        y = y - x
    return y.flip(at) if reverse else y
