"""``dkcam.export_model``, as a user's own script calls it."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import run

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import dkcam
from dkcam.errors import ExportError, ParityError
from tests.export.explain.graphs import Transformer
from tests.export.test_network_export import by_module
from tests.marks import some

SIZE = (64, 96)


class Signs(nn.Module):
    """A small classifier whose parts have names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()) for _ in range(2)])
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.drop(x.mean((2, 3))))  # type: ignore[no-any-return]


def signs() -> Signs:
    torch.manual_seed(0)
    return Signs().train()


@pytest.mark.parametrize("part", some([None, "blocks.0", 0], [0]))
def test_a_module_is_written_verified_and_runs(tmp_path: Path, part: str | int | None) -> None:
    module = signs()
    layer = module.blocks[part] if isinstance(part, int) else part
    path = tmp_path / "model.onnx"
    exported = dkcam.export_model(module, path, size=SIZE, labels=["stop", "yield", "none"], layer=layer)
    assert module.training and exported.spec.provenance.verified and exported.parity is not None
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    said = dkcam.load(path, device="cpu", explain=(0, 2))(image)
    assert said.labels == ("stop", "yield", "none")
    module.eval()
    at = module.blocks[1 if part is None else 0]
    for k, number in enumerate((0, 2)):
        heat, logits = by_module(module, at, image[None, ..., ::-1].copy(), lambda y, c=number: y[0, c])
        assert np.abs(said.heatmap[k] - heat.numpy()[0]).max() <= 1e-4 * float(heat.max())
        np.testing.assert_allclose(said.probabilities, logits.softmax(1).numpy()[0], atol=1e-5)


def test_a_transformer_is_explained_at_a_block(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Transformer().eval()
    exported = dkcam.export_model(module, tmp_path / "model.onnx", size=SIZE, layer=module.blocks[-2], mean=(0.5,) * 3, std=(0.5,) * 3)
    assert exported.spec.explanation.map_sizes == ((4, 6),) and exported.spec.input.mean == (0.5, 0.5, 0.5)
    with pytest.raises(ParityError, match=r"zero everywhere.*only the class token"):
        dkcam.export_model(module, tmp_path / "model.onnx", size=SIZE, layer=module.blocks[-1])


def test_what_cannot_be_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    path, module = tmp_path / "model.onnx", signs()
    with pytest.raises(ExportError, match="this Linear is not part of the network"):
        dkcam.export_model(module, path, size=SIZE, layer=nn.Linear(1, 1))
    with pytest.raises(ExportError, match=r"is a str, expected a torch\.nn\.Module"):
        dkcam.export_model("signs.onnx", path, size=SIZE)
    with pytest.raises(ExportError, match="int8 needs pictures"):
        dkcam.export_model(module, path, size=SIZE, precision="int8")
    with pytest.raises(ExportError, match="2 labels"):
        dkcam.export_model(module, path, size=SIZE, labels=["stop", "yield"])
    with pytest.raises(ExportError, match=r"size 96: expected \(height, width\)"):
        dkcam.export_model(module, path, size=96)
    with pytest.raises(ExportError, match=r"labels is the text 'names\.txt'; expected a list"):
        dkcam.export_model(module, path, size=SIZE, labels="names.txt")
    assert not path.exists()
    path.write_bytes(b"the user's own network")
    with pytest.raises(ExportError, match="was not written by dkcam"):
        dkcam.export_model(module, path, size=SIZE)
    assert path.read_bytes() == b"the user's own network"


def test_a_module_for_grey_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    exported = dkcam.export_model(module, tmp_path / "model.onnx", size=SIZE, channels="gray", mean=(0.5,), std=(0.5,))
    assert exported.spec.provenance.verified and exported.spec.input.channels == "gray"
    assert "data=" not in repr(exported)


class Named(nn.Module):
    """Returns a dict, one of whose keys is an output's fixed name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x).relu()
        return {"parts": x, "logits": self.fc(x.mean((2, 3)))}


def test_the_keys_of_a_dict_name_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=r"parts 1x8x16x24, logits 1x3; name one with outputs, and its task$"):
        dkcam.export_model(Named(), tmp_path / "model.onnx", size=SIZE)
    for asked in (["logits"], ["network.logits", "probabilities", "explained", "heatmap"]):
        exported = dkcam.export_model(Named(), tmp_path / "model.onnx", size=SIZE, outputs=asked, labels=["a", "b", "c"])
        assert exported.spec.task == "classify" and "heatmap" in exported.spec.explanation.outputs
        explainer = dkcam.load(tmp_path / "model.onnx", device="cpu")
        assert explainer(np.zeros((*SIZE, 3), np.uint8)).heatmap.shape == (1, 16, 24)
        names = [output.name for output in onnx.load(tmp_path / "model.onnx").graph.output]
        assert "network.logits" in names and "parts" not in names


def test_layers_are_listed_and_each_works(tmp_path: Path) -> None:
    listed = dkcam.list_layers(signs(), size=SIZE)
    assert [one.name for one in listed if one.default] == ["blocks.1.1"]
    assert {one.map for one in listed} == {(32, 48), (16, 24), (8, 12)}
    for one in listed:
        exported = dkcam.export_model(signs(), tmp_path / "model.onnx", size=SIZE, layer=one.name, verify=False)
        assert exported.spec.explanation.map_sizes == (one.map,)


def test_messages_speak_of_arguments(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"^layer nothing: .*; dkcam\.list_layers shows all$"):
        dkcam.export_model(signs(), path, size=SIZE, layer="nothing")
    with pytest.raises(ExportError, match=r"to have 3 channels, but got 1.*or with channels gray \[B, 1, H, W\]$"):
        dkcam.export_model(signs(), path, size=SIZE, channels="gray")
    notes = dkcam.export_model(signs(), path, size=SIZE, verify=False).notes
    assert notes[0].endswith("say mean, std and scale") and "--" not in "".join(notes)


def test_the_package_alone_imports_no_torch() -> None:
    code = "import sys, dkcam; assert 'torch' not in sys.modules; assert 'export_model' in dir(dkcam)"
    assert run([sys.executable, "-c", code]).returncode == 0
