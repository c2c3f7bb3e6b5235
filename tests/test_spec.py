"""The description inside an exported file, read back from a file that anyone may have damaged."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest

from dkcam.engines.engine import draw_masks
from dkcam.errors import ModelFileError
from dkcam.spec import ModelSpec

GOOD = ModelSpec(("a", "b"), 64, 96, grid=(2, 3), parity={"logits": 1e-6}, versions={"dkcam": "1"})


def test_the_text_comes_back() -> None:
    assert ModelSpec.from_json(GOOD.to_json(), "m.onnx") == GOOD


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("labels", bad) for bad in (None, [], "ab", [1, 2], [None])],
        *[("height", bad) for bad in ("64", 64.0, True, 0, -32, 65, 10**9, float("inf"), None)],
        *[("batch", bad) for bad in ([], [1], 1, [0, 1], [2, 1], None, [1, 10**400], [1, 10**9])],
        *[("samples", bad) for bad in ("3", 1.5, -1, 10**9, 10**4000)],
        *[("mean", bad) for bad in ("x", [0.5], [0.5, 0.5, "x"], None)],
        *[("std", bad) for bad in ([0, 1, 1], [1, 1, float("nan")])],
        *[("grid", bad) for bad in ([2], [0, 2], "22")],
        *[("dynamic", bad) for bad in (None, ["time"], "size")],
        *[("outputs", bad) for bad in (None, [], ["logit"])],
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
    spec = ModelSpec(("a",), 32 * 23, 32 * 40, samples=16)  # 920 tokens
    rng = np.random.default_rng(5)
    expected = rng.random((16, 920, 920)) < spec.mask_ratio
    tracemalloc.start()
    masks = draw_masks(spec, np.random.default_rng(5))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert masks is not None and np.array_equal(masks, expected) and most < 2 * masks.nbytes + (16 << 20)
