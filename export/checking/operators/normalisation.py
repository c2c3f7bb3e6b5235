"""Normalisations, written out: a mean, a variance, a product.

Batch-norm is a product and a sum: torch 2.13's own backward, in evaluation mode at batch 1, is wrong for some gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dkcam.export.checking.operators.product import padded
from dkcam.export.checking.operators.table import Call, operator


def _channels(parameter: Tensor, x: Tensor) -> Tensor:
    """[C] against [B,C,…]."""
    return parameter.reshape(-1, *[1] * (x.ndim - 2))


def _standardised(x: Tensor, axes: Sequence[int], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """((x − mean) / deviation, mean, 1 / deviation) over these axes, which stay as 1."""
    mean = x.mean(tuple(axes), keepdim=True)
    centred = x - mean
    inverse = torch.rsqrt((centred * centred).mean(tuple(axes), keepdim=True) + epsilon)
    return centred * inverse, mean, inverse


@operator("BatchNormalization")
def batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if call.attribute("training_mode", 0):
        raise call.refuse("training_mode = 1")
    call.attribute("momentum", 0.9)  # moves the statistics in training alone
    factor = scale / torch.sqrt(variance + call.attribute("epsilon", 1e-5))
    return x * _channels(factor, x) + _channels(bias - mean * factor, x)


@operator("InstanceNormalization")
def instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    normal, _, _ = _standardised(x, range(2, x.ndim), call.attribute("epsilon", 1e-5))
    return normal * _channels(scale, x) + _channels(bias, x)


@operator("GroupNormalization")
def group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, epsilon = call.required("num_groups"), call.attribute("epsilon", 1e-5)
    call.attribute("stash_type", 1)  # a precision; all is computed in one
    if call.version < 21:  # one scale a group, not a channel
        if len(scale) != groups:
            raise call.refuse(f"{len(scale)} scales for {groups} groups in opset {call.version}")
        scale, bias = scale.repeat_interleave(x.shape[1] // groups), bias.repeat_interleave(x.shape[1] // groups)
    normal, _, _ = _standardised(x.reshape(x.shape[0], groups, -1), [2], epsilon)
    return normal.reshape(x.shape) * _channels(scale, x) + _channels(bias, x)


@operator("LayerNormalization")
def layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
    call.attribute("stash_type", 1)
    axis = call.attribute("axis", -1) % x.ndim
    normal, mean, inverse = _standardised(x, range(axis, x.ndim), call.attribute("epsilon", 1e-5))
    y = normal * scale
    return y if bias is None else y + bias, mean, inverse


@operator("RMSNormalization")
def rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    call.attribute("stash_type", 1)
    axes = tuple(range(call.attribute("axis", -1) % x.ndim, x.ndim))
    return x * torch.rsqrt((x * x).mean(axes, keepdim=True) + call.attribute("epsilon", 1e-5)) * scale


@operator("MeanVarianceNormalization")
def mean_variance_norm(call: Call, x: Tensor) -> Tensor:
    axes = tuple(call.attribute("axes", [0, 2, 3]))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (torch.sqrt((centred * centred).mean(axes, keepdim=True)) + 1e-9)


@operator("LpNormalization")
def lp_norm(call: Call, x: Tensor) -> Tensor:
    axis, p = call.attribute("axis", -1), call.attribute("p", 2)
    if p not in (1, 2):
        raise call.refuse(f"p = {p}")
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / torch.where(norm == 0, torch.ones_like(norm), norm))


@operator("LRN")
def local_response_norm(call: Call, x: Tensor) -> Tensor:
    size, alpha = call.required("size"), call.attribute("alpha", 1e-4)
    beta, bias = call.attribute("beta", 0.75), call.attribute("bias", 1.0)
    before = (size - 1) // 2
    squares = padded((x * x).movedim(1, -1), [before], [size - 1 - before])
    near = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / torch.pow(bias + alpha / size * near, beta)
