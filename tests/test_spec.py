"""The description inside an exported file, read back from a file that anyone may have damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest

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
        *[("batch", bad) for bad in ([], [1], 1, [0, 1], [2, 1], None)],
        *[("samples", bad) for bad in ("3", 1.5, -1, 10**9)],
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
