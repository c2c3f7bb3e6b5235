"""From a layer's features and gradients to a heatmap, one function a method, written as ONNX.

features A [B, 1, C, h, w]; gradient g [B, M, C, h, w]; result [B, M, Z], ReLU'd, Z = h·w positions in reading order.
"""

from __future__ import annotations

from collections.abc import Callable

from dkcam.export.builder import Builder

Method = Callable[[Builder, str, str], str]


def _weighted(graph: Builder, features: str, weights: str) -> str:
    """ReLU(Σ_k α_k A_k) for channel weights [B, M, C]."""
    flat = graph.reshape(graph.op("Squeeze", features, graph.ints(1)), 0, 0, -1)
    return graph.op("Relu", graph.op("MatMul", weights, flat))


def _pointwise(graph: Builder, gradient: str, features: str) -> str:
    """ReLU(Σ_k g_k A_k) at each position."""
    total = graph.sum(graph.op("Mul", gradient, features), 2)
    return graph.op("Relu", graph.reshape(total, 0, 0, -1))


def _ratio(graph: Builder, above: str, below: str) -> str:
    """above / below, and 0 where below is 0."""
    empty = graph.op("Equal", below, graph.number(0.0))
    safe = graph.op("Where", empty, graph.number(1.0), below)
    return graph.op("Where", empty, graph.number(0.0), graph.op("Div", above, safe))


def gradcam(graph: Builder, features: str, gradient: str) -> str:
    """α_k = mean of g over positions (Selvaraju et al., arXiv:1610.02391, eqs. 1-2)."""
    return _weighted(graph, features, graph.mean(gradient, 3, 4))


def gradcam_plus_plus(graph: Builder, features: str, gradient: str) -> str:
    """α_k = Σ_p a_p ReLU(g_p), a = g² / (2 g² + ΣA · g³) (Chattopadhay et al., arXiv:1710.11063, eqs. 5 and 19).

    Dividing by g² leaves a = 1 / (2 + ΣA · g), which needs no epsilon and does not underflow.
    """
    total = graph.sum(features, 3, 4, keep=True)
    below = graph.op("Add", graph.op("Mul", total, gradient), graph.number(2.0))
    return _weighted(graph, features, graph.sum(_ratio(graph, graph.op("Relu", gradient), below), 3, 4))


def xgradcam(graph: Builder, features: str, gradient: str) -> str:
    """α_k = Σ_p g_p A_p / Σ_p A_p, and 0 for a silent channel (Fu et al., arXiv:2008.02312, eq. 8)."""
    pulled = graph.sum(graph.op("Mul", gradient, features), 3, 4)
    return _weighted(graph, features, _ratio(graph, pulled, graph.sum(features, 3, 4)))


def layercam(graph: Builder, features: str, gradient: str) -> str:
    """ReLU(Σ_k ReLU(g_k) A_k) at each position (Jiang et al., TIP 2021, eqs. 4-6)."""
    return _pointwise(graph, graph.op("Relu", gradient), features)


def hirescam(graph: Builder, features: str, gradient: str) -> str:
    """ReLU(Σ_k g_k A_k) at each position (Draelos and Carin, arXiv:2011.08891, eq. 3)."""
    return _pointwise(graph, gradient, features)


METHODS: dict[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "hirescam": hirescam,
}
