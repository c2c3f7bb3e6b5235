"""Small networks of every kind that a pass may meet, as torch writes them to ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass, LiftConstantsToInitializersPass, ShapeInferencePass
from torch import Tensor, nn
from torch.nn import functional

Outputs = dict[str, NDArray[np.float32]]
SIZE = 32
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def conv(source: int, to: int, kernel: int = 3, act: Callable[[], nn.Module] | None = nn.ReLU, **options: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Conv2d(source, to, kernel, padding=kernel // 2, bias=False, **options), nn.BatchNorm2d(to)]
    return nn.Sequential(*parts, *([act()] if act else []))


class Head(nn.Module):
    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = conv(channels, channels), conv(channels, channels, act=None)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class Squeezed(nn.Module):
    """An inverted residual with squeeze and excitation: depthwise, SiLU or Hardswish."""

    def __init__(self, channels: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        wide = 2 * channels
        self.up, self.deep = conv(channels, wide, 1, act), conv(wide, wide, 3, act, groups=wide)
        self.less, self.more = nn.Conv2d(wide, 8, 1), nn.Conv2d(8, wide, 1)
        self.down = conv(wide, channels, 1, None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(self.up(x))
        return x + self.down(y * torch.sigmoid(self.more(functional.relu(self.less(y.mean((2, 3), keepdim=True))))))


class Tokens(nn.Module):
    """A block of a vision transformer on a grid of patches."""

    def __init__(self, channels: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.patches, self.heads = nn.Conv2d(3, channels, 4, 4), heads
        self.norm, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.last = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
        x = x + self.proj((attention @ v).transpose(1, 2).reshape(b, t, c))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.fc(self.last(x).mean(1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.low = conv(3, 16), conv(16, 32)
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 16, 2, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.right, self.last = conv(32, 16), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        low = self.low(functional.max_pool2d(left, 2))
        wide = functional.interpolate(functional.avg_pool2d(low, 2), scale_factor=2.0, mode="bilinear")
        return self.last(self.right(torch.cat([left, self.up(low + wide)], 1)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(conv(3, 16), nn.MaxPool2d(3, 2, 1), conv(16, 32, stride=2), conv(32, 32), Head(32)),
    "residual": lambda: nn.Sequential(conv(3, 16, stride=2), nn.MaxPool2d(2), Residual(16), Residual(16), Head(16)),
    "silu": lambda: nn.Sequential(conv(3, 16, act=nn.SiLU, stride=2), Squeezed(16, nn.SiLU), Squeezed(16, nn.SiLU), Head(16)),
    "hardswish": lambda: nn.Sequential(
        conv(3, 16, act=nn.Hardswish, stride=2), Squeezed(16, nn.Hardswish), Squeezed(16, nn.ReLU6), Head(16)
    ),
    "tokens": Tokens,
    "unet": UNet,
}


def sound(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm2d, nn.BatchNorm1d)):
            count = part.num_features
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.copy_(0.2 * torch.randn(count, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(count, generator=generator))
            part.weight.data.copy_(0.7 + 0.6 * torch.rand(count, generator=generator))
            part.bias.data.copy_(0.2 * torch.randn(count, generator=generator))
    return module


@cache
def bytes_of(name: str) -> bytes:
    torch.manual_seed(0)
    return exported(sound(NETWORKS[name]()), torch.zeros(1, 3, SIZE, SIZE))


def exported(module: nn.Module, image: Tensor) -> bytes:
    """The ONNX file of a module, operators as the network has them: torch's exporter merges nothing."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (image,),
            data,
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            output_names=["scores"],
            do_constant_folding=True,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return data.getvalue()


def network(name: str) -> ir.Model:
    """A fresh graph."""
    return opened(bytes_of(name))


def opened(data: bytes) -> ir.Model:
    model = ir.from_proto(onnx.load_from_string(data))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    IdentityEliminationPass()(model)
    ShapeInferencePass()(model)
    return model


def file_of(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString())


def session(model: ir.Model, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(file_of(model), settings, providers=["CPUExecutionProvider"])


def run(model: ir.Model, image: NDArray[np.float32], level: str = "ORT_ENABLE_ALL") -> Outputs:
    opened = session(model, level)
    return dict(zip([output.name for output in opened.get_outputs()], opened.run(None, {"image": image}), strict=True))


def image(seed: int = 0, size: int = SIZE) -> NDArray[np.float32]:
    """Smooth, as pictures are."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(1, 3, size // 4, size // 4)).astype(np.float32))
    fine = functional.interpolate(coarse, (size, size), mode="bicubic").numpy()
    return np.asarray(fine + 0.1 * rng.normal(size=fine.shape), np.float32)
