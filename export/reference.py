"""The same quantities by autograd of the torch module, in float64 or float32: what every export is compared with.

Nothing is shared with the graph writer: gradients come from ``torch.autograd.grad`` and the methods are written as
published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dkcam.export.model import ResNet, to_tokens
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


def terms(method: str, features: Tensor, gradient: Tensor) -> Tensor:
    """What a method adds up over channels: features [B, C, h, w] and gradient [B, C, h, w] to [B, C, h, w]."""
    if method == "layercam":
        return gradient.relu() * features
    if method == "hirescam":
        return gradient * features
    weights = {
        "gradcam": lambda: gradient.mean(dim=(2, 3)),
        "gradcam++": lambda: _gradcam_plus_plus(features, gradient),
        "xgradcam": lambda: _xgradcam(features, gradient),
    }[method]()
    return weights[:, :, None, None] * features


def cam(method: str, features: Tensor, gradient: Tensor) -> Tensor:
    """Features and gradient [B, C, h, w] to the ReLU'd heatmap [B, h, w]."""
    return terms(method, features, gradient).sum(dim=1).relu()


KINK = 1e-5  # of a ReLU input's largest value in the picture: float32 cannot tell the sign of what is nearer to zero …
WIDEST_KINK = 1e-3  # … nor, in deep networks, of what torch's own float32 is off by; but never of more than this
KINK_FACTOR = 4.0
CHUNK = 2**23  # values of one tensor of copies for the head: 64 MB in float64


@dataclass(frozen=True)
class Answer:
    """values: all outputs of a classifier. magnitudes: what they are sums of, without signs, which float32's
    rounding is proportional to: ``logits`` [B, n] Σ|w·z| + |b|, ``weights`` [B, K] the largest mean of |g|, ``heatmap``
    [B, K] the largest Σ|terms|. score: the attention's largest score t·t/√C (0 without attention). scores: all of them
    [B, T, T] or None.
    """

    values: Arrays
    magnitudes: Arrays
    score: float = 0.0
    scores: NDArray[Any] | None = None


