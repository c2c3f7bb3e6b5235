"""Small detectors of every layout, with random weights of sound statistics: a handful of boxes stands out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CLASSES = 5


def block(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups), act())


class Neck(nn.Module):
    """Maps at strides 8, 16 and 32, a coarse one fed back into the finest."""

    def __init__(self, widths: tuple[int, int, int] = (12, 16, 20)) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(block(3, 8, stride=2), block(8, 8, stride=2))
        self.down = nn.ModuleList([block(8, a, stride=2), block(a, b, stride=2), block(b, c, stride=2)])
        self.side = nn.Conv2d(b, a, 1)
        self.out = block(a, a)

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.down[0](self.stem(x))
        p4 = self.down[1](p3)
        up = nn.functional.interpolate(self.side(p4), scale_factor=2.0, mode="nearest")
        return [self.out(p3 + up), p4, self.down[2](p4)]


def cells(maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Centres [A, 2] in cells and strides [A, 1] of all levels."""
    centres, strides = [], []
    for one in maps:
        rows, columns = one.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres.append(torch.stack([x, y], 2).reshape(-1, 2).float())
        strides.append(torch.full((rows * columns, 1), size[0] / rows))
    return torch.cat(centres), torch.cat(strides)


class Yolov8(nn.Module):
    """Heads apart for boxes and classes, boxes as expectations over bins."""

    def __init__(self, levels: int = 3, deep: bool = True, plain: bool = False, act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        widths = (12, 16, 20)
        self.neck, self.levels, self.plain = Neck(widths), levels, plain
        self.boxes = nn.ModuleList([nn.Sequential(block(w, 8), nn.Conv2d(8, 16, 1)) for w in widths[:levels]])
        heads = []
        for width in widths[:levels]:
            if deep:  # depthwise and pointwise, as yolo11
                inner = nn.Sequential(block(width, width, groups=width, act=act), block(width, 8, 1, act=act), block(8, 8, act=act))
            else:
                inner = nn.Sequential(block(width, 8, act=act), block(8, 8, act=act))
            heads.append(nn.Sequential(inner, nn.Conv2d(8, CLASSES, 1)))
        self.classes = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        maps = self.neck(x)[: self.levels]
        both = [torch.cat([b(m), c(m)], 1) for m, b, c in zip(maps, self.boxes, self.classes, strict=True)]
        rows = torch.cat([one.reshape(one.shape[0], 16 + CLASSES, -1) for one in both], 2)
        bins, scores = rows.split((16, CLASSES), 1)
        sides = (bins.reshape(x.shape[0], 4, 4, -1).softmax(2) * torch.arange(4.0).reshape(1, 1, 4, 1)).sum(2)
        centres, strides = cells(maps, size)
        low, high = (centres.T + 0.5 - sides[:, :2]), (centres.T + 0.5 + sides[:, 2:])
        boxes = torch.cat([(low + high) / 2, high - low], 1) * strides.T
        return torch.cat([boxes, scores if self.plain else scores.sigmoid()], 1)


class Yolov5(nn.Module):
    """One convolution a level for three boxes a cell, objectness and classes."""

    def __init__(self) -> None:
        super().__init__()
        self.neck, self.each = Neck(), 5 + CLASSES
        self.heads = nn.ModuleList([nn.Conv2d(w, 3 * self.each, 1) for w in (12, 16, 20)])

    def forward(self, x: Tensor) -> Tensor:
        found, size = [], x.shape[2]
        for one, head in zip(self.neck(x), self.heads, strict=True):
            rows, columns = one.shape[2:]
            y = head(one).reshape(x.shape[0], 3, self.each, rows, columns).permute(0, 1, 3, 4, 2)
            gy, gx = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
            grid = torch.stack([gx, gy], 2).float() - 0.5
            xy, wh, rest = y.sigmoid().split((2, 2, 1 + CLASSES), 4)
            xy = (xy * 2 + grid) * (size / rows)
            wh = (wh * 2) ** 2 * torch.tensor([[3.0, 2.0], [2.0, 3.0], [4.0, 4.0]]).reshape(1, 3, 1, 1, 2) * (size / rows)
            found.append(torch.cat([xy, wh, rest], 4).reshape(x.shape[0], -1, self.each))
        return torch.cat(found, 1)


class Yolox(nn.Module):
    """A stem a level, objectness beside the boxes. decoded: the grid is applied; product: objectness is multiplied in."""

    def __init__(self, decoded: bool = False, product: bool = False) -> None:
        super().__init__()
        self.neck, self.decoded, self.product = Neck(), decoded, product
        self.stems = nn.ModuleList([block(w, 8, 1) for w in (12, 16, 20)])
        self.towers = nn.ModuleList([nn.Sequential(block(8, 8), block(8, 8)) for _ in range(6)])
        self.classes = nn.ModuleList([nn.Conv2d(8, CLASSES, 1) for _ in range(3)])
        self.boxes = nn.ModuleList([nn.Conv2d(8, 4, 1) for _ in range(3)])
        self.objects = nn.ModuleList([nn.Conv2d(8, 1, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        maps = self.neck(x)
        found = []
        for i, one in enumerate(maps):
            stem = self.stems[i](one)
            left, right = self.towers[2 * i](stem), self.towers[2 * i + 1](stem)
            found.append(torch.cat([self.boxes[i](right), self.objects[i](right).sigmoid(), self.classes[i](left).sigmoid()], 1))
        rows = torch.cat([one.flatten(2) for one in found], 2).permute(0, 2, 1)
        if not self.decoded:
            return rows
        centres, strides = cells(maps, (x.shape[2], x.shape[3]))
        scores = rows[..., 4:5] * rows[..., 5:] if self.product else rows[..., 4:]
        return torch.cat([(rows[..., :2] + centres) * strides, rows[..., 2:4].exp() * strides, scores], 2)


class Ssd(nn.Module):
    """Two anchors a cell, classes first among the channels of a box, "nothing" in front. scale: of its boxes."""

    def __init__(self, squash: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.neck, self.squash, self.scale = Neck(), squash, scale
        self.classes = nn.ModuleList([nn.Conv2d(w, 2 * (CLASSES + 1), 3, 1, 1) for w in (12, 16, 20)])
        self.boxes = nn.ModuleList([nn.Conv2d(w, 8, 3, 1, 1) for w in (12, 16, 20)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.neck(x)
        scores = torch.cat(
            [c(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, CLASSES + 1) for m, c in zip(maps, self.classes, strict=True)], 1
        )
        moved = torch.cat([b(m).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for m, b in zip(maps, self.boxes, strict=True)], 1)
        centres, strides = cells(maps, (x.shape[2], x.shape[3]))
        priors = ((centres + 0.5) * strides / x.shape[2]).repeat_interleave(2, 0)
        sizes = (2 * strides / x.shape[2]).repeat_interleave(2, 0) * torch.tensor([1.0, 1.5]).repeat(len(centres))[:, None]
        centre, size = priors + 0.1 * moved[..., :2] * sizes, sizes * (0.2 * moved[..., 2:]).exp()
        boxes = torch.cat([centre - size / 2, centre + size / 2], 2) * self.scale
        return (scores.softmax(2) if self.squash else scores), boxes


class Detr(nn.Module):
    """Queries that attend to all of the last map. nothing: a last class that is none, with Softmax; without, Sigmoid."""

    def __init__(self, nothing: bool = True, squash: bool = False) -> None:
        super().__init__()
        self.neck, self.nothing, self.squash = Neck(), nothing, squash
        self.queries = nn.Parameter(torch.randn(7, 20, generator=torch.Generator().manual_seed(3)) * 2)
        self.classes, self.boxes = nn.Linear(20, CLASSES + nothing), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.neck(x)[2].flatten(2).transpose(1, 2)
        seen = (self.queries @ memory.transpose(1, 2)).softmax(2) @ memory * 3 + self.queries
        scores = self.classes(seen)
        if self.squash:
            scores = scores.softmax(2) if self.nothing else scores.sigmoid()
        return scores, self.boxes(seen).sigmoid()


class Chosen(nn.Module):
    """YOLOv10: the network chooses boxes itself."""

    def __init__(self, most: int = 20) -> None:
        super().__init__()
        self.inner, self.most = Yolov8(), most

    def forward(self, x: Tensor) -> Tensor:
        rows = self.inner(x).transpose(1, 2)
        boxes, scores = rows.split((4, CLASSES), 2)
        boxes = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], 2)
        index = scores.amax(2).topk(self.most)[1].unsqueeze(2)
        boxes, scores = boxes.gather(1, index.repeat(1, 1, 4)), scores.gather(1, index.repeat(1, 1, CLASSES))
        best, index = scores.flatten(1).topk(self.most)
        picture = torch.arange(x.shape[0])[:, None]
        return torch.cat([boxes[picture, index // CLASSES], best[..., None], (index % CLASSES)[..., None].float()], 2)


def sound(module: nn.Module, spread: float = 1.5, seed: int = 0) -> nn.Module:
    """Weights that keep the variance of what passes, last convolutions wide enough that some boxes stand out."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                layer.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
                layer.weight.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan = layer.weight[0].numel()
            with torch.no_grad():
                layer.weight.normal_(0, spread / fan**0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.3, generator=generator)
    return module.eval()
