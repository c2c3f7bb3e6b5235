"""Detectors of our own code, one for each way of writing boxes that the field has."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.own import block
from zoo.statistics import spread_scores

CLASSES = 8  # of road users


class Backbone(nn.Module):
    """Strides 8, 16 and 32."""

    def __init__(self, widths: tuple[int, int, int] = (64, 128, 256), act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(block(3, 24, 3, 2, act=act), block(24, 48, 3, 2, act=act), block(48, 48, act=act))
        self.low = nn.Sequential(block(48, a, 3, 2, act=act), block(a, a, act=act), block(a, a, act=act))
        self.middle = nn.Sequential(block(a, b, 3, 2, act=act), block(b, b, act=act), block(b, b, act=act))
        self.high = nn.Sequential(block(b, c, 3, 2, act=act), block(c, c, act=act), block(c, c, act=act))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = self.low(self.stem(x))
        middle = self.middle(low)
        return low, middle, self.high(middle)


class Pyramid(nn.Module):
    """A feature pyramid: all levels of one width, each with the coarser one added."""

    def __init__(self, widths: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in widths)

    def forward(self, levels: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        low, middle, high = (layer(level) for layer, level in zip(self.lateral, levels, strict=True))
        middle = middle + F.interpolate(high, scale_factor=2.0, mode="nearest")
        low = low + F.interpolate(middle, scale_factor=2.0, mode="nearest")
        return [layer(level) for layer, level in zip(self.smooth, (low, middle, high), strict=True)]


def cells(height: int, width: int) -> Tensor:
    """(x, y) of each cell, float32 [height·width, 2]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float()


