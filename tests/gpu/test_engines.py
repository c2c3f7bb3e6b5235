"""Engines on a real GPU against the torch model, and frames that never leave it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dkcam
from dkcam.engines import open_bytes, open_engine
from dkcam.engines.engine import EngineOptions, draw_masks
from dkcam.engines.tensorrt.engine import WARM_RUNS
from dkcam.errors import DkcamError, EngineError
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.runtime.explainer import DEMO_MODEL
from tests.conftest import tiny_checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "masks": {"samples": 4},
    "everything free": {"dynamic": ("batch", "size"), "batch": (1, 4)},
    "layer3": {"layer": "layer3"},
    "normalised input": {"input": "tensor"},
    **{method: {"method": method} for method in ("gradcam++", "xgradcam", "layercam", "hirescam")},
}


@pytest.fixture(params=["tensorrt", "cuda"])
def device(request: pytest.FixtureRequest, model_file: Path) -> str:
    """A device that runs here; another one is skipped with its reason."""
    try:
        open_engine(model_file, request.param).close()
    except DkcamError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_graph_says_what_the_processor_says(device: str, kind: str) -> None:
    data = export(tiny_checkpoint(), ExportOptions(size=(64, 96), **KINDS[kind]), check=False).data
    engine, expected = open_bytes(data, "the graph", device), open_bytes(data, "the graph", "cpu")
    rng = np.random.default_rng(0)
    for _ in range(WARM_RUNS + 2):  # the last ones through a CUDA graph
        mask = draw_masks(engine.spec, rng)
        image = rng.integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
        given_image = image if engine.spec.input.kind == "rgb8" else rng.normal(size=(1, 3, 64, 96)).astype(np.float32)
        given, wanted = (each.run(given_image, np.array([-1, 2]), mask) for each in (engine, expected))
        for name, value in wanted.items():
            if value.dtype.kind == "f":
                assert np.abs(given[name] - value).max() <= 1e-3 * max(float(np.abs(value).max()), 1e-6), name
            else:
                np.testing.assert_array_equal(given[name], value)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_demo_model_holds_its_gate(device: str, precision: str) -> None:
    from dkcam.export.checkpoint import load_checkpoint
    from dkcam.rendered import Drive

    checkpoint = load_checkpoint(DEMO_MODEL.with_suffix(".pt"))
    target = "gpu" if precision == "int8" else None
    data = export(checkpoint, ExportOptions(precision=precision, target=target), check=False).data
    low = dkcam.runtime.explainer.Explainer(open_bytes(data, "the graph", device))
    full = dkcam.load(DEMO_MODEL, "cpu")
    correlation, same = [], []
    for image, _ in Drive(frames=60):
        given, wanted = low(image), full(image)
        if wanted.top()[0].probability >= 0.5:
            same.append(given.top()[0].index == wanted.top()[0].index)
            correlation.append(np.corrcoef(given.heatmap[0].ravel(), wanted.heatmap[0].ravel())[0, 1])
    least = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97}[precision]
    assert np.mean(correlation) >= least and np.mean(same) >= 0.98


def test_frames_in_gpu_memory_need_no_copy(model_file: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    try:
        explainer = dkcam.load(model_file, "tensorrt")
    except EngineError as error:
        pytest.skip(str(error))
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    wanted = explainer(image)
    given = explainer(torch.from_numpy(image).cuda())
    np.testing.assert_array_equal(given.heatmap, wanted.heatmap)
    np.testing.assert_array_equal(given.overlay(), wanted.overlay(image))


def test_several_threads_share_an_engine(device: str, model_file: Path) -> None:
    explainer, wanted = dkcam.load(model_file, device), dkcam.load(model_file, "cpu")
    images = [np.random.default_rng(seed).integers(0, 256, (120, 150, 3), dtype=np.uint8) for seed in range(8)]
    failures: list[BaseException] = []

    def work(image: np.ndarray) -> None:
        try:
            for _ in range(20):
                given, expected = explainer(image), wanted(image)
                assert np.abs(given.heatmap - expected.heatmap).max() <= 1e-3 * float(expected.heatmap.max())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(image,)) for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("name", ["onnxruntime-tensorrt", "onnxruntime-tensorrt-rtx"])
def test_onnxruntimes_other_providers(model_file: Path, name: str) -> None:
    try:
        engine = open_engine(model_file, name, EngineOptions())
    except EngineError as error:
        pytest.skip(str(error))
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    given, wanted = engine.run(image, np.array([-1])), open_engine(model_file, "cpu").run(image, np.array([-1]))
    assert np.abs(given["heatmap"] - wanted["heatmap"]).max() <= 1e-3 * float(wanted["heatmap"].max())
