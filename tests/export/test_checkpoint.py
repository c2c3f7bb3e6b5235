from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dkcam.errors import CheckpointError
from dkcam.export.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import LABELS, tiny_checkpoint, tiny_model
from tests.memory import limited, one_line


def same_scores(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return torch.allclose(first(x), second(x), atol=1e-6)


def test_own_format_comes_back(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(grid=(2, 2))
    save_checkpoint(tmp_path / "m.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "m.pt")
    assert (loaded.config, loaded.labels, loaded.size) == (checkpoint.config, LABELS, (64, 64))
    assert same_scores(loaded.module(), checkpoint.module())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_bare_state_dicts_load(tmp_path: Path, prefix: str) -> None:
    model = tiny_model("plain")
    torch.save({"state_dict": {prefix + k: v for k, v in model.state_dict().items()}}, tmp_path / "m.pth")
    loaded = load_checkpoint(tmp_path / "m.pth", variant="dropout", labels=LABELS, size=(64, 96))
    assert (loaded.config.variant, loaded.config.width, loaded.size) == ("dropout", 0.125, (64, 96))
    assert same_scores(loaded.module(), model)


def test_safetensors_load(tmp_path: Path) -> None:
    model = tiny_model("plain")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "m.safetensors")
    assert same_scores(load_checkpoint(tmp_path / "m.safetensors").module(), model)


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_pickled_code_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    trap, file = tmp_path / "ran", tmp_path / "m.pt"
    if how == "torch":
        torch.save({"state_dict": Malicious(trap)}, file)
    else:
        file.write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(CheckpointError):
        load_checkpoint(file)
    assert not trap.exists()


def test_whole_modules_are_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(tiny_model(), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"pickled code.*torch.save\(model.state_dict\(\)"):
        load_checkpoint(tmp_path / "m.pt")


def test_wrong_shapes_name_the_key_and_both_shapes(tmp_path: Path) -> None:
    state = tiny_model("plain").state_dict()
    state["layer2.0.conv1.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"layer2.0.conv1.weight has shape \[3, 3\], expected \[16, 32, 1, 1\]"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.pt", None, "does not exist"),
        ("m.pt", b"", "is empty"),
        ("m.pt", b"hello, this is text", "is a text file, expected a checkpoint"),
        ("m.safetensors", b"\x40\0\0\0\0\0\0\0{", "not a whole safetensors file"),
    ],
)
def test_bad_files_say_what_they_are(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path / name)


def test_truncated_checkpoints_are_refused(checkpoint_file: Path) -> None:
    checkpoint_file.write_bytes(checkpoint_file.read_bytes()[:40_000])
    with pytest.raises(CheckpointError, match="truncated or not a torch checkpoint"):
        load_checkpoint(checkpoint_file)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    torch.save({"backbone.0.weight": torch.zeros(2)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"not a ResNet-50: conv1.weight is missing"):
        load_checkpoint(tmp_path / "m.pt")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = tiny_model("plain").state_dict()
    state["layer3.1.conv2.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"layer3.1.conv2.weight holds values that are not finite"):
        load_checkpoint(tmp_path / "m.pt")


def test_labels_must_fit(checkpoint_file: Path) -> None:
    with pytest.raises(CheckpointError, match="5 classes, the labels file has 2"):
        load_checkpoint(checkpoint_file, labels=("a", "b"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("labels", "abcde", "labels is 'abcde', expected a list"),
        ("labels", None, "labels is None"),
        ("size", [64], "not enough values"),
        ("size", [64, 65], "width is 65, expected a multiple of 32"),
        ("mean", [0.5], "mean is .*, expected three numbers"),
        ("std", [0.0, 1.0, 1.0], "std is .*, expected three numbers above 0"),
        ("std", [float("nan"), 1.0, 1.0], "std is .*, expected three numbers above 0"),
        ("resize", "foo", "resize is 'foo', expected one of stretch"),
        ("weights", None, "weights is a NoneType"),
        ("weights", {"conv1.weight": 3}, "expected names with tensors"),
        ("config", {"classes": 5.0, "variant": "plain", "width": 0.125, "mask_ratio": 0.3}, "classes is 5.0"),
        ("config", [], "damaged description"),
    ],
)
def test_a_damaged_description_is_named(checkpoint_file: Path, name: str, value: object, words: str) -> None:
    document = torch.load(checkpoint_file, weights_only=True)
    torch.save({**document, name: value}, checkpoint_file)
    with pytest.raises(CheckpointError, match=rf"damaged description: .*{words}|{words}"):
        load_checkpoint(checkpoint_file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.to_sparse(), "expected a plain one of floating-point numbers"),
        (lambda t: t.to(torch.complex64), "expected a plain one"),
        (lambda t: t.to(torch.int32), "expected a plain one"),
        (lambda t: t.to("meta"), "without data"),
    ],
)
def test_tensors_of_another_kind_are_refused(tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], words: str) -> None:
    state = tiny_model("plain").state_dict()
    state["fc.bias"] = change(state["fc.bias"])
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"fc.bias is a tensor .*{words}"):
        load_checkpoint(tmp_path / "m.pt")


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    state = tiny_model("plain").state_dict()
    state["bn1.running_var"][0] = -1
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"bn1.running_var holds a variance below 0"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("labels", ["not JSON", "[1, 2, 3, 4, 5]", '["a"]', '"abcde"', "[" * 100_000])
def test_damaged_labels_in_safetensors_metadata(tmp_path: Path, labels: str) -> None:
    save_file(tiny_model("plain").state_dict(), tmp_path / "m.safetensors", {"labels": labels})
    with pytest.raises(CheckpointError, match=r"its metadata's labels are damaged .*--labels FILE"):
        load_checkpoint(tmp_path / "m.safetensors")


