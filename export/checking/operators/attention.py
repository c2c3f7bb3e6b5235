"""Scaled dot-product attention, without caches of earlier keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dkcam.export.checking.operators.table import Call, operator


@operator("Attention")
def attention(call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    call.maybe("softmax_precision")  # all is computed in one
    flat = query.ndim == 3
    if flat:
        query, key = _heads(query, call.required("q_num_heads")), _heads(key, call.required("kv_num_heads"))
        value = _heads(value, call.required("kv_num_heads"))
    else:
        call.maybe("q_num_heads"), call.maybe("kv_num_heads")
    for name in ("left_window_size", "right_window_size"):
        if call.attribute(name, -1) != -1:
            raise call.refuse(f"{name} = {call.attribute(name, -1)}")
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.mT * call.attribute("scale", 1 / math.sqrt(query.shape[-1]))
    softcap = call.attribute("softcap", 0.0)
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    if call.attribute("is_causal", 0):
        allowed = allowed.tril()
    if mask is not None and mask.shape[-1] != scores.shape[-1]:
        raise call.refuse(f"a mask for {mask.shape[-1]} of {scores.shape[-1]} keys")
    if mask is not None and mask.dtype == torch.bool:
        allowed = allowed & mask
    elif mask is not None:
        scores = scores + mask
    scores = torch.where(allowed, scores, scores.new_full((), -math.inf))
    none = (scores == -math.inf).all(-1, keepdim=True)  # a query without any key gives zeros
    weights = torch.softmax(torch.where(none, torch.zeros_like(scores), scores), -1)
    y = torch.where(none, torch.zeros_like(weights), weights) @ value
    return y.transpose(1, 2).flatten(2) if flat else y


def _heads(x: Tensor, count: int) -> Tensor:
    """[B,T,heads·size] as [B,heads,T,size]."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)
