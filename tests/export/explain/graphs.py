"""Small networks as graphs of known shapes, for tests."""

from __future__ import annotations

import io
import warnings

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from torch import nn


def graph_of(module: nn.Module, height: int = 64, width: int = 96, batch: int = 1) -> ir.Model:
    """A module through torch's older exporter, every shape inferred."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0)),),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            output_names=["scores"],
        )
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_from_string(buffer.getvalue()), data_prop=True))
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


class Convolutional(nn.Module):
    """Two stages of convolution and ReLU; ``end``: what makes scores of their maps."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.end = end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage1(x)
        return self.end(self.stage2(x + 0.5 * x.sigmoid()))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Patches of 16 pixels, a class token and register tokens, blocks with the norm first."""

    def __init__(self, registers: int = 0, mean: bool = False) -> None:
        super().__init__()
        self.skip, self.mean = (0 if mean else 1) + registers, mean
        self.patches = nn.Conv2d(3, 16, 16, 16)
        self.first = nn.Parameter(torch.randn(1, self.skip, 16))
        self.blocks = nn.ModuleList([Block() for _ in range(3)])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.skip:
            x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x.mean(1) if self.mean else x[:, 0])  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]
