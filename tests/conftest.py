from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process for each core already
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads do not spin: on a busy machine the suite is twice as fast

import numpy as np
import pytest
import torch
from torch import nn

from dkcam.export.checkpoint import Checkpoint, save_checkpoint
from dkcam.export.exporter import export
from dkcam.export.model import ModelConfig, ResNet
from dkcam.export.options import ExportOptions

LABELS = ("no sign", "stop", "yield", "warning", "no entry")
DATA = Path(os.environ.get("DKCAM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores, since a quarter of the time tests wait for cameras; at most four: each takes up to 2 GB."""
    return min(4, 1 + (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def data() -> Path:
    if not DATA.is_dir():
        pytest.skip(f"real road pictures are not at {DATA} (set DKCAM_DATA)")
    return DATA


def tiny_model(variant: str = "dropkey", grid: tuple[int, int] | None = None, seed: int = 0) -> ResNet:
    """A width-1/8 model whose batch-norms are not the identity."""
    torch.manual_seed(seed)
    model = ResNet(ModelConfig(len(LABELS), variant, 0.125, grid)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model


def tiny_checkpoint(variant: str = "dropkey", grid: tuple[int, int] | None = None, seed: int = 0) -> Checkpoint:
    model = tiny_model(variant, grid, seed)
    return Checkpoint(model.config, model.state_dict(), LABELS, size=(64, 64))


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny exported model: 64×96, dropkey."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96)), check=False).data)
    return path


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_checkpoint(path, tiny_checkpoint())
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small H.264 video: clip(frames, height, width)."""

    def write(frames: int = 12, height: int = 48, width: int = 80, name: str = "clip.mp4") -> Path:
        import av

        path = tmp_path / name
        with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            rng = np.random.default_rng(0)
            for _ in range(frames):
                picture = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
            container.mux(stream.encode())
        return path

    return write
