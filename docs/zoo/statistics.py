"""Random weights that behave like trained ones: every layer's values near unit size, a last layer that tells pictures apart.

A heatmap of a freshly made network proves little: many start with blocks that add nothing (scales of 0 or 1e-6), with
batch-norms that never saw a picture, and with a last layer that says the same of every picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from dkcam.export.camera import camera_pictures
from dkcam.export.pictures import rendered_pictures

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TRAINED = 10  # classes whose weights are fitted, whatever the network has
LOGITS = 2.0  # standard deviation of a detector's or segmentation's raw scores


def pictures(size: tuple[int, int], count: int, *, imagenet: bool = True, seed: int = 0, plain: bool = False) -> Tensor:
    """Drawn road scenes, under several conditions or plain, float32 [count, 3, height, width], normalised or in 0..1."""
    if plain:
        images = np.stack(rendered_pictures(*size, count, seed).images)
    else:
        images = np.stack([image for _, image in camera_pictures(np.random.default_rng(seed), *size, count)])
    values = images.astype(np.float32) / 255
    if imagenet:
        values = (values - np.array(IMAGENET[0], np.float32)) / np.array(IMAGENET[1], np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def fill(module: nn.Module) -> None:
    """He's scale for convolutions, Xavier's for linear layers, norms near one, scales of blocks large enough to count."""
    for part in module.modules():
        if isinstance(part, NORMS):
            for name, value in part.named_parameters(recurse=False):
                nn.init.uniform_(value, 0.8, 1.2) if name == "weight" else nn.init.normal_(value, 0, 0.1)
            continue
        layer = isinstance(part, (nn.modules.conv._ConvNd, nn.Linear))
        for name, value in part.named_parameters(recurse=False):
            if not value.requires_grad:
                continue  # constants that look like weights: the bins of a box's distances
            if layer and name == "weight":
                gain = 1.0 if isinstance(part, nn.Linear) else math.sqrt(2)
                nn.init.normal_(value, 0, gain / math.sqrt(max(1, value[0].numel())))
            elif layer:
                nn.init.normal_(value, 0, 0.05)
            elif value.detach().float().std(unbiased=False) < 1e-3 and value.detach().abs().max() < 0.2:
                # constant and small: a bias or a token that starts at nothing, or a block's scale
                nn.init.normal_(value, 0, 0.1) if "bias" in name or value.ndim > 2 else nn.init.uniform_(value, 0.3, 0.7)


def settle(module: nn.Module, batches: list[Tensor]) -> None:
    """Batch-norms take the statistics of these pictures, layer after layer in one pass; everything else stays in evaluation mode."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    for part in norms:
        part.reset_running_stats()
        part.momentum = None  # the mean over all batches
        part.train()
    with torch.no_grad():
        for batch in batches:
            module(batch)
    for part in norms:
        part.momentum = 0.1
        part.eval()


def last_layer(module: nn.Module, picture: Tensor) -> nn.Linear | nn.Conv2d:
    """The linear layer or convolution that is run last."""
    order: list[nn.Module] = []
    layers = (nn.Linear, nn.Conv2d)
    hooks = [part.register_forward_hook(lambda part, *_: order.append(part)) for part in module.modules() if isinstance(part, layers)]
    with torch.no_grad():
        module(picture)
    for hook in hooks:
        hook.remove()
    found = order[-1]
    assert isinstance(found, layers)
    return found


