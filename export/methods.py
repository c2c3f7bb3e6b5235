"""From a layer's features and gradients to a heatmap, one function a method.

features A float [B, 1, C, h, w]; gradient g float [B, M, C, h, w]; result float [B, M, h, w], ReLU'd.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Method = Callable[[Tensor, Tensor], Tensor]


def _weighted(features: Tensor, weights: Tensor) -> Tensor:
    """ReLU(Σ_k α_k A_k) for channel weights [B, M, C]."""
    maps = weights @ features[:, 0].flatten(2)
    return maps.unflatten(2, (features.shape[3], features.shape[4])).relu()


def gradcam(features: Tensor, gradient: Tensor) -> Tensor:
    """α_k = mean of g over positions (Selvaraju et al., arXiv:1610.02391, eqs. 1-2)."""
    return _weighted(features, gradient.mean(dim=(3, 4)))


def gradcam_plus_plus(features: Tensor, gradient: Tensor) -> Tensor:
    """α_k = Σ_p a_p ReLU(g_p), a = g² / (2 g² + ΣA · g³) (Chattopadhay et al., arXiv:1710.11063, eqs. 5 and 19).

    Dividing by g² leaves a = 1 / (2 + ΣA · g), which needs no epsilon and does not underflow.
    """
    below = 2 + features.sum(dim=(3, 4), keepdim=True) * gradient
    share = torch.where(below == 0, 0.0, 1 / torch.where(below == 0, 1.0, below))
    return _weighted(features, (share * gradient.relu()).sum(dim=(3, 4)))


def xgradcam(features: Tensor, gradient: Tensor) -> Tensor:
    """α_k = Σ_p g_p A_p / Σ_p A_p, and 0 for a silent channel (Fu et al., arXiv:2008.02312, eq. 8)."""
    total = features.sum(dim=(3, 4))
    pulled = (gradient * features).sum(dim=(3, 4))
    return _weighted(features, torch.where(total == 0, 0.0, pulled / torch.where(total == 0, 1.0, total)))


def layercam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(Σ_k ReLU(g_k) A_k) at each position (Jiang et al., TIP 2021, eqs. 4-6)."""
    return (gradient.relu() * features).sum(dim=2).relu()


def hirescam(features: Tensor, gradient: Tensor) -> Tensor:
    """ReLU(Σ_k g_k A_k) at each position (Draelos and Carin, arXiv:2011.08891, eq. 3)."""
    return (gradient * features).sum(dim=2).relu()


METHODS: dict[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "hirescam": hirescam,
}
