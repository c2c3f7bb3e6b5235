from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dkcam.errors import ExportError
from dkcam.export.explain.names import path_of
from dkcam.export.networks.torch_module import from_callable, path_in, to_onnx


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_module_becomes_its_graph_and_stays_as_it_was() -> None:
    torch.manual_seed(0)
    module = Small()
    module.train()
    module.body[0].eval()
    proto = to_onnx(module, (32, 48))
    assert module.training and module.head.training and not module.body[0].training
    picture = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
    (said,) = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"image": picture})
    with torch.no_grad():
        assert np.allclose(said, module.eval()(torch.from_numpy(picture)).numpy(), atol=1e-5)


def test_nodes_know_their_module() -> None:
    paths = {path_of(node) for node in ir.from_proto(to_onnx(Small(), (32, 48))).graph}
    assert "body.2" in paths and "head" in paths


@pytest.mark.parametrize(
    ("name", "path"),
    [("/layer4/layer4.2/conv1/Conv", "layer4.2.conv1"), ("/Add_3", ""), ("Conv_7", ""), ("/blocks.0/attn/qkv/MatMul", "blocks.0.attn.qkv")],
)
def test_paths_in_the_names_of_the_older_exporter(name: str, path: str) -> None:
    node = ir.node("Relu", [ir.Value(name="x")], name=name)
    assert path_of(node) == path


def test_a_list_of_scopes_that_is_no_list_is_no_path() -> None:
    node = ir.node("Relu", [ir.Value(name="x")], name="n", metadata_props={"pkg.torch.onnx.name_scopes": "__import__('os')"})
    assert path_of(node) == ""


def test_a_module_that_takes_no_picture_is_one_line() -> None:
    with pytest.raises(ExportError, match=r"the module does not take a picture \(1, 3, 32, 32\), .*RuntimeError") as caught:
        to_onnx(nn.Linear(7, 2), (32, 32))
    assert "\n" not in str(caught.value)


def test_a_part_is_found_by_its_path() -> None:
    module = Small()
    assert path_in(module, module.body[2]) == "body.2"
    with pytest.raises(ExportError, match="this ReLU is not part of the network"):
        path_in(module, nn.ReLU())


@pytest.fixture()
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\n\ndef small():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n\ndef no_network():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


def test_a_function_of_the_current_folder(package: Path) -> None:
    wanted = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    save_file(wanted.state_dict(), package / "w.safetensors")
    torch.save({"state_dict": wanted.state_dict()}, package / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        found = from_callable("my_networks:small", package / name)
        assert torch.equal(found.state_dict()["0.weight"], wanted.state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:small", "No module named 'nowhere'"),
        ("my_networks:large", "has no attribute 'large'"),
        ("my_networks:", "expected package.module:callable"),
        ("my_networks:no_network", "gives a int; expected a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(package: Path, name: str, said: str) -> None:
    with pytest.raises(ExportError, match=said):
        from_callable(name, None)


def test_weights_of_another_network_are_refused(package: Path) -> None:
    save_file({"0.weight": torch.zeros(4, 3, 5, 5), "0.bias": torch.zeros(4)}, package / "shape.safetensors")
    with pytest.raises(ExportError, match=r"0.weight is \(4, 3, 5, 5\), expected \(4, 3, 3, 3\)"):
        from_callable("my_networks:small", package / "shape.safetensors")
    save_file({"1.weight": torch.zeros(1)}, package / "names.safetensors")
    with pytest.raises(ExportError, match=r"2 names missing and 1 unknown .*no '0.weight'"):
        from_callable("my_networks:small", package / "names.safetensors")


def test_the_graph_is_checked_onnx() -> None:
    onnx.checker.check_model(to_onnx(Small(), (32, 48)), full_check=True)
