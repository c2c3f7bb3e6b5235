"""From a layer's features and the scores' cotangents there to heatmaps, one function a method, written as ONNX.

Features A [B, C, Z] and gradient g [K, B, C, Z] or, where it is even over positions, [K, B, C, 1]; Z positions in reading
order. Result [B, K, Z], ReLU'd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.explain.layers import Layer
from dkcam.export.writer import Writer, rank_of, shape_of

FAR = 2**31 - 1


@dataclass(frozen=True)
class Maps:
    """heatmap float32 [B, K, h, w], ReLU'd. weights float32 [B, K, C]: the gradient's mean over positions. gradient [B, K, C, h, w]
    and features [B, C, h, w]: what they are made of.
    """

    heatmap: ir.Value
    weights: ir.Value
    gradient: ir.Value
    features: ir.Value


def explain(writer: Writer, layer: Layer, cotangent: Cotangent, method: str) -> Maps:
    """The maps of a layer for K scalars. method: a key of ``METHODS``."""
    features = _positions(writer, layer, writer.float32(layer.value), 0)
    gradient = _gradient(writer, layer, cotangent)
    mean = _mean(writer, layer, cotangent, gradient, features)
    heat = _weighted(writer, features, mean) if method == "gradcam" else METHODS[method](writer, features, gradient)
    rows = [writer.ints(d) if isinstance(d, int) else _dimension(writer, layer, i) for i, d in enumerate(layer.size)]
    whole = writer.expand(gradient, 1, writer.dims(features))
    return Maps(
        heatmap=writer.reshape(heat, writer.dims(heat, 0, 2), *rows),
        weights=_leading(writer, mean),
        gradient=writer.reshape(_leading(writer, whole), _order(writer, whole), *rows),
        features=writer.reshape(features, writer.dims(features, 0, 2), *rows),
    )


def _dimension(writer: Writer, layer: Layer, index: int) -> ir.Value:
    axis = layer.space[index]
    return writer.dims(layer.value, axis, axis + 1)


def _order(writer: Writer, whole: ir.Value) -> ir.Value:
    """Dimensions B, K, C of a gradient [K, B, C, Z]."""
    return writer.join(writer.dims(whole, 1, 2), writer.dims(whole, 0, 1), writer.dims(whole, 2, 3))


def _leading(writer: Writer, value: ir.Value) -> ir.Value:
    """[K, B, …] → [B, K, …]."""
    return writer.transpose(value, 1, 0, *range(2, rank_of(value)))


def _positions(writer: Writer, layer: Layer, value: ir.Value, lead: int) -> ir.Value:
    """A value of the layer's shape with ``lead`` axes before, as […, B, C, Z]; lazy axes of space stay 1."""
    if layer.skip and shape_of(value)[layer.space[0] + lead] != 1:
        value = writer.slice(value, layer.space[0] + lead, layer.skip, FAR)
    value = writer.transpose(value, *range(lead + 1), layer.channel + lead, *(axis + lead for axis in layer.space))
    return value if len(layer.space) == 1 else writer.reshape(value, writer.dims(value, 0, lead + 2), -1)


def _gradient(writer: Writer, layer: Layer, cotangent: Cotangent) -> ir.Value:
    """[K, B, C, Z] or [K, B, C, 1]; channels and batch spread out where they were lazy."""
    whole = cotangent.whole(writer)
    shape, like = shape_of(whole)[1:], shape_of(layer.value)
    # one lazy axis of space beside a whole one cannot be merged with it
    uneven = len({shape[axis] == 1 for axis in layer.space if like[axis] != 1}) == 2
    grown = [axis for axis in range(len(like)) if shape[axis] == 1 and like[axis] != 1 and (axis not in layer.space or uneven)]
    if grown:
        parts = [writer.dims(layer.value, axis, axis + 1) if axis in grown else writer.ints(1) for axis in range(len(like))]
        whole = writer.expand(whole, 1, *parts)
    return _positions(writer, layer, whole, 1)


