"""The TensorRT engine's own part: buffers, the order of copies and runs, CUDA graphs. On an emulated GPU; see tests/emulated_gpu.py."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dkcam.engines import open_engine
from dkcam.engines.tensorrt import engine as engine_module
from dkcam.engines.tensorrt.engine import WARM_RUNS
from dkcam.engines.tensorrt.files import _own_hash, sidecar_of
from dkcam.errors import EngineError, InputError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from tests.conftest import tiny_checkpoint
from tests.emulated_gpu import Stream, install

TOP = np.array([-1], np.int64)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    return install(monkeypatch)


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_runs_say_what_the_processor_says(stream: Stream, model_file: Path) -> None:
    engine, expected = open_engine(model_file, "tensorrt"), open_engine(model_file, "cpu")
    assert engine.device == "tensorrt:0" and engine.sha256 == expected.sha256
    kept = []
    for seed in range(WARM_RUNS + 3):  # a fresh picture each time, also through the captured graph
        image = picture(seed, 1, 64, 96, 3)
        given, wanted = engine.run(image, TOP), expected.run(image, TOP)
        for name in wanted:
            np.testing.assert_array_equal(given[name], wanted[name])
        kept.append((given["heatmap"], wanted["heatmap"]))
    assert stream.graphs == 3
    for given, wanted in kept:  # results are the caller's: later runs leave them alone
        np.testing.assert_array_equal(given, wanted)


def test_a_new_shape_gets_new_buffers_and_a_new_graph(stream: Stream, tmp_path: Path) -> None:
    path = tmp_path / "free.onnx"
    options = ExportOptions(size=(64, 96), dynamic=("batch", "size"), batch=(1, 4))
    path.write_bytes(export(tiny_checkpoint(), options, check=False).data)
    engine, expected = open_engine(path, "tensorrt"), open_engine(path, "cpu")
    for shape in ((1, 64, 96, 3), (1, 32, 64, 3), (1, 64, 96, 3)):
        for seed in range(WARM_RUNS + 1):
            for classes in (TOP, np.array([0, 3, -2], np.int64)):
                image = picture(seed, *shape)
                np.testing.assert_array_equal(engine.run(image, classes)["heatmap"], expected.run(image, classes)["heatmap"])
    with pytest.raises(InputError, match=r"image is \[1, 256, 96, 3\], this engine was built for"):
        engine.run(picture(0, 1, 256, 96, 3), TOP)


def test_masks_go_up_too(stream: Stream, tmp_path: Path) -> None:
    path = tmp_path / "masked.onnx"
    path.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), samples=3), check=False).data)
    engine, expected = open_engine(path, "tensorrt"), open_engine(path, "cpu")
    for seed in range(WARM_RUNS + 2):
        image, mask = picture(seed, 1, 64, 96, 3), np.random.default_rng(seed).random((3, 6, 6)) < 0.4
        given, wanted = engine.run(image, TOP, mask), expected.run(image, TOP, mask)
        np.testing.assert_array_equal(given["heatmap_std"], wanted["heatmap_std"])


def test_an_engine_that_cannot_be_captured_runs_without_a_graph(stream: Stream, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.driver, "cuGraphInstantiate", lambda graph, flags: (801,))
    engine, expected = open_engine(model_file, "tensorrt"), open_engine(model_file, "cpu")
    for seed in range(WARM_RUNS + 2):
        image = picture(seed, 1, 64, 96, 3)
        np.testing.assert_array_equal(engine.run(image, TOP)["heatmap"], expected.run(image, TOP)["heatmap"])
    assert not stream.graphs


def test_a_full_gpu_is_one_clear_line(stream: Stream, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_engine(model_file, "tensorrt")
    monkeypatch.setattr(stream.driver, "cuMemAlloc", lambda size: (2,))
    with pytest.raises(EngineError, match=r"^the GPU failed: out of memory$"):
        engine.run(picture(0, 1, 64, 96, 3), TOP)


def test_memory_is_given_back(stream: Stream, model_file: Path) -> None:
    engine = open_engine(model_file, "tensorrt")
    engine.run(picture(0, 1, 64, 96, 3), TOP)
    assert stream.allocated
    engine.close()
    assert not stream.allocated


def test_a_changed_model_is_built_again(stream: Stream, model_file: Path, tmp_path: Path) -> None:
    first = open_engine(model_file, "tensorrt")
    other = tmp_path / "other.onnx"
    other.write_bytes(export(tiny_checkpoint(seed=1), ExportOptions(size=(64, 96)), check=False).data)
    second = open_engine(other, "tensorrt")
    image = picture(0, 1, 64, 96, 3)
    assert first.sha256 != second.sha256
    assert not np.array_equal(first.run(image, TOP)["logits"], second.run(image, TOP)["logits"])


def engines(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.engine"))


@pytest.mark.parametrize("damage", ["labels", "another's pair", "plan", "no description", "format 1", "huge profile"])
def test_a_cached_engine_that_is_not_this_models_is_built_anew(
    stream: Stream, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "cache"))
    first = open_engine(model_file, "tensorrt")
    (path,) = engines(tmp_path / "cache")
    sidecar = sidecar_of(path)
    plan, text = path.read_bytes(), sidecar.read_text()
    document = json.loads(text)
    if damage == "labels":  # with the right hash: the spec must be that of the ONNX file all the same
        document["spec"]["labels"].reverse()
        document["description_sha256"] = _own_hash(document)
        sidecar.write_text(json.dumps(document))
    elif damage == "another's pair":
        other = tmp_path / "other.onnx"
        other.write_bytes(export(tiny_checkpoint(seed=1), ExportOptions(size=(64, 96)), check=False).data)
        open_engine(other, "tensorrt")
        (theirs,) = set(engines(tmp_path / "cache")) - {path}
        path.write_bytes(theirs.read_bytes())
        sidecar.write_text(sidecar_of(theirs).read_text())
    elif damage == "plan":
        path.write_bytes(plan[:100] + bytes(4096) + plan[4196:])
    elif damage == "no description":
        sidecar.unlink()
    elif damage == "format 1":
        sidecar.write_text(json.dumps({**document, "format": "dkcam-engine-1"}))
    else:
        document["profile"]["batch"] = [1, 1, 10**9]
        document["description_sha256"] = _own_hash(document)
        sidecar.write_text(json.dumps(document))
    image = picture(0, 1, 64, 96, 3)
    again = open_engine(model_file, "tensorrt")
    np.testing.assert_array_equal(again.run(image, TOP)["logits"], first.run(image, TOP)["logits"])
    assert again.spec == first.spec and (path.read_bytes(), sidecar.read_text()) == (plan, text)
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith(f"{path}, an entry of the cache, is deleted and built anew: ") and "rebuild" not in message
    assert path.stat().st_mode & 0o777 == sidecar.stat().st_mode & 0o777 == 0o600


def test_a_cache_that_cannot_be_written_keeps_no_engine(
    stream: Stream, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "file" / "below"))
    assert open_engine(model_file, "tensorrt").run(picture(0, 1, 64, 96, 3), TOP)
    assert "the engine cannot be kept for the next run" in caplog.text


def test_two_that_need_the_same_engine_build_it_once(
    stream: Stream, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DKCAM_CACHE", str(tmp_path / "cache"))
    built: list[int] = []
    make, together = engine_module.make_engine, threading.Barrier(2)

    def counted(*args: Any, **kwargs: Any) -> Any:
        built.append(1)
        return make(*args, **kwargs)

    monkeypatch.setattr(engine_module, "make_engine", counted)
    monkeypatch.setattr(engine_module, "TensorRt", lambda plan, source, library: plan)

    def opened() -> Any:
        together.wait()
        return open_engine(model_file, "tensorrt")

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(opened), pool.submit(opened)
        assert first.result() == second.result()
    assert len(built) == 1
