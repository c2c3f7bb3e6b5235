"""The same quantities by autograd through an interpreter of the network's graph, in float64 or float32.

For networks that come as a file. Nothing is shared with the rules: the interpreter runs the network as it was before anything was
written into it, gradients come from ``torch.autograd.grad``, and the methods are written as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.export.checking.differences import differences
from dkcam.export.checking.gradients import gradients
from dkcam.export.checking.interpreter import Interpreter
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.tasks import Task
from dkcam.export.reference import Answer, terms

EPSILON = float(np.finfo(np.float32).eps)


@dataclass
class GraphReference:
    """One network, one task, one layer.

    model: with its input ``image`` in place and nothing explained. seen: from what operators with kinks take
    their side; see ``kinks``. moved: values that are set to these numbers, while gradients pass.
    """

    model: ir.Model
    task: Task
    layers: Sequence[Layer]
    method: str
    dtype: torch.dtype = torch.float64
    seen: Mapping[str, Tensor] = field(default_factory=dict)
    moved: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._interpreter = Interpreter(self.model, dtype=self.dtype)

    def values(self, image: NDArray[np.generic], names: Sequence[str]) -> dict[str, Tensor]:
        """Values of the network for one batch, by name."""
        return self._interpreter.evaluate({"image": torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)}, names)

    def answer(
        self,
        image: NDArray[np.generic],
        classes: NDArray[np.int64],
        explained: NDArray[np.int64] | None = None,
        nudge: int = 0,
        keep_gradient: bool = False,
    ) -> Answer:
        """All outputs for one batch. See ``Reference.answer``."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)
        if nudge:
            signs = torch.randint(-1, 2, pixels.shape, generator=torch.Generator().manual_seed(nudge))
            pixels = pixels * (1 + signs * EPSILON)
        score = self.task.found.scores.name or ""
        values: dict[str, Tensor] = {}
        parts = []
        for layer in self.layers:  # each by itself: one may lie behind another
            found = self._interpreter.evaluate(
                {"image": pixels}, [layer.name, score], leaves=[layer.name], seen=self.seen, moved=self.moved
            )
            values, weights, own = self._scores(found[score], torch.from_numpy(classes))
            chosen = own if explained is None else torch.from_numpy(explained)
            scalars = torch.stack([weights(chosen, k) for k in range(chosen.shape[1])])
            parts.append(self._maps(found[layer.name], layer, scalars, keep_gradient))
        magnitudes = {"logits": values["logits"].abs().amax(1, keepdim=True).expand_as(values["logits"])}
        if len(parts) == 1:
            values |= parts[0][0]
            magnitudes |= parts[0][1]
        else:
            values["heatmap"], magnitudes["heatmap"] = together([part[0]["heatmap"] for part in parts]), torch.ones(chosen.shape)
        values["explained"] = own
        return Answer(
            {name: value.detach().numpy() for name, value in values.items()},
            {name: value.detach().numpy() for name, value in magnitudes.items()},
        )

    def differences(self, image: NDArray[np.generic], explained: NDArray[np.int64]) -> float:
        """How far autograd is from finite differences, over the gradient's size: the largest over the layers, of the first class that is
        explained. explained: int64 [B, K]. This reference must be in float64.
        """
        feed = {"image": torch.from_numpy(np.ascontiguousarray(image)).to(self.dtype)}
        score, chosen = self.task.found.scores.name or "", torch.from_numpy(explained)

        def scalar(values: Mapping[str, Tensor]) -> Tensor:
            _, weights, _ = self._scores(values[score], chosen[0])
            return weights(chosen, 0).reshape(1)  # type: ignore[no-any-return]

        worst = 0.0
        for layer in self.layers:
            given = gradients(self._interpreter, feed, layer.name, scalar, reads=[score], seen=self.seen).gradients
            found = differences(self._interpreter, feed, layer.name, scalar, given, reads=[score], seen=self.seen, directions=2)
            worst = max(worst, float(found.error.max()))
        return worst

    def _scores(self, scores: Tensor, classes: Tensor) -> tuple[dict[str, Tensor], Any, Tensor]:
        """(logits and probabilities, the scalar of the k-th of chosen classes, the classes chosen here [B, K])."""
        kind = self.task.kind
        if kind == "dense":
            by = self.seen.get(self.task.found.scores.name or "", scores).detach()  # its border is a kink as well
            region = (by > 0 if by.shape[1] == 1 else torch.nn.functional.one_hot(by.argmax(1), by.shape[1]).movedim(3, 1)).to(scores)
            flat = (scores * region).sum((2, 3)) / region.sum((2, 3)).clamp(min=1)
            probabilities = region.mean((2, 3))
        else:
            flat = scores.reshape(len(scores), -1) if scores.ndim > 1 else scores[:, None]
            probabilities = flat.sigmoid() if self.task.found.squash == "Sigmoid" else flat.softmax(1)
        values = {"logits": flat, **({"probabilities": probabilities} if kind != "regress" else {})}
        if kind == "regress":
            sign = torch.where(classes < 0, -1.0, 1.0).to(flat)
            own = torch.where(classes < 0, -classes - 1, classes).expand(len(flat), -1)
            return values, lambda chosen, k: (sign[k] * flat.gather(1, chosen[:, k : k + 1])).sum(), own
        order = probabilities.argsort(dim=1, descending=True, stable=True)
        columns = [order[:, -int(c) - 1] if c < 0 else torch.full_like(order[:, 0], int(c)) for c in classes]
        return values, lambda chosen, k: flat.gather(1, chosen[:, k : k + 1]).sum(), torch.stack(columns, 1)

    def _maps(self, leaf: Tensor, layer: Layer, scalars: Tensor, keep: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        features = positions(leaf.detach(), layer)
        found: dict[str, list[Tensor]] = {"heatmap": [], "weights": [], "gradient": []}
        sizes: dict[str, list[Tensor]] = {"heatmap": [], "weights": []}
        for scalar in scalars:
            gradient = positions(torch.autograd.grad(scalar, leaf, retain_graph=True)[0], layer)
            each = terms(self.method, features, gradient)
            found["heatmap"].append(each.sum(1).relu())
            found["weights"].append(gradient.mean((2, 3)))
            if keep:
                found["gradient"].append(gradient)
            sizes["heatmap"].append(each.abs().sum(1).amax((1, 2)))
            sizes["weights"].append(gradient.abs().mean((2, 3)).amax(1))
        values = {name: torch.stack(maps, 1) for name, maps in found.items() if maps}
        return {**values, "features": features}, {name: torch.stack(maps, 1) for name, maps in sizes.items()}


def positions(value: Tensor, layer: Layer) -> Tensor:
    """[B, C, h, w] of a value in the layer's own order."""
    if layer.grid is not None:
        axis = layer.space[0]
        value = value.narrow(axis, layer.skip, value.shape[axis] - layer.skip)
        value = value.movedim((layer.channel, axis), (1, 2))
        rows, columns = layer.grid
        return value.reshape(*value.shape[:2], int(rows), int(columns))
    return value.movedim((layer.channel, *layer.space), (1, 2, 3))


def together(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, K, h, w] of several layers, each over its own largest value, on the finest grid: their mean."""
    finest = max((one.shape[2:] for one in maps), key=lambda size: size[0])
    total = torch.zeros(*maps[0].shape[:2], *finest, dtype=maps[0].dtype)
    for one in maps:
        scaled = one / one.amax((2, 3), keepdim=True).clamp(min=1e-30)
        total += torch.nn.functional.interpolate(scaled, size=tuple(finest), mode="bilinear", align_corners=False)
    return total / len(maps)
