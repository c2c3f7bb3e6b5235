"""The plain variant against an independent implementation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam

from dkcam.engines import open_bytes
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from tests.conftest import tiny_checkpoint


def check(pictures: np.ndarray, layer: str) -> None:
    checkpoint = tiny_checkpoint("plain")
    exported = export(checkpoint, ExportOptions(size=pictures.shape[1:3], layer=layer, dynamic=("batch",), batch=(1, 8)), check=False)
    given = open_bytes(exported.data, "test").run(pictures, np.arange(5))["heatmap"]
    model = checkpoint.module()
    mean, std = (torch.tensor(v)[:, None, None] for v in (checkpoint.mean, checkpoint.std))
    x = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    cam = LayerGradCam(model, model.get_submodule(layer))
    expected = np.stack([cam.attribute(x, target=k, relu_attributions=True)[:, 0].detach().numpy() for k in range(5)], 1)
    assert expected.max() > 0
    assert np.abs(given / given.max() - expected / expected.max()).max() <= 1e-4


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
def test_plain_equals_captum(layer: str) -> None:
    check(np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8), layer)


def test_plain_equals_captum_on_real_frames(data: Path) -> None:
    files = sorted((data / "udacity_lanelines" / "stills").glob("*.jpg"))
    check(np.stack([cv2.resize(cv2.imread(str(f)), (160, 96), interpolation=cv2.INTER_AREA)[..., ::-1] for f in files]), "layer4")
