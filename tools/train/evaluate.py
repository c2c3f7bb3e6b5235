"""How good a trained model is: accuracy, and whether the heatmap's peak lies on the object."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.cells import pointing
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.model import Bottleneck, ResNet
from dkcam.export.reference import cam
from dkcam.interval import Mean, mean_or_share
from dkcam.runtime.geometry import Fit
from dkcam.tools.metrics.place import centred_gaussian
from dkcam.tools.scenes import Example, Examples
from dkcam.tools.train.loop import TrainingOptions, normalise

CONTROLS = {"chance": "chance", "centred": "centred Gaussian", "untrained": "random weights"}


@dataclass(frozen=True)
class Seen:
    """One picture's outcome. group: what it shows, as ``Example.group``, or a number of its own. hits: by name, whether the
    peak lies on the object, for correct pictures with a box, else None.
    """

    group: Hashable
    correct: bool
    hits: Mapping[str, float] | None


@dataclass(frozen=True)
class Scores:
    """What the pictures gave. Means have intervals over what the pictures show: a sign that is shown six times is one sign.

    hits: "on object", peak in the box or half a cell beside it; "inside", strictly in it. Controls on the same pictures:
    "chance" and "chance inside", a peak in any cell; "centred", a centred Gaussian in place of the heatmap; "untrained",
    the heatmap of a network with random weights.
    """

    seen: tuple[Seen, ...]

    @property
    def located(self) -> list[Seen]:
        """Correct pictures with a box."""
        return [each for each in self.seen if each.hits is not None]

    def accuracy(self) -> Mean:
        return mean_or_share([float(each.correct) for each in self.seen], [each.group for each in self.seen])

    def hits(self, name: str) -> Mean:
        found = self.located
        return mean_or_share([each.hits[name] for each in found if each.hits is not None], [each.group for each in found])

    def line(self) -> str:
        accuracy = self.accuracy()
        words = f"validation accuracy {percent(accuracy)} on {accuracy.count} pictures"
        if self.located:
            others = ", ".join(f"{name} {self.hits(key).value:.1%}" for key, name in CONTROLS.items())
            words += f"; heat peak on the object in {percent(self.hits('on object'))} of {len(self.located)} ({others})"
        return words

    def figures(self) -> dict[str, Any]:
        """For JSON: counts, and every mean with its interval."""
        keys = ("on object", "inside", "chance inside", *CONTROLS) if self.located else ()
        found = {"accuracy": self.accuracy()} | {key: self.hits(key) for key in keys}
        return {
            "pictures": len(self.seen),
            "groups": len({each.group for each in self.seen}),
            "located": len(self.located),
            "located_groups": len({each.group for each in self.located}),
            **{key: {"mean": round(m.value, 4), "low": round(m.low, 4), "high": round(m.high, 4)} for key, m in found.items()},
        }


def percent(value: Mean) -> str:
    return f"{value.value:.1%} ({value.low:.1%} to {value.high:.1%})"


def evaluate(checkpoint: Checkpoint, examples: Examples, options: TrainingOptions, pictures: int = 600) -> Scores:
    """Accuracy on validation pictures from seeds of their own."""

    def draw(number: int) -> Example:
        rng = np.random.default_rng((options.seed, 1, number))
        return examples.validation(rng, options.height, options.width_px, options.sign_size)

    return score(checkpoint.module(), draw, pictures)


def score(model: ResNet, draw: Callable[[int], Example], pictures: int) -> Scores:
    """Run a model over ``pictures`` examples; heatmaps by autograd at layer4 for the true class."""
    seen: list[Seen] = []
    control = random_model(model)
    for start in range(0, pictures, 16):
        batch = [draw(number) for number in range(start, min(start + 16, pictures))]
        predicted, maps = heatmaps(model, batch)
        _, other_maps = heatmaps(control, batch)
        for example, label, heat, other in zip(batch, predicted, maps, other_maps, strict=True):
            group = len(seen) if example.group is None else example.group
            located = label == example.label and example.box is not None
            seen.append(Seen(group, label == example.label, hits_of(heat, other, example) if located else None))
    return Scores(tuple(seen))


def hits_of(heat: NDArray[np.float32], untrained: NDArray[np.float32], example: Example) -> dict[str, float]:
    """Where the peaks lie, the heatmap's and the controls'; see ``Scores``."""
    assert example.box is not None
    height, width = example.picture.shape[:2]
    area, even = Fit(height, width, height, width).area(example.box, heat.shape), np.ones(heat.shape)
    return {
        "on object": pointing(heat, area),
        "inside": pointing(heat, area, tolerance=0),
        "chance": pointing(even, area),
        "chance inside": pointing(even, area, tolerance=0),
        "centred": pointing(centred_gaussian(*heat.shape), area),
        "untrained": pointing(untrained, area),
    }


def random_model(model: ResNet) -> ResNet:
    """The same network with fresh He-normal weights, its last batch-norms switched on."""
    control = ResNet(model.config)
    control.initialise(seed=12345)
    for module in control.modules():
        if isinstance(module, Bottleneck):
            torch.nn.init.ones_(module.bn3.weight)
    return control.eval()


def heatmaps(model: ResNet, batch: Sequence[Example]) -> tuple[list[int], NDArray[np.float32]]:
    """Predicted classes and Grad-CAM maps float32 [B, h, w] of the true classes."""
    x = torch.stack([normalise(example.picture) for example in batch])
    labels = torch.tensor([example.label for example in batch])
    with torch.no_grad():
        features: Tensor = model.backbone(x)
    features.requires_grad_(True)
    logits = model.head(features)
    gradient = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)[0]
    return logits.argmax(1).tolist(), cam("gradcam", features.detach(), gradient).numpy()
