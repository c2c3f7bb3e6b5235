"""Small networks of our own code: classifiers as they were written before timm, regressors of driving, segmentations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(
    i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU, dilation: int = 1
) -> nn.Sequential:
    pad = (kernel // 2) * dilation
    return nn.Sequential(nn.Conv2d(i, o, kernel, stride, pad, dilation, groups, bias=False), nn.BatchNorm2d(o), act())


class AlexNet(nn.Module):
    """Krizhevsky 2012, with its local response normalisation and its two groups."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 96, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5, 1e-4, 0.75, 2.0), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(9216, 1024), nn.ReLU(), nn.Dropout(), nn.Linear(1024, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Fire(nn.Module):
    def __init__(self, i: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(i, squeeze, 1)
        self.one = nn.Conv2d(squeeze, expand, 1)
        self.three = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1; its classes are maps that are pooled last, with ceil mode in the pools before."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)

        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool()),
            *(Fire(128, 32, 128), Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192)),
            *(Fire(384, 64, 256), Fire(512, 64, 256)),
        )
        self.classes = nn.Conv2d(512, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.classes(self.features(x))).mean((2, 3))


class Shuffled(nn.Module):
    """A block of ShuffleNetV2."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        half = o // 2
        self.left = None
        if stride == 2:
            self.left = nn.Sequential(nn.Conv2d(i, i, 3, 2, 1, groups=i, bias=False), nn.BatchNorm2d(i), block(i, half, 1))
        start = i if stride == 2 else half
        self.right = nn.Sequential(
            block(start, half, 1), nn.Conv2d(half, half, 3, stride, 1, groups=half, bias=False), nn.BatchNorm2d(half), block(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.left is None:
            kept, x = x.chunk(2, 1)
        else:
            kept = self.left(x)
        x = torch.cat([kept, self.right(x)], 1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class ShuffleNet(nn.Module):
    """ShuffleNetV2 1.0×."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        parts: list[nn.Module] = [block(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
        before = 24
        for width, depth in ((116, 4), (232, 8), (464, 4)):
            parts += [Shuffled(before if n == 0 else width, width, 2 if n == 0 else 1) for n in range(depth)]
            before = width
        self.features = nn.Sequential(*parts, block(464, 1024, 1))
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class SignTransformer(nn.Module):
    """A traffic-sign classifier with a spatial transformer before it (GridSample)."""

    def __init__(self, classes: int = 43) -> None:
        super().__init__()
        self.where = nn.Sequential(
            nn.Conv2d(3, 16, 7), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        )
        self.theta = nn.Linear(512, 6)
        self.features = nn.Sequential(
            block(3, 64), block(64, 64), nn.MaxPool2d(2), block(64, 128), block(128, 128), nn.MaxPool2d(2), block(128, 256)
        )
        self.fc = nn.Sequential(nn.Dropout(), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        theta = 0.1 * torch.tanh(self.theta(self.where(x).flatten(1))) + x.new_tensor([1.0, 0, 0, 0, 1, 0])
        rows, columns = (torch.linspace(1 / n - 1, 1 - 1 / n, n) for n in x.shape[2:])
        y, across = torch.meshgrid(rows, columns, indexing="ij")
        places = torch.stack([across, y, torch.ones_like(y)], -1).reshape(1, -1, 3)
        grid = (places @ theta.view(-1, 2, 3).transpose(1, 2)).view(-1, *x.shape[2:], 2)
        x = F.grid_sample(x, grid, align_corners=False)
        return self.fc(self.features(x).amax((2, 3)))


class SignNet(nn.Module):
    """A traffic-sign classifier as tutorials write it: convolutions, a flattened map, Softmax inside."""

    def __init__(self, classes: int = 43) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 32, 5), nn.ReLU(), nn.Conv2d(32, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
            *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        )
        self.fc = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * 4 * 4, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, classes), nn.Softmax(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class PilotNet(nn.Module):
    """Bojarski 2016: a camera's picture, 66×200, in; one steering value out."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 24, 5, 2), nn.ELU(), nn.Conv2d(24, 36, 5, 2), nn.ELU(), nn.Conv2d(36, 48, 5, 2), nn.ELU()),
            *(nn.Conv2d(48, 64, 3), nn.ELU(), nn.Conv2d(64, 64, 3), nn.ELU()),
        )
        self.fc = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * 18, 100),
            nn.ELU(),
            nn.Linear(100, 50),
            nn.ELU(),
            nn.Linear(50, 10),
            nn.ELU(),
            nn.Linear(10, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class PooledRegressor(nn.Module):
    """Convolutions, a global pool and two outputs: speed and distance ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            block(3, 32, 3, 2), block(32, 64, 3, 2), block(64, 128, 3, 2), block(128, 128), block(128, 256, 3, 2), block(256, 256)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class UNet(nn.Module):
    """Ronneberger 2015 with batch-norms, a quarter of its width; transposed convolutions on the way up."""

    def __init__(self, classes: int = 8, width: int = 16) -> None:
        super().__init__()
        sizes = [width * 2**n for n in range(5)]
        self.down = nn.ModuleList(nn.Sequential(block(i, o), block(o, o)) for i, o in zip([3, *sizes], sizes, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * o, o, 2, 2) for o in sizes[-2::-1])
        self.join = nn.ModuleList(nn.Sequential(block(2 * o, o), block(o, o)) for o in sizes[-2::-1])
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for n, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if n else x)
            kept.append(x)
        for up, join, side in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([side, up(x)], 1))
        return self.out(x)


class DeepLab(nn.Module):
    """DeepLabV3 on a narrow backbone: dilated convolutions, a pooled branch, bilinear enlargement, softmax inside."""

    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            block(3, 32, 3, 2), block(32, 64, 3, 2), block(64, 128, 3, 2), block(128, 128), block(128, 192, dilation=2)
        )
        self.branches = nn.ModuleList([block(192, 64, 1), *(block(192, 64, dilation=d) for d in (3, 6, 9))])
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(192, 64, 1), nn.ReLU())
        self.join = nn.Sequential(block(320, 64, 1), nn.Dropout(0.1))
        self.out = nn.Conv2d(64, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        pooled = F.interpolate(self.pooled(features), features.shape[2:], mode="bilinear", align_corners=False)
        joined = self.join(torch.cat([*(branch(features) for branch in self.branches), pooled], 1))
        return F.interpolate(self.out(joined), x.shape[2:], mode="bilinear", align_corners=False).softmax(1)


class FCN(nn.Module):
    """FCN-16s on a narrow VGG: scores of two strides are added, then enlarged by a transposed convolution."""

    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        parts, before = [], 3
        for width in (32, 64, 128, 128):
            parts.append(nn.Sequential(block(before, width), block(width, width), nn.MaxPool2d(2)))
            before = width
        self.early, self.late = nn.Sequential(*parts), nn.Sequential(block(128, 256), block(256, 256), nn.MaxPool2d(2))
        self.score_early, self.score_late = nn.Conv2d(128, classes, 1), nn.Conv2d(256, classes, 1)
        self.twice = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
        self.out = nn.ConvTranspose2d(classes, classes, 32, 16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        return self.out(self.score_early(early) + self.twice(self.score_late(self.late(early))))
