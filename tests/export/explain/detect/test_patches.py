"""The gradient of every cell's score on its window, against autograd over the whole map in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dkcam.export.checking.interpreter import evaluate
from dkcam.export.explain.detect import patches
from dkcam.export.explain.detect.heads import head_of
from dkcam.export.explain.detect.heat import sums
from dkcam.export.explain.detect.patches import Cells, gradients
from dkcam.export.writer import Writer
from tests.export.explain.detect.networks import block, sound
from tests.export.explain.detect.running import finished, run, traced

Array = NDArray[Any]


class Around(nn.Module):
    """A head between a first layer and boxes that read the same map."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.first, self.head, self.boxes = block(3, 8), head, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        return self.head(x), self.boxes(x)


class Residual(nn.Module):
    """Two ways that see windows of different width, and one that sees a single cell."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.last = block(8, 8, 5), block(8, 8, 1), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.wide(x) + x * self.narrow(x).tanh())


class Joined(nn.Module):
    """Channels split, moved through different windows and joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.last = block(3, 4), nn.Conv2d(5, 4, (1, 5), 1, (0, 2)), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split((3, 5), 1)
        return self.last(torch.cat([self.left(a), nn.functional.leaky_relu(self.right(b)), x[:, 2:6]], 1))


def convolution(inner: int, outer: int, kernel: int | tuple[int, int], padding: int | tuple[int, int] = 0, **more: int) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, kernel, padding=padding, **more)


HEADS = {
    "point": lambda: nn.Conv2d(8, 3, 1),
    "one": lambda: convolution(8, 3, 3, 1),
    "silu": lambda: nn.Sequential(block(8, 6), block(6, 6), nn.Conv2d(6, 3, 1)),
    "relu": lambda: nn.Sequential(block(8, 6, act=nn.ReLU), block(6, 6, act=nn.ReLU), convolution(6, 3, 3, 1)),
    "depthwise": lambda: nn.Sequential(block(8, 8, groups=8), block(8, 6, 1), block(6, 6, groups=6), nn.Conv2d(6, 3, 1)),
    "grouped": lambda: nn.Sequential(block(8, 6, groups=2), nn.Hardswish(), convolution(6, 3, 3, 1, groups=3)),
    "multiplied": lambda: nn.Sequential(convolution(8, 16, 3, 1, groups=8), nn.SiLU(), nn.Conv2d(16, 3, 1)),
    "dilated": lambda: nn.Sequential(convolution(8, 6, 3, 2, dilation=2), nn.SiLU(), convolution(6, 3, 3, 2, dilation=2)),
    "even": lambda: nn.Sequential(convolution(8, 6, (2, 4), (1, 1)), nn.ELU(), convolution(6, 3, (4, 2), 1)),
    "cut": lambda: nn.Sequential(convolution(8, 6, 3), nn.SiLU(), convolution(6, 3, 3, 1)),
    "norm": lambda: nn.Sequential(nn.Conv2d(8, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.PReLU(6), convolution(6, 3, 3, 1)),
    "residual": Residual,
    "joined": Joined,
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("anew", [False, True], ids=["gathered", "anew"])
def test_a_window_holds_the_whole_gradient(kind: str, batch: int, anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "anew", lambda head, wanted: anew)
    torch.manual_seed(0)
    network = traced(sound(Around(HEADS[kind]())), (6, 7), ["scores", "boxes"], batch)
    graph, scores = network.graph, network.outputs[0]
    head = head_of(graph, [scores], False)
    assert head is not None and head.windows is not None
    assert head.features.producer().op_type == "Mul" and head.features.shape == ir.Shape([batch, 8, 6, 7])  # type: ignore[union-attr]
    window = head.windows[head.features]
    rows, columns = (int(d) for d in scores.shape[2:])  # type: ignore[index]
    y, x, picture = (one.ravel() for one in np.meshgrid(np.arange(rows), np.arange(columns), np.arange(batch), indexing="ij"))
    channel = np.arange(y.size) % 3
    weight = np.linspace(0.5, 2, y.size)

    writer = Writer(graph, 18)
    numbers = [writer.constant(one, np.int64) for one in (y, x, picture)]
    cells = Cells(numbers[0], numbers[1], numbers[2] if batch > 1 else None, (rows, columns))
    seed = ir.Value(name="seed", shape=ir.Shape([y.size, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(seed)
    _, found = gradients(writer, head, cells, {scores: seed})
    total = sums(writer, head, cells, {scores: seed})
    values = {"found": found[head.features], "total": total, "raw": scores}
    proto = finished(network.model, values)
    image = torch.rand(batch, 3, 6, 7, generator=torch.Generator().manual_seed(1)).numpy()
    feed = {"image": image, "seed": (np.eye(3)[channel] * weight[:, None]).astype(np.float32)}

    double = {name: value.numpy() for name, value in evaluate(proto, feed, list(values)).items()}
    expected = reference(proto, image, head.features.name or "", channel, y, x, picture, weight.astype(np.float32))
    placed = np.zeros_like(expected)
    for n in range(y.size):
        for i in range(window.size[0]):
            for j in range(window.size[1]):
                at = y[n] + window.top + i, x[n] + window.left + j
                if 0 <= at[0] < 6 and 0 <= at[1] < 7:
                    placed[n, :, at[0], at[1]] = double["found"][n, :, i, j]
                else:
                    assert not double["found"][n, :, i, j].any()
    scale = np.abs(expected).max()
    assert scale > 1e-3
    exact = 2e-7 if kind == "grouped" else 1e-9  # the slope of HardSwish, 1/6, has no exact float32
    assert np.abs(placed - expected).max() <= exact * scale
    assert np.abs(double["total"] - expected.sum((2, 3))).max() <= exact * np.abs(expected).sum((1, 2, 3)).max()
    for level in (0, 1, 2, 99):
        single = run(proto, feed, level)
        assert np.abs(single["found"] - double["found"]).max() <= 1e-5 * scale
        assert np.abs(single["total"] - double["total"]).max() <= 1e-5 * np.abs(double["total"]).max()


def reference(
    proto: onnx.ModelProto, image: Array, features: str, channel: Array, y: Array, x: Array, picture: Array, weight: Array
) -> Array:
    """d (weight · score) / d features for each cell, [N, C, h, w] of the cell's own picture."""
    values = evaluate(proto, {"image": image}, [features, "raw"], leaves=[features])
    found = []
    for n in range(len(y)):
        scalar = values["raw"][picture[n], channel[n], y[n], x[n]] * float(weight[n])
        (gradient,) = torch.autograd.grad(scalar, values[features], retain_graph=True)
        others = [b for b in range(len(gradient)) if b != picture[n]]
        assert not gradient[others].any()
        found.append(gradient[picture[n]].numpy())
    return np.stack(found)
