"""ResNet-50 with one of three heads, as in Liu et al., Sensors 2023, 23, 8351.

Parameter names equal torchvision's ``resnet50`` (``conv1``, ``bn1``, ``layer1.0.conv1`` … ``fc``), so its weights load.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dkcam.fields import VARIANTS
from dkcam.spec import check_values

BLOCKS = (3, 4, 6, 3)


@dataclass(frozen=True)
class ModelConfig:
    """What defines the network's shape.

    variant: ``plain`` (pool, fc), ``dropout`` (pool, dropout, fc) or ``dropkey`` (attention with masked keys, fc).
    width: factor on all channel counts; 1.0 is ResNet-50 (64/256/512/1024/2048).
    grid: attention tokens as (rows, columns), pooled from layer4's positions; None keeps layer4's own positions.
    mask_ratio: probability with which a key is dropped for a query (dropkey), or a channel (dropout), in training.
    """

    classes: int = 1000
    variant: str = "dropkey"
    width: float = 1.0
    grid: tuple[int, int] | None = None
    mask_ratio: float = 0.3

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}, expected one of {', '.join(VARIANTS)}")
        check_values({"classes": self.classes, "model_width": self.width, "mask_ratio": self.mask_ratio, "grid": self.grid})

    @property
    def channels(self) -> int:
        """Channels of layer4's output: 2048 at width 1."""
        return 4 * scaled(512, self.width)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def scaled(channels: int, width: float) -> int:
    """Channel count at a width: rounded to a multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions with a shortcut; the stride sits on the 3×3, as in torchvision."""

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * middle
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return cast(Tensor, self.relu(self.bn3(self.conv3(x)) + shortcut))


def make_layer(inputs: int, middle: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, middle, stride)
    return nn.Sequential(first, *(Bottleneck(4 * middle, middle, 1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """The three variants in one class. Input float [B, 3, H, W], normalised; output logits float [B, classes]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        stem = scaled(64, config.width)
        middles = [scaled(64 * 2**stage, config.width) for stage in range(4)]
        self.conv1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = make_layer(stem, middles[0], BLOCKS[0], 1)
        self.layer2 = make_layer(4 * middles[0], middles[1], BLOCKS[1], 2)
        self.layer3 = make_layer(4 * middles[1], middles[2], BLOCKS[2], 2)
        self.layer4 = make_layer(4 * middles[2], middles[3], BLOCKS[3], 2)
        self.fc = nn.Linear(config.channels, config.classes)

    def backbone(self, x: Tensor) -> Tensor:
        """Normalised images float [B, 3, H, W] to layer4's features float [B, C, H/32, W/32]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return cast(Tensor, self.layer4(self.layer3(self.layer2(self.layer1(x)))))

    def head(self, features: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Layer4's features float [B, C, h, w] to logits float [B, classes].

        key_mask: bool [T, T] or [B, T, T], true = this query (row) does not see this key (column); dropkey only.
        """
        if self.config.variant == "dropkey":
            tokens = to_tokens(features, self.config.grid)
            if key_mask is None and self.training and self.config.mask_ratio > 0:
                count = tokens.shape[1]
                key_mask = torch.rand(tokens.shape[0], count, count, device=tokens.device) < self.config.mask_ratio
            vector = drop_key_attention(tokens, key_mask).mean(dim=1)
        else:
            vector = features.mean(dim=(2, 3))
            if self.config.variant == "dropout":
                vector = functional.dropout(vector, self.config.mask_ratio, self.training)
        return cast(Tensor, self.fc(vector))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return self.head(self.backbone(x), key_mask)

    def initialise(self, seed: int = 0) -> None:
        """Random weights from a seed: He-normal convolutions, and the last batch-norm of each block at zero.

        The zero makes every block start as its shortcut; without it small-object training does not leave chance
        level (Goyal et al., arXiv:1706.02677, section 5.1).
        """
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01, generator=generator)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)


def to_tokens(features: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Features float [B, C, h, w] to tokens float [B, T, C], row by row; pooled to ``grid`` where one is given."""
    if grid is not None:
        features = functional.adaptive_avg_pool2d(features, grid)
    return features.flatten(2).transpose(1, 2)


def keep_one_key(key_mask: Tensor) -> Tensor:
    """A row that drops every key keeps them all: its softmax would be 0/0. bool [..., T, T] to the same shape."""
    return key_mask & ~key_mask.all(dim=-1, keepdim=True)


def drop_key_attention(tokens: Tensor, key_mask: Tensor | None) -> Tensor:
    """Paper eqs. 3-4 with Q = K = V = tokens: softmax(t tᵀ / √C + d) t, where d is −∞ at dropped keys.

    tokens float [B, T, C]; key_mask bool [T, T] or [B, T, T], true = dropped, or None. Returns float [B, T, C].
    """
    scores = tokens @ tokens.transpose(1, 2) * tokens.shape[2] ** -0.5
    if key_mask is not None:
        scores = scores.masked_fill(keep_one_key(key_mask), float("-inf"))
    return cast(Tensor, scores.softmax(dim=-1) @ tokens)
