"""Resizing pulled back, against the interpreter's and torch's own; the matrices against what ONNX Runtime does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dkcam.export.derivative.resize_matrix import COORDINATES, Line, Mode, matrix
from dkcam.export.derivative.rule import UnsupportedOperator
from tests.export.derivative.harness import HALF, Operator, check, runtime, swept

ROUNDED = 5e-7  # weights are stored as float32, and a number may be the sum of many
NAMES = {"coordinates": "coordinate_transformation_mode", "rounding": "nearest_mode"}
MODES = sorted(COORDINATES - {"tf_half_pixel_for_nn"})  # gone since operator set 13


def operator(
    x: np.ndarray,
    *,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
    region: list[float] | None = None,
    free: dict[int, str] | None = None,
    half: bool = False,
    **attributes: Any,
) -> Operator:
    given = [x, None, None, None]
    if region is not None:
        given[1] = np.array(region, np.float64)
    if scales is not None:
        given[2] = np.array(scales, np.float64)
    if sizes is not None:
        given[3] = np.array(sizes, np.int64)
    while given[-1] is None:
        given.pop()
    return Operator("Resize", given, attributes, opset=19, free={0: free or {}}, half=half)


@pytest.mark.parametrize("number", range(40))
def test_a_resize(number: int) -> None:
    """Every attribute, over axes drawn; the interpreter is the reference."""
    random = np.random.default_rng(number)
    rank = int(random.choice([3, 4, 4, 4, 5]))
    shape = [int(random.integers(1, 3)), 2, *(int(n) for n in random.integers(1, 6, rank - 2))]
    kind = str(random.choice(["nearest", "linear", "cubic"]))
    attributes: dict[str, Any] = {"mode": kind, "coordinate_transformation_mode": str(random.choice(MODES))}
    if kind == "nearest":
        attributes["nearest_mode"] = str(random.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        if attributes["coordinate_transformation_mode"] == "half_pixel_symmetric":
            attributes["coordinate_transformation_mode"] = "half_pixel"
    elif random.random() < 0.3:
        attributes["antialias"] = 1
    if kind == "cubic":
        attributes |= {"cubic_coeff_a": float(random.choice([-0.5, -0.75])), "exclude_outside": int(random.integers(2))}
    axes = sorted(int(a) for a in random.choice(np.arange(1, rank), int(random.integers(1, 3)), replace=False))
    attributes["axes"] = [a - rank if random.random() < 0.5 else a for a in axes]
    sizes = [shape[a] * int(random.integers(2, 4)) if random.random() < 0.4 else int(random.integers(1, 9)) for a in axes]
    region = None
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        sizes = [n if n != shape[a] else n + 1 for n, a in zip(sizes, axes, strict=True)]
        region = [float(v) for v in [*random.uniform(-0.2, 0.4, len(axes)), *random.uniform(0.6, 1.2, len(axes))]]
    one = operator(random.standard_normal(shape), sizes=sizes, region=region, **attributes)
    if region is None and random.random() < 0.5:
        scales = [float(s) for s in random.choice([0.5, 2.0, 1.5, 0.75, 3.0, 1.0], len(axes))]
        if all(int(shape[a] * s) for a, s in zip(axes, scales, strict=True)):
            one = operator(random.standard_normal(shape), scales=scales, **attributes)
    check(one, k=2 + number % 2, random=number, exact=ROUNDED)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("times", [(2, 2), (3, 1), (4, 2)])
def test_whole_multiples_of_nearest_neighbours(times: tuple[int, int], free: bool) -> None:
    """Blocks are summed; with a free size too."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    names = {0: "B", 2: "H", 3: "W"} if free else {}
    for modes in (("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("pytorch_half_pixel", "round_prefer_ceil")):
        attributes = dict(zip(("coordinate_transformation_mode", "nearest_mode"), modes, strict=True))
        one = operator(x, scales=[1, 1, *times], free=names, mode="nearest", **attributes)
        run = check(one, lambda x, *_: x.repeat_interleave(times[0], 2).repeat_interleave(times[1], 3))
        assert run.cotangents["even"]["x0"].g.shape[3:] == (1, 1)
        pools = [node.op_type for node in run.written if node.op_type in ("AveragePool", "MatMul")]
        assert pools and "MatMul" not in pools


def test_whole_multiples_by_sizes_that_are_free() -> None:
    """As where a map is resized to the size of another."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    one = operator(x, sizes=[8, 15], axes=[2, 3], coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    one = replace(one, free={0: {0: "B", 2: "H/4", 3: "W/3"}}, declared=[["B", 3, "H/2", "W"]])
    check(one, lambda x, *_: x.repeat_interleave(2, 2).repeat_interleave(3, 3))


def test_pictures_with_channels_last() -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    names = {0: "B", 1: "H", 2: "W"}
    one = operator(x, scales=[1, 2, 2, 1], free=names, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    check(one, lambda x, *_: x.repeat_interleave(2, 1).repeat_interleave(2, 2))

    def reference(x: Tensor, *_: Any) -> Tensor:
        return F.interpolate(x.permute(0, 3, 1, 2), size=(7, 9), mode="bilinear").permute(0, 2, 3, 1)

    check(operator(x, sizes=[7, 9], axes=[1, 2], mode="linear", free={0: "B"}), reference, exact=ROUNDED)


@pytest.mark.parametrize("free", [{}, {0: "B"}, {0: "B", 2: "W"}])
def test_rows_alone_with_channels_last(free: dict[int, str]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    one = operator(x, sizes=[7], axes=[1], mode="linear", free=free)
    check(one, lambda x, *_: F.interpolate(x.permute(0, 3, 1, 2), size=(7, 5), mode="bilinear").permute(0, 2, 3, 1), exact=ROUNDED)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("kind", "sizes"), [("bilinear", (8, 10)), ("bilinear", (3, 11)), ("bicubic", (7, 4))])
def test_what_torch_writes(kind: str, sizes: tuple[int, int], corners: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    mode = "align_corners" if corners else "pytorch_half_pixel"
    one = operator(x, sizes=list(sizes), axes=[2, 3], mode=kind[2:], coordinate_transformation_mode=mode, free={0: "B"})
    check(one, lambda x, *_: F.interpolate(x, size=sizes, mode=kind, align_corners=corners), exact=ROUNDED)


@pytest.mark.parametrize("kind", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_region_that_is_cut_out(size: int, kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 4))
    for region in ([0.2, 0.3, 0.7, 0.9], [-0.1, 0.4, 0.8, 1.3]):
        one = operator(x, sizes=[size, 3], axes=[2, 3], region=region, mode=kind, coordinate_transformation_mode="tf_crop_and_resize")
        check(one, seeds=["full", "even"], exact=ROUNDED)


def test_an_even_gradient_stays_even() -> None:
    """Whatever the weights are: they say how much each element is used."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    run = check(operator(x, sizes=[2, 3, 7, 10], mode="linear"), seeds=["even"], exact=ROUNDED)
    arrived = run.cotangents["even"]["x0"]
    assert arrived.g.shape[3:] == (1, 1) and not [node for node in run.written if node.op_type == "MatMul"]


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_the_aspect_ratio_is_kept(policy: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 6))
    one = operator(x, sizes=[7, 8], axes=[2, 3], mode="linear", keep_aspect_ratio_policy=policy)
    factor = 8 / 6 if policy == "not_larger" else 7 / 4
    wanted = [int(4 * factor + 0.5), int(6 * factor + 0.5)]
    check(one, lambda x, *_: along(x, factor, wanted), exact=ROUNDED)


def along(x: Tensor, factor: float, wanted: list[int]) -> Tensor:
    """Linear, by one factor, to sizes that it would not give by itself."""
    for axis, size in ((2, wanted[0]), (3, wanted[1])):
        places = ((torch.arange(size, dtype=x.dtype) + 0.5) / factor - 0.5).clamp(0, x.shape[axis] - 1)
        low = places.floor().long().clamp(max=max(x.shape[axis] - 2, 0))
        rest = (places - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = x.index_select(axis, low) * (1 - rest) + x.index_select(axis, low + 1) * rest
    return x


def test_a_network_in_half_precision() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 4, 6))
    check(operator(x, sizes=[1, 2, 6, 9], mode="linear", half=True), exact=ROUNDED, single=HALF)


