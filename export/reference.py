"""The same quantities by autograd of the torch module in float64: what every export is compared with.

Nothing is shared with the graph writer: gradients come from ``torch.autograd.grad`` and the methods are written as
published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dkcam.export.model import ResNet
from dkcam.spec import ModelSpec

Arrays = Mapping[str, NDArray[Any]]


def _gradcam_plus_plus(features: Tensor, gradient: Tensor) -> Tensor:
    squared, cubed = gradient**2, gradient**3
    below = 2 * squared + features.sum(dim=(2, 3), keepdim=True) * cubed
    share = torch.where(gradient != 0, squared / torch.where(below == 0, 1.0, below), 0.0)
    return (share * gradient.relu()).sum(dim=(2, 3))


def _xgradcam(features: Tensor, gradient: Tensor) -> Tensor:
    total = features.sum(dim=(2, 3))
    return torch.where(total == 0, 0.0, (gradient * features).sum(dim=(2, 3)) / torch.where(total == 0, 1.0, total))


def cam(method: str, features: Tensor, gradient: Tensor) -> Tensor:
    """Features and gradient float64 [B, C, h, w] to the ReLU'd heatmap [B, h, w]."""
    if method == "layercam":
        return (gradient.relu() * features).sum(dim=1).relu()
    if method == "hirescam":
        return (gradient * features).sum(dim=1).relu()
    weights = {
        "gradcam": lambda: gradient.mean(dim=(2, 3)),
        "gradcam++": lambda: _gradcam_plus_plus(features, gradient),
        "xgradcam": lambda: _xgradcam(features, gradient),
    }[method]()
    return (weights[:, :, None, None] * features).sum(dim=1).relu()


KINK = 1e-5  # of a ReLU input's largest value: float32 cannot tell the sign of what is nearer to zero


@dataclass
class Reference:
    """Autograd of a module (converted to ``dtype``) for one spec.

    At a ReLU's kink the derivative is a convention, and a value that float64 finds at +1e-9 may be −1e-9 in float32. Of
    ten million units some always are; each switches its part of the gradient on or off. ``signs`` (bool, one array a
    ReLU call) says which way the graph took them. Only units within KINK of zero follow it; they are counted in ``kinks``.
    """

    model: ResNet
    spec: ModelSpec
    signs: Sequence[NDArray[np.bool_]] = ()
    kinks: int = 0
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        self.model = self.model.to(self.dtype).eval()
        self._calls = 0
        for module in self.model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(self._follow)

    def _follow(self, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if not self.signs:
            return None
        x, sign = given[0], torch.from_numpy(self.signs[self._calls])
        self._calls += 1
        near = x.detach().abs() <= KINK * x.detach().abs().max()
        open_ = torch.where(near, sign, x.detach() > 0)
        self.kinks += int((open_ != (x.detach() > 0)).sum())
        return x * open_

    def normalise(self, image: NDArray[np.generic]) -> Tensor:
        """Graph input, uint8 [B, H, W, 3] RGB or float [B, 3, H, W], to normalised ``dtype`` [B, 3, H, W]."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)
        if self.spec.input == "tensor":
            return pixels
        mean, std = (torch.tensor(v, dtype=self.dtype)[:, None, None] for v in (self.spec.mean, self.spec.std))
        return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std

    def run(self, image: NDArray[np.generic], classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None) -> Arrays:
        """All outputs of ``dkcam.spec.OUTPUTS``, ``dtype``, for one batch."""
        x = self.normalise(image)
        masks = [None] if key_mask is None else [torch.from_numpy(mask) for mask in key_mask]
        kept: list[Tensor] = []
        hook = self.model.get_submodule(self.spec.layer).register_forward_hook(lambda module, given, out: kept.append(out))
        try:
            scores = [self._scores(x, mask, kept) for mask in masks]
        finally:
            hook.remove()
        probabilities = torch.stack([logits.softmax(1) for logits, _ in scores]).mean(0).detach()
        explained = self._explained(probabilities, torch.from_numpy(classes))
        maps, gradients = [], []
        for logits, features in scores:
            per_class = [self._gradient(logits, features, explained[:, k]) for k in range(len(classes))]
            maps.append(torch.stack([cam(self.spec.method, features.detach(), g) for g in per_class], 1))
            gradients.append(torch.stack(per_class, 1))
        stacked, gradient = torch.stack(maps), torch.stack(gradients).mean(0)
        found = {
            "logits": torch.stack([logits for logits, _ in scores]).mean(0).detach(),
            "probabilities": probabilities,
            "explained": explained,
            "weights": gradient.mean(dim=(3, 4)),
            "heatmap": stacked.mean(0),
            "heatmap_std": stacked.std(0, correction=0),
            "gradient": gradient,
            "features": scores[0][1].detach(),
        }
        return {name: value.numpy() for name, value in found.items()}

    def _scores(self, x: Tensor, mask: Tensor | None, kept: list[Tensor]) -> tuple[Tensor, Tensor]:
        kept.clear()
        self._calls = 0
        logits = self.model(x, mask)
        return logits, kept[-1]

    @staticmethod
    def _explained(probabilities: Tensor, classes: Tensor) -> Tensor:
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        columns = [order[:, -int(c) - 1] if c < 0 else torch.full_like(order[:, 0], int(c)) for c in classes]
        return torch.stack(columns, 1)

    @staticmethod
    def _gradient(logits: Tensor, features: Tensor, explained: Tensor) -> Tensor:
        chosen = logits.gather(1, explained[:, None]).sum()
        return torch.autograd.grad(chosen, features, retain_graph=True)[0]