@dataclass
class Reference:
    """Autograd of a module (converted to ``dtype``) for one spec.

    At a ReLU's kink the derivative is a convention, and a value that float64 finds at +1e-9 may be −1e-9 in float32. Of
    ten million units some always are; each switches its part of the gradient on or off. ``seen`` (float32, the graph's
    output of each ReLU call) says which way the graph took them. Only units within KINK of zero follow it, or within
    KINK_FACTOR times what float32 is off by in their channel: ``single`` holds a float32 module's inputs of the ReLU calls
    (``relu_inputs``). Of the units that a gradient passes (``units``), those that follow against their own sign are
    counted in ``kinks``. Max pooling has the same kink between its two largest elements.

    bands: how near to zero is near, [B, C, 1, 1] for each ReLU call; float64's, for a float32 reference to use as well.
    """

    model: ResNet
    spec: ModelSpec
    seen: Sequence[NDArray[np.float32]] = ()
    kinks: int = 0
    units: int = 0
    dtype: torch.dtype = torch.float64
    single: Mapping[int, Tensor] = field(default_factory=dict)
    bands: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = self.model.to(self.dtype).eval().requires_grad_(False)
        self._calls, self._passed = 0, (0, 0)
        self._leaf: Tensor | None = None
        self._inputs: dict[int, Tensor] | None = None
        for module in self.model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(self._follow)
            if isinstance(module, nn.MaxPool2d):
                module.register_forward_hook(self._follow_pooling)

    def _follow(self, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        self._calls += 1
        call, x = self._calls - 1, given[0]
        if self._leaf is None:
            return None
        if self._inputs is not None:
            self._inputs[call] = x.detach()
        if not self.seen or self._inputs is not None:
            return None
        sign, own = torch.from_numpy(self.seen[call]) > 0, x.detach() > 0
        open_ = torch.where(x.detach().abs() <= self._band(call, x.detach()), sign, own)
        self._passed = self._passed[0] + int((open_ != own).sum()), self._passed[1] + x.numel()
        return x * open_

    def _band(self, call: int, x: Tensor) -> Tensor:
        if self.dtype == torch.float64:
            least = self.bands[call] = _resolution(x)
            if call in self.single:
                off = KINK_FACTOR * (self.single[call] - x).abs().amax(dim=(2, 3), keepdim=True)
                self.bands[call] = off.clamp(least, WIDEST_KINK / KINK * least)
        return self.bands[call].to(self.dtype) if call in self.bands else _resolution(x)

    def _follow_pooling(self, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        if not self.seen or self._leaf is None or self._inputs is not None:
            return None
        x = given[0]
        before = torch.from_numpy(self.seen[self._calls - 1])
        _, index = functional.max_pool2d(before, 3, 2, 1, return_indices=True)
        taken: Tensor = x.flatten(2).gather(2, index.flatten(2)).view_as(out)
        near = (out - taken).detach() <= _resolution(x)
        return torch.where(near, taken, out)

    def normalise(self, image: NDArray[np.generic]) -> Tensor:
        """Graph input, uint8 [B, H, W, 3] RGB or float [B, 3, H, W], to normalised ``dtype`` [B, 3, H, W]."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)
        if self.spec.input.kind == "tensor":
            return pixels
        mean, std = (torch.tensor(v, dtype=self.dtype)[:, None, None] for v in (self.spec.input.mean, self.spec.input.std))
        return (pixels.permute(0, 3, 1, 2) / 255 - mean) / std

    def relu_inputs(self, image: NDArray[np.generic]) -> Mapping[int, Tensor]:
        """What each ReLU call is given, [B, C, h, w], by the number of the call."""
        self._inputs, found = {}, {}
        try:
            self._backbone(self.normalise(image))
            found = self._inputs
        finally:
            self._inputs = None
        return found

    def run(self, image: NDArray[np.generic], classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None) -> Arrays:
        """All outputs of a classifier, ``dtype``, for one batch; ``gradient`` only where the spec has it."""
        return self.answer(image, classes, key_mask).values

    def answer(
        self,
        image: NDArray[np.generic],
        classes: NDArray[np.int64],
        key_mask: NDArray[np.bool_] | None,
        explained: NDArray[np.int64] | None = None,
        nudge: int = 0,
    ) -> Answer:
        """All outputs and their magnitudes for one batch.

        explained: int64 [B, K], the classes to take gradients of, where another's choice among tied ranks must be
        followed; ``values["explained"]`` is always the choice made here. nudge: not 0, a seed: the normalised image moves
        by up to its last float32 digit, and every rounding after it falls another way.
        """
        x = self.normalise(image)
        if nudge:
            signs = torch.randint(-1, 2, x.shape, generator=torch.Generator().manual_seed(nudge))
            x = x * (1 + signs * torch.finfo(torch.float32).eps)
        top, features = self._backbone(x)
        masks = [None] if key_mask is None else [torch.from_numpy(mask) for mask in key_mask]
        with torch.no_grad():
            vectors = [self._vector(top, mask) for mask in masks]
            logits = [self.model.fc(vector) for vector in vectors]
            probabilities = torch.stack([one.softmax(1) for one in logits]).mean(0)
            size = self.model.fc.weight.abs(), self.model.fc.bias.abs()
            logit_terms = torch.stack([v.abs() @ size[0].T + size[1] for v in vectors]).mean(0)
        own = self._explained(probabilities, torch.from_numpy(classes))
        chosen = own if explained is None else torch.from_numpy(explained)
        count = len(masks)
        maps = torch.zeros(count, *chosen.shape, *features.shape[2:], dtype=self.dtype)
        keep = "gradient" in self.spec.explanation.outputs
        gradient = torch.zeros(*chosen.shape, *(features.shape[1:] if keep else (0,)), dtype=self.dtype)
        weights = torch.zeros(*chosen.shape, features.shape[1], dtype=self.dtype)
        weight_terms, map_terms = torch.zeros_like(weights), torch.zeros_like(maps[0])
        for m, mask in enumerate(masks):
            for k, g in self._gradients(top, features, mask, chosen):
                parts = terms(self.spec.explanation.method, features.detach().repeat(len(g), 1, 1, 1), g.flatten(0, 1)).view_as(g)
                some = slice(k, k + len(g))
                maps[m, :, some] = parts.sum(dim=2).relu().transpose(0, 1)
                map_terms[:, some] += parts.abs().sum(dim=2).transpose(0, 1) / count
                weights[:, some] += g.mean(dim=(3, 4)).transpose(0, 1) / count
                weight_terms[:, some] += g.abs().mean(dim=(3, 4)).transpose(0, 1) / count
                if keep:
                    gradient[:, some] += g.transpose(0, 1) / count
        values = {
            "logits": torch.stack(logits).mean(0),
            "probabilities": probabilities,
            "explained": own,
            "weights": weights,
            "heatmap": maps.mean(0),
            "heatmap_std": maps.std(0, correction=0),
            "features": features.detach(),
            **({"gradient": gradient} if keep else {}),
        }
        magnitudes = {"logits": logit_terms, "weights": weight_terms.amax(2), "heatmap": map_terms.amax((2, 3))}
        scores = self._scores(top.detach())
        return Answer(
            {name: value.numpy() for name, value in values.items()},
            {name: value.numpy() for name, value in magnitudes.items()},
            0.0 if scores is None else float(scores.abs().max()),
            None if scores is None else scores.numpy(),
        )

    def _backbone(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images to (layer4's output, the target layer's features): the second is a leaf of autograd."""
        self._calls, self._passed, self._leaf = 0, (0, 0), None

        def cut(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            # a module that is called several times means its last call: only what follows that one counts
            self._leaf, self._passed = out.detach().requires_grad_(), (0, 0)
            return self._leaf

        hook = self.model.get_submodule(self.spec.explanation.layers[0]).register_forward_hook(cut)
        try:
            top = self.model.backbone(x)
        finally:
            hook.remove()
        assert self._leaf is not None
        self.kinks, self.units = self.kinks + self._passed[0], self.units + self._passed[1]
        return top, self._leaf

    def _vector(self, top: Tensor, mask: Tensor | None) -> Tensor:
        """What the head gives fc: [B, C]."""
        given: list[Tensor] = []
        hook = self.model.fc.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        try:
            self.model.head(top, mask)
        finally:
            hook.remove()
        return given[0]

    def _gradients(self, top: Tensor, features: Tensor, mask: Tensor | None, explained: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(k, gradients [n, B, C, h, w] of the logits of class k to k + n − 1 at the target layer).

        Through the head many classes at a time, from copies of layer4's output in one batch; through the backbone each by itself.
        """
        batch, channels, height, width = top.shape
        step = max(1, CHUNK // (batch * height * width * max(channels, height * width)))
        for start in range(0, explained.shape[1], step):
            some = explained[:, start : start + step].T  # [n, B]
            copies = top.detach().repeat(len(some), 1, 1, 1).requires_grad_()
            chosen = self.model.head(copies, mask).gather(1, some.reshape(-1, 1)).sum()
            at_top = torch.autograd.grad(chosen, copies)[0].view(len(some), *top.shape)
            if top is features:
                yield start, at_top
                continue
            for index, one in enumerate(at_top):
                yield start + index, torch.autograd.grad(top, features, one, retain_graph=True)[0][None]

    def _scores(self, top: Tensor) -> Tensor | None:
        if self.model.config.variant != "dropkey":
            return None
        tokens = to_tokens(top, self.model.config.grid)
        scores: Tensor = tokens @ tokens.transpose(1, 2) * tokens.shape[2] ** -0.5
        return scores

    @staticmethod
    def _explained(probabilities: Tensor, classes: Tensor) -> Tensor:
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        columns = [order[:, -int(c) - 1] if c < 0 else torch.full_like(order[:, 0], int(c)) for c in classes]
        return torch.stack(columns, 1)


def _resolution(x: Tensor) -> Tensor:
    """What no float32 computation of x [B, C, h, w] can tell apart: [B, 1, 1, 1]."""
    return KINK * x.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