def inputs_of(module: nn.Module, layer: nn.Module, batches: list[Tensor]) -> Tensor:
    """What a layer is given for these pictures, [n, channels], one row for each position."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        value = given[0].detach()
        seen.append(value.movedim(1, -1).flatten(0, -2) if isinstance(layer, nn.Conv2d) else value.flatten(0, -2))

    hook = layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        for batch in batches:
            module(batch)
    hook.remove()
    return torch.cat(seen) if seen else torch.empty(0)


def looks(images: Tensor, kinds: int) -> Tensor:
    """Which of ``kinds`` groups of similar pictures each one belongs to, int64 [n]: k-means over 8×8 pixels."""
    small = torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1).numpy().astype(np.float32)
    cv2.setRNGSeed(1)
    rule = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-4)
    _, labels, _ = cv2.kmeans(small, kinds, np.empty((0,), np.int32), rule, 4, cv2.KMEANS_PP_CENTERS)
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def fit_classes(module: nn.Module, images: Tensor, batch: int = 8) -> None:
    """The last layer tells ``TRAINED`` looks of pictures apart (ridge regression); further classes speak softly."""
    layer = last_layer(module, images[:1])
    batches = list(images.split(batch))
    given = inputs_of(module, layer, batches).double()
    given = given.reshape(len(images), -1, given.shape[-1]).mean(1)  # of a layer that is pooled afterwards
    count = layer.weight.shape[0]
    kinds = min(TRAINED, count)
    labels = looks(images, kinds)
    targets = torch.full((len(given), kinds), -1.0, dtype=torch.float64)
    targets[torch.arange(len(given)), labels] = 5.0
    mean, spread = given.mean(0), given.std() + 1e-9
    centred = (given - mean) / spread
    gram = centred @ centred.T
    ridge = 0.03 * gram.diagonal().mean()
    weights = centred.T @ torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), targets - targets.mean(0)) / spread
    rows = torch.randn(count, layer.weight[0].numel(), dtype=torch.float64)
    rows *= 0.3 * weights.norm(dim=0).mean() / rows.norm(dim=1, keepdim=True)
    rows[:kinds] = weights.T
    bias = torch.full((count,), -3.0, dtype=torch.float64)
    bias[:kinds] = targets.mean(0)
    bias -= rows @ mean
    with torch.no_grad():
        layer.weight.copy_(rows.reshape(layer.weight.shape))
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(count))
        layer.bias.copy_(bias)


def spread_scores(module: nn.Module, layer: nn.Linear | nn.Conv2d, batches: list[Tensor], mean: float = 0.0, std: float = LOGITS) -> None:
    """Scale a layer so that each of its outputs has this mean and standard deviation over pictures and positions."""
    given = inputs_of(module, layer, batches)
    if not len(given):
        return  # a branch that training alone takes
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]))
    with torch.no_grad():
        flat = layer.weight.flatten(1)
        if isinstance(layer, nn.Conv2d) and layer.weight[0, 0].numel() > 1:  # of a larger kernel: by what it gives
            out: list[Tensor] = []
            hook = layer.register_forward_hook(lambda _, __, value: out.append(value.movedim(1, -1).flatten(0, -2)))
            for batch in batches:
                module(batch)
            hook.remove()
            values = torch.cat(out) - layer.bias
        else:
            values = given @ flat.T
        scale = std / values.std(0).clamp_min(1e-6)
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_(mean - values.mean(0) * scale)


def sound(
    module: nn.Module,
    size: tuple[int, int],
    *,
    finish: Callable[[nn.Module, Tensor], None] = fit_classes,
    imagenet: bool = True,
    seed: int = 0,
) -> nn.Module:
    """The module with sound weights, in evaluation mode. finish: what is done with the last layer, given pictures."""
    torch.manual_seed(seed)
    fill(module)
    settle(module, list(pictures(size, 18, imagenet=imagenet, seed=seed).split(6)))
    finish(module, pictures(size, 60 if finish is fit_classes else 16, imagenet=imagenet, seed=seed + 1, plain=True))
    return module.eval()


def regress(module: nn.Module, images: Tensor) -> None:
    """The last layer's outputs have mean 0 and standard deviation 1."""
    spread_scores(module, last_layer(module, images[:1]), list(images.split(8)), 0.0, 1.0)


def dense(module: nn.Module, images: Tensor) -> None:
    """Every class of a segmentation is the best somewhere."""
    spread_scores(module, last_layer(module, images[:1]), list(images[:16].split(4)))
