from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dkcam.engines import open_engine
from dkcam.errors import EngineError, InputError, ModelFileError

IMAGE = np.zeros((1, 64, 96, 3), np.uint8)
TOP = np.array([-1])


def test_the_engine_runs_and_names_its_device(model_file: Path) -> None:
    engine = open_engine(model_file)
    found = engine.run(IMAGE, np.array([-1, 2]))
    assert engine.device == "cpu" and found["heatmap"].shape == (1, 2, 2, 3)
    assert found["explained"][0, 0] == found["probabilities"][0].argmax() and found["explained"][0, 1] == 2
    assert found["probabilities"].sum() == pytest.approx(1, abs=1e-6)


def test_ranks_count_from_the_likeliest(model_file: Path) -> None:
    found = open_engine(model_file).run(IMAGE + 90, np.array([-1, -2, -3, -4, -5]))
    assert found["explained"][0].tolist() == np.argsort(-found["probabilities"][0]).tolist()


def test_the_optimised_graph_is_cached_by_hash_and_gives_the_same(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path))
    first = open_engine(model_file)
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1 and kept[0].name.startswith(first.sha256[:32])
    stamp = kept[0].stat().st_mtime_ns
    second = open_engine(model_file)
    assert kept[0].stat().st_mtime_ns == stamp
    for name, value in first.run(IMAGE, TOP).items():
        np.testing.assert_array_equal(value, second.run(IMAGE, TOP)[name])
    assert second.spec == first.spec


def test_a_damaged_cache_is_replaced(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path))
    open_engine(model_file)
    (kept,) = tmp_path.iterdir()
    size = kept.stat().st_size
    kept.write_bytes(b"not a graph")
    open_engine(model_file).run(IMAGE, TOP)
    assert kept.stat().st_size == size


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="needs POSIX paths")
def test_a_cache_that_cannot_be_written_is_done_without(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "file" / "below"))
    assert open_engine(model_file).run(IMAGE, TOP)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_cache_on_a_full_disk_is_done_without(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path))
    touch = Path.touch

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.parent == tmp_path:
            path.symlink_to("/dev/full")
        else:
            touch(path, *args, **kwargs)

    monkeypatch.setattr(Path, "touch", full)
    assert open_engine(model_file).run(IMAGE, TOP)
    assert not list(tmp_path.iterdir())


def test_without_a_home_folder_there_is_no_cache(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DKCAM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert open_engine(model_file).run(IMAGE, TOP)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("labels", ["a", "b"], "logits has shape .*, its dkcam.spec says .*2]"),
        ("height", 96, "image has shape"),
        ("outputs", ["logits", "features"], "lacks features"),
        ("samples", 3, "lacks key_mask"),
    ],
)
def test_a_description_of_another_graph_is_refused(model_file: Path, tmp_path: Path, name: str, value: Any, words: str) -> None:
    model = onnx.load(model_file)
    (entry,) = [entry for entry in model.metadata_props if entry.key == "dkcam.spec"]
    entry.value = json.dumps({**json.loads(entry.value), name: value})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=words):
        open_engine(tmp_path / "m.onnx")


def foreign(path: Path) -> Path:
    node = helper.make_node("Relu", ["x"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(
        helper.make_model(
            helper.make_graph([node], "g", values[:1], values[1:]), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
        ),
        path,
    )
    return path


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="dk-export did not write it"):
        open_engine(foreign(tmp_path / "other.onnx"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "is empty"), (b"just some text", "not a whole ONNX model"), ("half", "not a whole ONNX model")],
)
def test_bad_files_are_refused(model_file: Path, tmp_path: Path, content: bytes | str | None, words: str) -> None:
    path = tmp_path / "model.onnx"
    if content == "half":
        path.write_bytes(model_file.read_bytes()[: model_file.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words):
        open_engine(path)


def test_checkpoints_are_sent_to_the_exporter(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="export it first: dk-export"):
        open_engine(tmp_path / "model.pt")


def test_unknown_devices_are_refused(model_file: Path) -> None:
    with pytest.raises(EngineError, match="device 'tpu' is not available; expected one of auto, tensorrt, cuda, cpu, openvino"):
        open_engine(model_file, "tpu")


@pytest.mark.parametrize(
    ("image", "classes", "words"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), TOP, "32x32 pixels, this graph takes 64x96"),
        (np.zeros((1, 64, 96, 3), np.float32), TOP, "expected uint8"),
        (np.zeros((64, 96, 3), np.uint8), TOP, "expected uint8"),
        (np.zeros((2, 64, 96, 3), np.uint8), TOP, "batch of 2"),
        (IMAGE, np.array([5]), "classes holds 5, expected -5 to 4"),
        (IMAGE, np.array([-6]), "classes holds -6"),
        (IMAGE, np.array([1.0]), "expected int64"),
    ],
)
def test_wrong_inputs_say_what_came_and_what_was_expected(model_file: Path, image: np.ndarray, classes: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_engine(model_file).run(image, classes)
