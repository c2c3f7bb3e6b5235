"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from dkcam.export.checking.operators.table import Call, operator

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


@operator("MatMul")
def matmul(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@operator("Gemm")
def gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    if call.attribute("transA", 0):
        a = a.mT
    if call.attribute("transB", 0):
        b = b.mT
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    product = a @ b
    if alpha != 1.0:
        product = (product * alpha).to(a.dtype)
    if c is None:
        return product
    return product + (c if beta == 1.0 else (c * beta).to(a.dtype))


@operator("Einsum")
def einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call.required("equation"), *values)


def same_pads(auto: str, sizes: Sequence[int], spans: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Pads before and after each axis such that outputs number ⌈size / stride⌉; ``spans`` are dilated kernel sizes."""
    low, high = [], []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        whole = max((-(-size // stride) - 1) * stride + span - size, 0)
        low.append(whole // 2 if auto == "SAME_UPPER" else whole - whole // 2)
        high.append(whole - low[-1])
    return low, high


def windows(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """(strides, dilations, pads before, pads after) of a convolution or pooling over axes of these sizes."""
    rank = len(kernel)
    if len(sizes) != rank:
        raise call.refuse(f"a kernel of {rank} axes on {len(sizes)}")
    strides, dilations = call.attribute("strides", [1] * rank), call.attribute("dilations", [1] * rank)
    pads, auto = call.attribute("pads", [0] * 2 * rank), call.attribute("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        return strides, dilations, *same_pads(auto, sizes, spans, strides)
    if auto == "VALID":
        pads = [0] * 2 * rank
    elif auto != "NOTSET":
        raise call.refuse(f"auto_pad = {auto!r}")
    return strides, dilations, pads[:rank], pads[rank:]


def padded(x: Tensor, low: Sequence[int], high: Sequence[int], fill: float = 0.0) -> Tensor:
    """The last axes grown (or cropped, where negative) on both sides."""
    if not any(low) and not any(high):
        return x
    return functional.pad(x, [n for pair in zip(reversed(low), reversed(high), strict=True) for n in pair], value=fill)


def _kernel(call: Call, w: Tensor) -> list[int]:
    kernel = list(w.shape[2:])
    if call.attribute("kernel_shape", kernel) != kernel:
        raise call.refuse(f"kernel_shape is {call.attribute('kernel_shape', kernel)}, the weights say {kernel}")
    if not 1 <= len(kernel) <= 3:
        raise call.refuse(f"{len(kernel)} axes of space")
    return kernel


@operator("Conv")
def convolution(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    kernel = _kernel(call, w)
    strides, dilations, low, high = windows(call, x.shape[2:], kernel)
    pads = low
    if low != high:
        x, pads = padded(x, low, high), [0] * len(low)
    found: Tensor = CONVOLUTIONS[len(kernel) - 1](x, w, b, strides, pads, dilations, call.attribute("group", 1))
    return found


@operator("ConvTranspose")
def transposed_convolution(call: Call, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    kernel = _kernel(call, w)
    rank = len(kernel)
    strides, dilations = call.attribute("strides", [1] * rank), call.attribute("dilations", [1] * rank)
    pads, auto = call.attribute("pads", [0] * 2 * rank), call.attribute("auto_pad", "NOTSET")
    more, shape = call.attribute("output_padding", [0] * rank), call.maybe("output_shape")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"auto_pad = {auto!r}")
    low, high = pads[:rank], pads[rank:]
    if auto == "VALID":
        low, high = [0] * rank, [0] * rank
    if shape is None and auto.startswith("SAME"):
        shape = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
        if any(
            dilation * (k - 1) + 1 + extra < stride for k, dilation, extra, stride in zip(kernel, dilations, more, strides, strict=True)
        ):
            raise call.refuse(f"auto_pad = {auto!r} with a kernel smaller than its stride, where runtimes differ")
    if shape is not None:
        low, high = [], []
        for size, stride, k, dilation, extra, wanted in zip(x.shape[2:], strides, kernel, dilations, more, shape[-rank:], strict=True):
            whole = stride * (size - 1) + extra + (k - 1) * dilation + 1 - wanted
            part = max(whole, 0)
            low.append(part // 2 if auto == "SAME_UPPER" else part - part // 2)
            high.append(whole - low[-1])  # below 0 where more is wanted than its inputs reach
    y = TRANSPOSED[rank - 1](x, w, None, strides, 0, 0, call.attribute("group", 1), dilations)
    y = padded(y, [-n for n in low], [extra - n for extra, n in zip(more, high, strict=True)])
    return y if b is None else y + b.reshape(-1, *[1] * rank)
