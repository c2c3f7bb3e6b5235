from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from dkcam import files
from dkcam.engines import cache as caches
from dkcam.engines import open_engine
from dkcam.errors import EngineError, InputError, ModelFileError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from tests.conftest import tiny_checkpoint

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


def refused(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "an entry of the cache" in record.getMessage()]


@pytest.mark.parametrize("damage", ["zeroed", "another model's", "bare", "cut", "empty", "a flipped bit"])
def test_what_the_cache_holds_is_looked_at(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Else 4 KiB of zeros among the weights, or another model's, run without a word and answer wrongly."""
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "cache"))
    expected = open_engine(model_file).run(IMAGE, TOP)
    (kept,) = (tmp_path / "cache").iterdir()
    good = kept.read_bytes()
    if damage == "zeroed":
        middle = len(good) // 2
        kept.write_bytes(good[:middle] + bytes(4096) + good[middle + 4096 :])
    elif damage == "another model's":
        other = tmp_path / "other.onnx"
        other.write_bytes(export(tiny_checkpoint(seed=1), ExportOptions(size=(64, 96)), check=False).data)
        open_engine(other)
        (entry,) = set((tmp_path / "cache").iterdir()) - {kept}
        kept.write_bytes(entry.read_bytes())
    elif damage == "bare":
        kept.write_bytes(model_file.read_bytes())
    elif damage == "a flipped bit":
        kept.write_bytes(good[:-100] + bytes([good[-100] ^ 1]) + good[-99:])
    else:
        kept.write_bytes(good[:-1] if damage == "cut" else b"")
    again = open_engine(model_file)
    for name, value in again.run(IMAGE, TOP).items():
        np.testing.assert_array_equal(value, expected[name])
    (message,) = refused(caplog)
    assert kept.name in message and "deleted and made anew" in message and str(model_file) not in message
    assert kept.read_bytes() == good
    open_engine(model_file)
    assert len(refused(caplog)) == 1


def test_an_entry_without_a_description_blames_itself(
    model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path))
    first = open_engine(model_file)
    (kept,) = tmp_path.iterdir()
    bare = onnx.load(model_file)
    del bare.metadata_props[:]
    caches.Entry(kept, f"{first.sha256} {kept.stem[33:]}").write(bare.SerializeToString())
    assert open_engine(model_file).spec == first.spec
    assert refused(caplog) == [f"{kept}, an entry of the cache, is deleted and made anew: it lacks dkcam.spec"]


def test_a_foreign_model_blames_itself_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(ModelFileError, match=r"other.onnx is an ONNX file without dkcam.spec"):
            open_engine(foreign(tmp_path / "other.onnx"))
    assert not refused(caplog)


def test_entries_are_the_users_alone(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "a" / "cache"))
    before = os.umask(0)
    try:
        open_engine(model_file)
    finally:
        os.umask(before)
    (kept,) = (tmp_path / "a" / "cache").iterdir()
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a", kept.parent, kept)] == [0o700, 0o700, 0o600]


def test_eight_processes_share_one_cache(model_file: Path, tmp_path: Path) -> None:
    """All begin at once, in turn with one that damages what it finds; none fails, all say the same."""
    code = """
import sys, hashlib, numpy as np
from pathlib import Path
from dkcam.engines import open_engine
print("ready", flush=True); sys.stdin.readline()
said = set()
for turn in range(6):
    if sys.argv[2] == "1":
        for kept in Path(sys.argv[3]).glob("*.graph"):
            try: kept.write_bytes(b"damaged")
            except OSError: pass
    found = open_engine(sys.argv[1]).run(np.zeros((1, 64, 96, 3), np.uint8), np.array([-1]))
    said.add(hashlib.sha256(b"".join(found[name].tobytes() for name in sorted(found))).hexdigest())
print(*said)
"""
    cache = tmp_path / "cache"
    words = [[sys.executable, "-c", code, str(model_file), str(int(k == 0)), str(cache)] for k in range(8)]
    own = {**os.environ, "DKCAM_CACHE": str(cache)}
    several = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=own) for each in words]
    for each in several:
        assert each.stdout is not None and each.stdout.readline() == b"ready\n"
    done = [each.communicate(b"go\n") for each in several]
    assert len({out for out, _ in done}) == 1 and len(done[0][0].split()) == 1, done
    assert not any(each.returncode for each in several)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


def test_a_clock_that_goes_back_does_not_empty_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of before the jump look newest for ever; without a rule each new one would push the last new one out."""
    monkeypatch.setattr(caches, "KEPT", 4)
    now = time.time()
    for k in range(4):
        entry = caches.Entry(tmp_path / f"old{k}.graph", "key")
        entry.write(b"x")
        os.utime(entry.path, (now + 1e8, now + 1e8))
    for k in range(4):
        caches.Entry(tmp_path / f"new{k}.graph", "key").write(b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"new{k}.graph" for k in range(4)]


def test_only_entries_are_cleared_away(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$DKCAM_CACHE may be a folder that holds models of the user's."""
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path))
    monkeypatch.setattr(caches, "KEPT", 1)
    mine = [tmp_path / f"{k}.onnx" for k in range(3)]
    for path in mine:
        path.write_text("mine")
    open_engine(model_file)
    assert all(path.read_text() == "mine" for path in mine)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="needs POSIX paths")
def test_a_cache_that_cannot_be_written_is_done_without(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "file" / "below"))
    assert open_engine(model_file).run(IMAGE, TOP)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_cache_on_a_full_disk_is_done_without(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path))

    def full(path: Path, suffix: str, private: bool) -> tuple[Path, None]:
        temporary = path.with_name(".full")
        temporary.symlink_to("/dev/full")
        return temporary, None

    monkeypatch.setattr(files, "_held", full)
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
    entry.value = json.dumps({**json.loads(entry.value), "token_stride": 32, name: value})
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