def _mean(writer: Writer, layer: Layer, cotangent: Cotangent, gradient: ir.Value, features: ir.Value) -> ir.Value:
    """The gradient's mean over positions [K, B, C]: over those of d alone, where g is even."""
    if shape_of(gradient)[3] == 1:
        return writer.squeeze(gradient, 3)
    g, d = cotangent.g, cotangent.d
    even = all(shape_of(g)[axis + 1] == 1 for axis in layer.space)
    if even and d is not None and not layer.skip and rank_of(d) == rank_of(layer.value):
        averaged = Cotangent(g, writer.mean(d, *layer.space))
        return writer.squeeze(_gradient(writer, layer, averaged), 3)
    return writer.mean(gradient, 3, keep=False)


def _weighted(writer: Writer, features: ir.Value, weights: ir.Value) -> ir.Value:
    """ReLU(Σ_k α_k A_k) for channel weights [K, B, C]."""
    return writer.op("Relu", writer.op("MatMul", _leading(writer, weights), features))


def _pointwise(writer: Writer, gradient: ir.Value, features: ir.Value) -> ir.Value:
    """ReLU(Σ_k g_k A_k) at each position."""
    total = writer.sum(writer.mul(gradient, features), 2, keep=False)
    return writer.op("Relu", _leading(writer, total))


def ratio(writer: Writer, above: ir.Value, below: ir.Value) -> ir.Value:
    """above / below, and 0 where below is 0."""
    empty = writer.op("Equal", below, writer.number(0.0))
    safe = writer.op("Where", empty, writer.number(1.0), below)
    return writer.op("Where", empty, writer.number(0.0), writer.div(above, safe))


def gradcam_plus_plus(writer: Writer, features: ir.Value, gradient: ir.Value) -> ir.Value:
    """α_k = Σ_p a_p ReLU(g_p), a = g² / (2 g² + ΣA · g³) (Chattopadhay et al., arXiv:1710.11063, eqs. 5 and 19).

    Dividing by g² leaves a = 1 / (2 + ΣA · g), which needs no epsilon and does not underflow.
    """
    gradient = writer.expand(gradient, 1, writer.dims(features))
    total = writer.sum(features, 2)
    below = writer.add(writer.mul(total, gradient), writer.number(2.0))
    return _weighted(writer, features, writer.sum(ratio(writer, writer.op("Relu", gradient), below), 3, keep=False))


def xgradcam(writer: Writer, features: ir.Value, gradient: ir.Value) -> ir.Value:
    """α_k = Σ_p g_p A_p / Σ_p A_p, and 0 for a silent channel (Fu et al., arXiv:2008.02312, eq. 8)."""
    pulled = writer.sum(writer.mul(gradient, features), 3, keep=False)
    return _weighted(writer, features, ratio(writer, pulled, writer.sum(features, 2, keep=False)))


def layercam(writer: Writer, features: ir.Value, gradient: ir.Value) -> ir.Value:
    """ReLU(Σ_k ReLU(g_k) A_k) at each position (Jiang et al., TIP 2021, eqs. 4-6)."""
    return _pointwise(writer, writer.op("Relu", gradient), features)


def hirescam(writer: Writer, features: ir.Value, gradient: ir.Value) -> ir.Value:
    """ReLU(Σ_k g_k A_k) at each position (Draelos and Carin, arXiv:2011.08891, eq. 3)."""
    return _pointwise(writer, gradient, features)


METHODS: dict[str, Callable[[Writer, ir.Value, ir.Value], ir.Value]] = {
    "gradcam": lambda writer, features, gradient: _weighted(writer, features, writer.mean(gradient, 3, keep=False)),
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "hirescam": hirescam,
}
"""Features [B, C, Z] and gradient [K, B, C, Z or 1] → ReLU'd maps [B, K, Z]. Grad-CAM: α_k = mean of g over positions (Selvaraju et
al., arXiv:1610.02391, eqs. 1-2)."""
