"""How good a trained model is: accuracy, and whether the heatmap's peak lies on the object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.export.checkpoint import Checkpoint
from dkcam.export.model import Bottleneck, ResNet
from dkcam.export.reference import cam
from dkcam.rendered import Box
from dkcam.spec import STRIDE
from dkcam.tools.scenes import Example, Examples
from dkcam.tools.train.loop import TrainingOptions, normalise


@dataclass(frozen=True)
class Scores:
    """pictures, and of these correct. located: correct pictures with a box; on_object: peak in it (± half a cell).

    Controls on the same located pictures: centred, a centred Gaussian in place of the heatmap; untrained, the heatmap
    of a network with random weights.
    """

    pictures: int
    correct: int
    located: int
    on_object: int
    centred: int
    untrained: int

    def line(self) -> str:
        words = f"validation accuracy {self.correct / self.pictures:.1%} on {self.pictures} pictures"
        if self.located:
            on, centred, untrained = (count / self.located for count in (self.on_object, self.centred, self.untrained))
            words += f"; heat peak on the object in {on:.1%} of {self.located}"
            words += f" (centred Gaussian {centred:.1%}, random weights {untrained:.1%})"
        return words


def evaluate(checkpoint: Checkpoint, examples: Examples, options: TrainingOptions, pictures: int = 600) -> Scores:
    """Accuracy on validation pictures from seeds of their own."""

    def draw(number: int) -> Example:
        rng = np.random.default_rng((options.seed, 1, number))
        return examples.validation(rng, options.height, options.width_px, options.sign_size)

    return score(checkpoint.module(), draw, pictures)


def score(model: ResNet, draw: Callable[[int], Example], pictures: int) -> Scores:
    """Run a model over ``pictures`` examples; heatmaps by autograd at layer4 for the true class."""
    correct = located = on_object = centred = untrained = 0
    control = random_model(model)
    for start in range(0, pictures, 16):
        batch = [draw(number) for number in range(start, min(start + 16, pictures))]
        predicted, maps = heatmaps(model, batch)
        _, other_maps = heatmaps(control, batch)
        for example, label, heat, other in zip(batch, predicted, maps, other_maps, strict=True):
            if label != example.label:
                continue
            correct += 1
            if example.box is not None:
                located += 1
                on_object += peak_on(heat, example.box)
                centred += peak_on(centred_gaussian(*heat.shape), example.box)
                untrained += peak_on(other, example.box)
    return Scores(pictures, correct, located, on_object, centred, untrained)


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


def peak_on(heat: NDArray[np.float32], box: Box) -> bool:
    """Whether the centre of the hottest cell lies in the box, with half a cell of tolerance on each side."""
    if not heat.max() > 0:
        return False
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    x, y, slack = (float(column) + 0.5) * STRIDE, (float(row) + 0.5) * STRIDE, STRIDE / 2
    return box.left - slack <= x <= box.right + slack and box.top - slack <= y <= box.bottom + slack


def centred_gaussian(height: int, width: int) -> NDArray[np.float32]:
    """The control that looks at nothing: highest in the middle."""
    y, x = np.mgrid[0:height, 0:width]
    return np.asarray(np.exp(-(((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2) / 0.125), np.float32)
