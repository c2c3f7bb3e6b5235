"""The description inside an exported file, read back from a file that anyone may have damaged."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from dkcam.engines.engine import draw_masks
from dkcam.errors import ModelFileError
from dkcam.spec import ExplanationSpec, InputSpec, MaskSpec, ModelSpec, NetworkSpec, Provenance
from tests.specs import model_spec

GOOD = model_spec(
    ("a", "b"),
    masks=MaskSpec(samples=2, grid=(2, 3), token_stride=32),
    provenance=Provenance(parity={"logits": 1e-6}, versions={"dkcam": "1"}),
)
DETECTOR = ModelSpec(
    task="detect",
    labels=("car", "bus"),
    input=InputSpec(
        kind="tensor",
        height=333,
        width=500,
        channels="bgr",
        mean=(103.5, 116.3, 123.7),
        std=(1, 1, 1),
        scale=1.0,
        resize="letterbox",
        fill=0,
    ),
    explanation=ExplanationSpec(
        layers=("/model.15/Concat_output_0", "/model.18/Concat_output_0"),
        map_sizes=((42, 63), (21, 32)),
        method="layercam",
        count=10,
        per_image=True,
        score="probability",
        explained_output="output0",
        outputs=("boxes", "scores", "explained", "heatmap"),
    ),
    network=NetworkSpec(family="yolo11", producer="pytorch 2.5.0"),
)
# what 0.1.0 wrote for a model with every field another than its default
OF_0_1 = """{"batch": [1, 8], "checkpoint_sha256": "ab", "dynamic": ["batch"], "explain": 2, "fidelity": {"pearson": 0.99}, "grid": [2, 3],
"height": 64, "input": "tensor", "kept": ["conv1"], "labels": ["stop", "yield"], "layer": "layer3.2.conv2", "mask_ratio": 0.4,
"mean": [0.485, 0.456, 0.406], "method": "layercam", "model_width": 0.25, "outputs": ["probabilities", "explained", "heatmap",
"heatmap_std"], "parity": {"logits": 1e-06}, "precision": "int8", "resize": "letterbox", "samples": 4, "std": [0.229, 0.224, 0.225],
"target": "gpu", "variant": "dropkey", "verified": true, "versions": {"dkcam": "0.1.0"}, "width": 96}"""


@pytest.mark.parametrize("spec", [GOOD, DETECTOR], ids=["ours", "detector"])
def test_the_text_comes_back(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert "\n" not in text and ModelSpec.from_json(text, "m.onnx") == spec
    assert ModelSpec.from_json(text, "m.onnx").to_json() == text


def test_files_of_0_1_mean_what_they_meant() -> None:
    spec = ModelSpec.from_json(OF_0_1, "m.onnx")
    assert spec == ModelSpec(
        labels=("stop", "yield"),
        input=InputSpec(kind="tensor", height=64, width=96, resize="letterbox", batch=(1, 8), dynamic=("batch",), multiple=32),
        explanation=ExplanationSpec(
            layers=("layer3.2.conv2",), method="layercam", count=2, outputs=("probabilities", "explained", "heatmap", "heatmap_std")
        ),
        masks=MaskSpec(samples=4, ratio=0.4, grid=(2, 3), token_stride=32),
        network=NetworkSpec(variant="dropkey", model_width=0.25),
        provenance=Provenance(
            sha256="ab",
            precision="int8",
            target="gpu",
            kept=("conv1",),
            verified=True,
            parity={"logits": 1e-6},
            fidelity={"pearson": 0.99},
            versions={"dkcam": "0.1.0"},
        ),
    )
    assert spec.task == "classify" and spec.input.fill == 114 and spec.input.of_unit == (spec.input.mean, spec.input.std)


def test_0_1_finds_its_keys() -> None:
    """Same names, same values, for what 0.1 could say."""
    before = json.loads(OF_0_1)
    now = json.loads(ModelSpec.from_json(OF_0_1, "m.onnx").to_json())
    assert {name: now[name] for name in before} == before


def test_files_of_0_1_without_masks() -> None:
    free = json.loads(OF_0_1) | {"samples": 0, "grid": None, "dynamic": ["size"], "outputs": ["logits"]}
    spec = ModelSpec.from_json(json.dumps(free), "m.onnx")
    assert spec.masks is None and spec.input.multiple == 32
    spec = ModelSpec.from_json(json.dumps(free | {"samples": 1}), "m.onnx")
    assert spec.masks is not None and spec.masks.tokens(64, 96) == 6


def test_keys_of_a_later_version_are_left_alone() -> None:
    text = json.dumps({**json.loads(GOOD.to_json()), "smell": 3})
    assert ModelSpec.from_json(text, "m.onnx") == GOOD


def test_a_bad_value_is_refused_when_it_is_made_as_well() -> None:
    with pytest.raises(ValueError, match=r"^channels is 'rbg', expected one of rgb, bgr, gray$"):
        InputSpec(height=64, width=64, channels="rbg")
    with pytest.raises(ValueError, match=r"^task is 'guess', expected one of classify, detect, regress, dense$"):
        model_spec(task="guess")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("labels", bad) for bad in (None, [], "ab", [1, 2], [None])],
        *[("height", bad) for bad in ("64", 64.0, True, 0, -32, 10**9, float("inf"), None)],
        *[("batch", bad) for bad in ([], [1], 1, [0, 1], [2, 1], None, [1, 10**400], [1, 10**9])],
        *[("samples", bad) for bad in ("3", 1.5, -1, 10**9, 10**4000)],
        *[("mean", bad) for bad in ("x", [0.5], [0.5, 0.5, "x"], None)],
        *[("std", bad) for bad in ([0, 1, 1], [1, 1, float("nan")])],
        *[("grid", bad) for bad in ([2], [0, 2], "22")],
        *[("dynamic", bad) for bad in (None, ["time"], "size")],
        *[("outputs", bad) for bad in (None, [], ["logit"])],
        *[("layer", bad) for bad in (None, [], 3, [3], ["x"] * 65)],
        *[("scale", bad) for bad in (0, -1, "1", float("nan"), 10**400)],
        *[("fill", bad) for bad in (-1, 256, 0.5)],
        *[("map_sizes", bad) for bad in (3, [3], [[1]], [[0, 1]])],
        ("task", "guess"),
        ("channels", "rbg"),
        ("score", "loss"),
        ("classes_per_image", 1),
        ("multiple", 0),
        ("token_stride", 0),
        ("producer", None),
        ("resize", "foo"),
        ("input", "rgb"),
        ("variant", 3),
        ("method", "cam"),
        ("mask_ratio", 1),
        ("mask_ratio", 10**400),
        ("model_width", 10**400),
        ("parity", {"logits": -(10**400)}),
        ("explain", 10**400),
        ("explain", 0),
        ("parity", {"logits": "small"}),
        ("verified", "yes"),
        ("target", "tpu"),
    ],
)
def test_a_damaged_field_is_named(name: str, value: Any) -> None:
    text = json.dumps({**json.loads(GOOD.to_json()), name: value})
    with pytest.raises(ModelFileError, match=rf"m.onnx has a damaged dkcam.spec \({name} is .*, expected .*export the model again"):
        ModelSpec.from_json(text, "m.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, '{"labels": ["a"]}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ModelFileError, match=r"damaged dkcam.spec"):
        ModelSpec.from_json(text, "m.onnx")


@pytest.mark.parametrize("change", [{"grid": [1024, 1024]}, {"grid": None, "height": 8192, "width": 8192}])
def test_masks_that_no_machine_holds_are_refused(change: dict[str, Any]) -> None:
    """4096 masks over a grid of 1024x1024 are 4 PiB, eight times that while they are drawn."""
    text = json.dumps({**json.loads(GOOD.to_json()), "samples": 4096, **change})
    with pytest.raises(
        ModelFileError, match=r"damaged dkcam.spec \(4096 samples over \d+ tokens are [\d.e+]+ GiB of masks, expected 1 GiB"
    ):
        ModelSpec.from_json(text, "m.onnx")


def test_masks_are_drawn_in_the_memory_they_take() -> None:
    """The same masks as all at once, for every chunk's edge."""
    spec = model_spec(("a",), 32 * 23, 32 * 40, masks=MaskSpec(samples=16, token_stride=32))  # 920 tokens
    rng = np.random.default_rng(5)
    expected = rng.random((16, 920, 920)) < 0.3
    tracemalloc.start()
    masks = draw_masks(spec, np.random.default_rng(5))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert masks is not None and np.array_equal(masks, expected) and most < 2 * masks.nbytes + (16 << 20)