class YoloX(nn.Module):
    """YOLOX: a decoupled head a level; rows (x, y, w, h, objectness, classes). decoded: in pixels, else in cells, as its demo has it."""

    def __init__(self, decoded: bool = True, classes: int = CLASSES) -> None:
        super().__init__()
        self.decoded = decoded
        widths = (64, 128, 256)
        self.backbone, self.neck = Backbone(widths), Pyramid(widths, 64)
        self.sorts = nn.ModuleList(nn.Sequential(block(64, 64, act=nn.SiLU), block(64, 64, act=nn.SiLU)) for _ in widths)
        self.places = nn.ModuleList(nn.Sequential(block(64, 64, act=nn.SiLU), block(64, 64, act=nn.SiLU)) for _ in widths)
        self.classes = nn.ModuleList(nn.Conv2d(64, classes, 1) for _ in widths)
        self.boxes = nn.ModuleList(nn.Conv2d(64, 4, 1) for _ in widths)
        self.objects = nn.ModuleList(nn.Conv2d(64, 1, 1) for _ in widths)

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for n, level in enumerate(self.neck(self.backbone(x))):
            sort, place = self.sorts[n](level), self.places[n](level)
            out = torch.cat([self.boxes[n](place), self.objects[n](place).sigmoid(), self.classes[n](sort).sigmoid()], 1)
            rows.append(out.flatten(2))
        found = torch.cat(rows, 2).permute(0, 2, 1)
        if not self.decoded:
            return found
        height, width = x.shape[2:]
        sizes = [(height // s, width // s, s) for s in (8, 16, 32)]
        grid = torch.cat([cells(h, w) for h, w, _ in sizes])
        stride = torch.cat([torch.full((h * w, 1), float(s)) for h, w, s in sizes])
        return torch.cat([(found[..., :2] + grid) * stride, found[..., 2:4].exp() * stride, found[..., 4:]], -1)

    def scores(self) -> list[nn.Conv2d]:
        return [*self.classes, *self.objects]

    def places_(self) -> list[nn.Conv2d]:
        return [*self.boxes]


class Retina(nn.Module):
    """RetinaNet: one head for all levels, nine anchors a cell; boxes as corners in pixels and sigmoid scores, two outputs.

    groups: of the group normalisation in its heads, 0 for none, as in the paper of 2017.
    """

    def __init__(self, classes: int = CLASSES, groups: int = 8) -> None:
        super().__init__()
        widths = (64, 128, 256)
        self.backbone, self.neck, self.count = Backbone(widths, nn.ReLU), Pyramid(widths, 64), classes
        self.sort, self.place = self.tower(groups), self.tower(groups)
        self.classes, self.boxes = nn.Conv2d(64, 9 * classes, 3, padding=1), nn.Conv2d(64, 36, 3, padding=1)

    def tower(self, groups: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(64, 64, 3, padding=1), *([nn.GroupNorm(groups, 64)] if groups else []), nn.ReLU()]
        return nn.Sequential(*layers)

    def anchors(self, height: int, width: int, stride: int) -> Tensor:
        """(centre x, centre y, width, height) in pixels, [height·width·9, 4]."""
        shapes = torch.tensor(
            [(4 * s * math.sqrt(r), 4 * s / math.sqrt(r)) for r in (0.5, 1.0, 2.0) for s in (1.0, 2 ** (1 / 3), 2 ** (2 / 3))]
        )
        centre = (cells(height, width) + 0.5)[:, None].expand(-1, 9, -1)
        return stride * torch.cat([centre, shapes[None].expand(len(centre), -1, -1)], -1).reshape(-1, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, offsets, anchors = [], [], []
        for level, stride in zip(self.neck(self.backbone(x)), (8, 16, 32), strict=True):
            b, _, h, w = level.shape
            one = self.classes(self.sort(level)).view(b, 9, self.count, h, w).permute(0, 3, 4, 1, 2)
            two = self.boxes(self.place(level)).view(b, 9, 4, h, w).permute(0, 3, 4, 1, 2)
            scores.append(one.reshape(b, -1, self.count))
            offsets.append(two.reshape(b, -1, 4))
            anchors.append(self.anchors(h, w, stride))
        offset, anchor = torch.cat(offsets, 1), torch.cat(anchors)
        centre = anchor[:, :2] + offset[..., :2] * anchor[:, 2:]
        size = anchor[:, 2:] * offset[..., 2:].clamp(max=4.0).exp()
        return torch.cat([centre - size / 2, centre + size / 2], -1), torch.cat(scores, 1).sigmoid()

    def scores(self) -> list[nn.Conv2d]:
        return [self.classes]

    def places_(self) -> list[nn.Conv2d]:
        return [self.boxes]


class SSD(nn.Module):
    """SSD on a MobileNet-like backbone: anchors of fixed shapes; boxes as corners in 0..1, softmax scores with the background first."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        act = nn.ReLU6

        def separable(i: int, o: int, stride: int) -> nn.Sequential:
            return nn.Sequential(block(i, i, 3, stride, i, act), block(i, o, 1, act=act))

        self.count = classes + 1
        self.stem = nn.Sequential(
            block(3, 32, 3, 2, act=act),
            separable(32, 64, 1),
            separable(64, 128, 2),
            separable(128, 128, 1),
            separable(128, 256, 2),
            separable(256, 256, 1),
            separable(256, 256, 2),
        )
        self.further = nn.ModuleList([separable(256, 512, 2), separable(512, 256, 2), separable(256, 128, 2)])
        widths = (256, 512, 256, 128)
        self.classes = nn.ModuleList(nn.Conv2d(w, 6 * self.count, 3, padding=1) for w in widths)
        self.boxes = nn.ModuleList(nn.Conv2d(w, 24, 3, padding=1) for w in widths)

    def anchors(self, height: int, width: int, scale: float) -> Tensor:
        shapes = [(scale * math.sqrt(r), scale / math.sqrt(r)) for r in (1.0, 2.0, 0.5, 3.0, 1 / 3)] + [(1.3 * scale, 1.3 * scale)]
        centre = ((cells(height, width) + 0.5) / torch.tensor([width, height]))[:, None].expand(-1, 6, -1)
        return torch.cat([centre, torch.tensor(shapes)[None].expand(len(centre), -1, -1)], -1).reshape(-1, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        levels = [x]
        for further in self.further:
            x = further(x)
            levels.append(x)
        scores, offsets, anchors = [], [], []
        for n, level in enumerate(levels):
            b, _, h, w = level.shape
            scores.append(self.classes[n](level).permute(0, 2, 3, 1).reshape(b, -1, self.count))
            offsets.append(self.boxes[n](level).permute(0, 2, 3, 1).reshape(b, -1, 4))
            anchors.append(self.anchors(h, w, 0.15 + 0.2 * n))
        offset, anchor = torch.cat(offsets, 1), torch.cat(anchors)
        centre = anchor[:, :2] + 0.1 * offset[..., :2] * anchor[:, 2:]
        size = anchor[:, 2:] * (0.2 * offset[..., 2:]).exp()
        return torch.cat([centre - size / 2, centre + size / 2], -1), torch.cat(scores, 1).softmax(-1)

    def scores(self) -> list[nn.Conv2d]:
        return [*self.classes]

    def places_(self) -> list[nn.Conv2d]:
        return [*self.boxes]


class Detr(nn.Module):
    """DETR: tokens of the coarsest map, queries that attend to them; logits with a last class of nothing, boxes (cx, cy, w, h) in 0..1."""

    def __init__(self, classes: int = CLASSES, width: int = 128, queries: int = 100, side: int = 10) -> None:
        super().__init__()
        self.backbone, self.project = Backbone(act=nn.ReLU), nn.Conv2d(256, width, 1)
        self.position = nn.Parameter(torch.randn(side * side, width))
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 256, 0.0, batch_first=True) for _ in range(2))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(width, 4, 256, 0.0, batch_first=True) for _ in range(2))
        self.classes = nn.Linear(width, classes + 1)
        self.boxes = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.project(self.backbone(x)[2]).flatten(2).transpose(1, 2) + self.position
        for layer in self.encoder:
            memory = layer(memory)
        found = self.queries.expand(len(x), -1, -1)
        for layer in self.decoder:
            found = layer(found, memory)
        return self.classes(found), self.boxes(found).sigmoid()

    def scores(self) -> list[nn.Linear]:
        return [self.classes]

    def places_(self) -> list[nn.Linear]:
        return [self.boxes[2]]


class CenterNet(nn.Module):
    """CenterNet: a map of centres a class, maps of sizes and offsets; boxes are read from its peaks outside."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        widths = (64, 128, 256)
        self.backbone, self.neck = Backbone(widths, nn.ReLU), Pyramid(widths, 64)

        def head(outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, outputs, 1))

        self.centres, self.sizes, self.offsets = head(classes), head(2), head(2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low = self.neck(self.backbone(x))[0]
        return self.centres(low).sigmoid(), self.sizes(low).exp(), self.offsets(low)

    def scores(self) -> list[nn.Conv2d]:
        return [self.centres[2]]

    def places_(self) -> list[nn.Conv2d]:
        return [self.sizes[2], self.offsets[2]]


class YoloV5Head(nn.Module):
    """The head of the first YOLOv5 and of YOLOv7: three anchors a cell, rows (x, y, w, h, objectness, classes) in pixels."""

    ANCHORS = ((10, 13, 16, 30, 33, 23), (30, 61, 62, 45, 59, 119), (116, 90, 156, 198, 373, 326))

    def __init__(self, widths: list[int], classes: int = 80) -> None:
        super().__init__()
        self.columns = classes + 5
        self.m = nn.ModuleList(nn.Conv2d(w, 3 * self.columns, 1) for w in widths)

    def forward(self, levels: list[Tensor]) -> Tensor:
        rows = []
        for level, layer, stride, sides in zip(levels, self.m, (8, 16, 32), self.ANCHORS, strict=True):
            b, _, h, w = level.shape
            y = layer(level).view(b, 3, self.columns, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
            grid = cells(h, w).view(1, 1, h, w, 2) - 0.5
            anchor = torch.tensor(sides, dtype=torch.float32).view(1, 3, 1, 1, 2)
            place, size = (y[..., :2] * 2 + grid) * stride, (y[..., 2:4] * 2) ** 2 * anchor
            rows.append(torch.cat([place, size, y[..., 4:]], -1).view(b, -1, self.columns))
        return torch.cat(rows, 1)


def few_boxes(module: nn.Module, images: Tensor) -> None:
    """Few scores are high, as in a trained detector; boxes are of some size."""
    batches = list(images[:16].split(4))
    for layer in module.scores():
        spread_scores(module, layer, batches, -3.0, 1.5)
    for layer in module.places_():
        spread_scores(module, layer, batches, 0.0, 0.5)