LOAD = """
from pathlib import Path
from dkcam.export.checkpoint import load_checkpoint
from dkcam.tools.cli import user_errors
user_errors(load_checkpoint)(Path(sys.argv[1])).module()
"""


@pytest.mark.parametrize(
    ("new", "rows", "words"), [(True, 40_000_000, "fc.weight is [40000000, 256], 38.1 GiB"), (False, 100_000, "fc.weight is [100000, 256]")]
)
def test_a_number_expanded_to_gigabytes_is_refused_before_they_are_asked_for(tmp_path: Path, new: bool, rows: int, words: str) -> None:
    state = tiny_model("plain").state_dict()
    state["fc.weight"] = torch.zeros(1).expand(rows, 256)
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    assert (tmp_path / "m.pt").stat().st_size < 2_000_000
    done = limited(LOAD, tmp_path / "m.pt", mib=2048)
    assert one_line(done, "m.pt", words, "an expanded view; save its clone()"), done.stderr[-2000:]


def test_views_of_one_storage_are_refused(tmp_path: Path) -> None:
    """Each of them is in the file, all of them together are not."""
    state = tiny_model("plain").state_dict()
    whole = torch.zeros(max(value.numel() for value in state.values()))
    torch.save({name: whole[: v.numel()].view(v.shape) if v.is_floating_point() else v for name, v in state.items()}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"m.pt: its tensors are [\d.]+ MiB in a file of [\d.]+ MiB: views of one another"):
        load_checkpoint(tmp_path / "m.pt")


def test_an_own_checkpoint_that_describes_a_giant_is_refused_before_it_is_built(tmp_path: Path) -> None:
    document = torch.load(_own(tmp_path), weights_only=True)
    document["config"]["classes"], document["labels"] = 10**5, ["x"] * 10**5
    document["config"]["width"] = 4.0
    torch.save(document, tmp_path / "m.pt")
    done = limited(LOAD, tmp_path / "m.pt", mib=2048)  # its last layer alone would take 3.3 GB
    assert one_line(done, "m.pt", "conv1.weight has shape"), done.stderr[-2000:]


def _own(folder: Path) -> Path:
    save_checkpoint(folder / "m.pt", tiny_checkpoint())
    return folder / "m.pt"


def test_a_zip_that_unfolds_is_refused(tmp_path: Path) -> None:
    """torch would unpack it: 1 MB to 1 GB."""
    path = _own(tmp_path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
        new.writestr("archive/data/999", bytes(300 << 20))
    done = limited(LOAD, tmp_path / "bomb.pt", mib=2048)
    assert one_line(done, "bomb.pt", "would unfold to 3", "save it again"), done.stderr[-2000:]


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "data",
    [
        safetensors(b"[" * 100_000),
        safetensors(b'{"a":' * 50_000),
        safetensors(b'{"__metadata__": ' + b"[" * 50_000),
        safetensors(b"[1, 2]"),
        safetensors(b'{"__metadata__": [1]}'),
        safetensors(b'{"a": {"dtype": "F32", "shape": [4611686018427387904, 16], "data_offsets": [0, 0]}}'),
        safetensors(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 0]}}'),
        safetensors(b'{"x": [' + b"[]," * 2_000_000 + b"[]]}"),
        (1 << 62).to_bytes(8, "little") + b"{}",
    ],
)
def test_safetensors_headers_that_someone_made_to_hurt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"m.safetensors (is not a whole safetensors file|holds no state dict)") as caught:
        load_checkpoint(tmp_path / "m.safetensors")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("shape", [(0, 256), (2**21, 1)])
def test_a_layer_of_no_or_too_many_classes_is_named(tmp_path: Path, shape: tuple[int, int]) -> None:
    state = tiny_model("plain").state_dict()
    state["fc.weight"] = torch.zeros(shape)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"fc.weight has shape .* expected 1 to 1048576 classes"):
        load_checkpoint(tmp_path / "m.pt")