@pytest.mark.parametrize("number", range(24))
def test_the_matrix_is_what_onnx_runtime_does(number: int) -> None:
    random = np.random.default_rng(500 + number)
    for _ in range(4):
        into, out = int(random.integers(1, 9)), int(random.integers(1, 14))
        kind, coordinates = str(random.choice(["nearest", "linear", "cubic"])), str(random.choice(MODES))
        if coordinates == "tf_crop_and_resize" or (kind == "nearest" and coordinates == "half_pixel_symmetric"):
            coordinates = "asymmetric"
        rounding = str(random.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]))
        outside, smooth = kind == "cubic" and bool(random.integers(2)), kind != "nearest" and bool(random.random() < 0.3)
        mode = Mode(kind, coordinates, rounding, -0.75, outside, smooth)
        attributes = {
            "mode": kind,
            "coordinate_transformation_mode": coordinates,
            "nearest_mode": rounding,
            "exclude_outside": int(outside),
            "antialias": int(smooth),
        }
        one = operator(np.eye(into)[None, :, :, None] * np.ones(3), sizes=[1, into, out, 3], **attributes)
        (found,) = runtime(ir.to_proto(one.model()), {"x0": one.inputs[0].astype(np.float32)}, ["y0"]).values()  # type: ignore[union-attr]
        np.testing.assert_allclose(
            matrix(mode, Line(into, out, out / into)), found[0, :, :, 0].T, atol=2e-5, err_msg=f"{mode}, {into} to {out}"
        )


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("free", [False, True])
def test_depth_to_space(mode: str, free: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 18, 2, 3))
    names = {0: {0: "B", 2: "H", 3: "W"}} if free else {}

    def reference(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if mode == "CRD":
            return F.pixel_shuffle(x, 3)
        return x.reshape(b, 3, 3, c // 9, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // 9, h * 3, w * 3)

    check(Operator("DepthToSpace", [x], {"blocksize": 3, "mode": mode}, free=names), reference, k=3)


@pytest.mark.parametrize("free", [False, True])
def test_space_to_depth(free: bool) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6))
    names = {0: {0: "B", 2: "H", 3: "W"}} if free else {}

    def reference(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)

    check(Operator("SpaceToDepth", [x], {"blocksize": 2}, free=names), reference, k=3)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"scales": [1, 1, 2, 2], "mode": "linear", "free": {2: "H"}}, "free: its weights depend on that; fix the size"),
        ({"scales": [1, 1, 1.5, 2], "free": {2: "H"}}, "fix the size"),
        ({"sizes": [1, 2, 8, 8], "free": {3: "W"}}, "fix the size"),
        ({"sizes": [7, 8], "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "free": {3: "W"}}, "keep_aspect_ratio_policy .* fix"),
        ({"sizes": [1, 2, 7, 7], "coordinate_transformation_mode": "half_pixel_symmetric"}, "runtimes round"),
        (
            {"sizes": [1, 2, 4, 4], "region": [0, 0, 0.1, 0, 1, 1, 0.9, 1], "coordinate_transformation_mode": "tf_crop_and_resize"},
            "leave that out",
        ),
        ({"sizes": [1, 2, 8, 8], "coordinate_transformation_mode": "tf_crop_and_resize"}, "runtimes differ"),
        ({"sizes": [1, 2, 8, 8], "nearest_mode": "simple"}, "'simple' is none of"),
    ],
)
def test_what_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedOperator, match=why):
        swept(operator(np.ones((1, 2, 4, 4)), **given), [(1, 2, 8, 8)], seeds=["full"])
