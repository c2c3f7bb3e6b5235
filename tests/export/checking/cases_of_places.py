"""Random forms of operators of places: windows, normalisation, layout, indices, resizing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.random import Generator
from onnx import helper

from tests.export.checking.cases import Case, family, ints, pick, positive, size, some

AUTO = ("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


def windows(rng: Generator, kernel: list[int], auto: str) -> dict[str, Any]:
    found: dict[str, Any] = {"strides": [size(rng, 1, 4) for _ in kernel], "dilations": [size(rng, 1, 3) for _ in kernel]}
    if auto == "NOTSET":
        found["pads"] = [size(rng, 0, k) for k in kernel * 2]
    else:
        found["auto_pad"] = auto
    return found


@family
def convolution(rng: Generator) -> Iterator[Case]:
    for auto in AUTO:
        space = pick(rng, 1, 2, 2, 3)
        group, out, into = size(rng, 1, 4), size(rng, 1, 3), size(rng, 1, 3)
        kernel = [size(rng, 1, 4) for _ in range(space)]
        x = some(rng, size(rng, 1, 3), group * into, *(size(rng, 7, 11) for _ in range(space)))
        w, bias = some(rng, group * out, into, *kernel), (some(rng, group * out),) if rng.random() < 0.5 else ()
        form = windows(rng, kernel, auto)
        if "auto_pad" in form:
            form["dilations"] = [1] * space  # ONNX Runtime refuses others
        yield Case("Conv", (x, w, *bias), {"group": group, **form}, runtime=True)
        w, bias = some(rng, group * into, out, *kernel), (some(rng, group * out),) if rng.random() < 0.5 else ()
        form = windows(rng, kernel, auto)
        if form.get("auto_pad", "").startswith("SAME"):
            form |= {"dilations": [1] * space, "strides": [size(rng, 1, k + 1) for k in kernel]}
        elif rng.random() < 0.3:
            at = zip(x.shape[2:], form["strides"], form["dilations"], kernel, strict=True)
            form["output_shape"] = [stride * (n - 1) + d * (k - 1) + 1 - size(rng, 0, min(k, 2) + 1) for n, stride, d, k in at]
            form.pop("pads", None)
        else:
            form["output_padding"] = [size(rng, 0, s) for s in form["strides"]]
        yield Case("ConvTranspose", (x, w, *bias), {"group": group, **form}, runtime=True)


@family
def pooling(rng: Generator) -> Iterator[Case]:
    for auto in AUTO:
        space = pick(rng, 1, 2, 2, 3)
        kernel = [size(rng, 1, 4) for _ in range(space)]
        x = some(rng, size(rng, 1, 3), size(rng, 1, 4), *(size(rng, 6, 12) for _ in range(space)))
        for kind in ("MaxPool", "AveragePool", "LpPool"):
            form = windows(rng, kernel, auto)
            if "auto_pad" in form:
                form |= {"dilations": [1] * space, "strides": [size(rng, 1, k + 1) for k in kernel]}
                if kind == "LpPool":
                    form.pop("auto_pad")
            else:
                form["ceil_mode"] = size(rng, 0, 2)
            if kind == "AveragePool":
                form["count_include_pad"] = size(rng, 0, 2)
            elif kind == "LpPool":
                form["p"] = pick(rng, 1, 2, 3)
                form["ceil_mode"] = 0
            else:
                yield Case(kind, (x,), {"kernel_shape": kernel, **form}, outputs=2, opset=22, runtime=True)
            yield Case(kind, (x,), {"kernel_shape": kernel, **form}, opset=19 if kind == "AveragePool" else 18, runtime=True)
        for kind in ("GlobalAveragePool", "GlobalMaxPool"):
            yield Case(kind, (x,), runtime=True)
        yield Case("GlobalLpPool", (x,), {"p": pick(rng, 1, 2, 3)}, runtime=True)


@family
def normalisation(rng: Generator) -> Iterator[Case]:
    n, c, h, w = size(rng), 2 * size(rng, 1, 4), size(rng, 2), size(rng, 2)
    x, scale, bias = some(rng, n, c, h, w), some(rng, c), some(rng, c)
    yield Case("BatchNormalization", (x, scale, bias, some(rng, c), positive(rng, c)), {"epsilon": 0.01})
    yield Case("BatchNormalization", (x[:, :, 0, 0], scale, bias, some(rng, c), positive(rng, c)))
    yield Case("InstanceNormalization", (x, scale, bias), {"epsilon": 0.01})
    yield Case("GroupNormalization", (x, scale, bias), {"num_groups": 2, "epsilon": 0.01}, opset=21, runtime=True)
    yield Case("GroupNormalization", (x, scale[:2], bias[:2]), {"num_groups": 2}, opset=18, runtime=True)
    for axis in (-1, 1, -2):
        shape = x.shape[axis:]
        yield Case("LayerNormalization", (x, some(rng, *shape), some(rng, *shape)), {"axis": axis, "epsilon": 0.01}, runtime=True)
        yield Case("LayerNormalization", (x, some(rng, *shape)), {"axis": axis}, outputs=3, runtime=True)
        yield Case("RMSNormalization", (x, some(rng, *shape)), {"axis": axis}, opset=23)
    yield Case("MeanVarianceNormalization", (x,), runtime=True)
    yield Case("MeanVarianceNormalization", (x,), {"axes": [1, 3]}, runtime=True)
    for p in (1, 2):
        yield Case("LpNormalization", (x,), {"axis": pick(rng, -1, 1, 2), "p": p}, runtime=True)
    square = some(rng, c, c, h, w)  # the reference takes one size for the other
    yield Case("LRN", (square,), {"size": size(rng, 1, 6), "alpha": 0.25, "beta": 0.75, "bias": 1.5}, bound=1e-7)
    yield Case("LRN", (x,), {"size": 3}, runtime=True)


@family
def layout(rng: Generator) -> Iterator[Case]:
    n, c, h, w = size(rng), size(rng), size(rng, 3, 7), size(rng, 3, 7)
    x = some(rng, n, c, h, w)
    yield Case("Reshape", (x, ints(0, -1, w)))
    yield Case("Reshape", (some(rng, 0, 3), ints(3, 0)), {"allowzero": 1}, smooth=False)
    yield Case("Flatten", (x,), {"axis": size(rng, -3, 5)})
    yield Case("Transpose", (x,), {"perm": rng.permutation(4).tolist()})
    yield Case("Transpose", (x,))
    yield Case("Squeeze", (some(rng, 1, c, 1, h), ints(pick(rng, 0, 2, -2))))
    yield Case("Squeeze", (some(rng, 1, 1),))
    yield Case("Unsqueeze", (some(rng, c, h), ints(*pick(rng, (0, 2), (-1,), (1, -1)))))
    yield Case("Expand", (some(rng, c, 1, w), ints(n, 1, h, 1)))
    yield Case("Tile", (x, ints(1, 2, 1, 3)))
    yield Case("Concat", (x, some(rng, n, 2, h, w), x), {"axis": pick(rng, 1, -3)})
    yield Case("Split", (some(rng, 7, 3), ints(2, 4, 1)), {"axis": pick(rng, 0, -2)}, outputs=3)
    yield Case("Split", (some(rng, 7, 3),), {"axis": 0, "num_outputs": 3}, outputs=3)
    yield Case("Split", (some(rng, 6, 3),), {"axis": 0}, outputs=2, opset=13)
    for _ in range(8):
        steps = [pick(rng, 1, 2, 3, -1, -2) for _ in range(2)]
        starts, ends = [size(rng, -8, 8) for _ in range(2)], [pick(rng, size(rng, -8, 8), 2**31 - 1 if s > 0 else -(2**31)) for s in steps]
        yield Case("Slice", (x, ints(*starts), ints(*ends), ints(2, -1), ints(*steps)), runtime=True)
    yield Case("Slice", (x, ints(0, 0, 1), ints(9, 9, -1)))
    for mode in ("constant", "edge", "reflect", "wrap"):
        pads = [0, 0, *(size(rng, 0, 3) for _ in range(2)), 0, 0, *(size(rng, 0, 3) for _ in range(2))]
        yield Case("Pad", (x, ints(*pads)), {"mode": mode}, opset=19)
    yield Case("Pad", (x, ints(1, -1, 0, 2), None, ints(-1, 2)), runtime=True)
    yield Case("Pad", (x, ints(1, 2, 0, 1), np.array(3.5), ints(3, 0)))
    for mode, most in (("edge", 2 * h), ("reflect", h - 1), ("wrap", h)):
        yield Case("Pad", (x, ints(most, most), None, ints(2)), {"mode": mode}, opset=19, runtime=True)
    block = size(rng, 2, 4)
    for mode in ("DCR", "CRD"):
        yield Case("DepthToSpace", (some(rng, n, 2 * block**2, h, w),), {"blocksize": block, "mode": mode})
    yield Case("SpaceToDepth", (some(rng, n, c, 2 * block, 3 * block),), {"blocksize": block})
    for upper in (0, 1):
        yield Case("Trilu", (x, np.array(size(rng, -3, 4), np.int64)), {"upper": upper})
    yield Case("Shape", (x,), {"start": 1, "end": -1}, smooth=False)
    yield Case("Shape", (x,), smooth=False)
    yield Case("Size", (x,), smooth=False)
    yield Case("EyeLike", (x[0, 0],), {"k": size(rng, -2, 3), "dtype": 7}, smooth=False)
    yield Case("ConstantOfShape", (ints(2, 3),), {"value": helper.make_tensor("v", 7, [1], [5])}, smooth=False)
    yield Case("ConstantOfShape", (ints(2, 3),), smooth=False)
    yield Case("Range", tuple(map(np.array, (1.5, 9.0, 0.7))), smooth=False)
    yield Case("Range", tuple(np.array(v, np.int64) for v in (9, -3, -2)), smooth=False)
    yield Case("Constant", (), {"value_floats": [1.5, 2.0]}, smooth=False)
    yield Case("Constant", (), {"value": helper.make_tensor("v", 7, [2], [5, 6])}, smooth=False)


@family
def index(rng: Generator) -> Iterator[Case]:
    n, c, h = size(rng, 2), size(rng, 2), size(rng, 2)
    x = some(rng, n, c, h)
    for axis in (0, 1, -1):
        length = x.shape[axis]
        yield Case("Gather", (x, rng.integers(-length, length, (2, 3))), {"axis": axis})
        yield Case("Gather", (x, np.array(length - 1, np.int64)), {"axis": axis})
        shape = [size(rng, 1, d + 1) for d in x.shape]
        shape[axis] = 3
        yield Case("GatherElements", (x, rng.integers(-length, length, shape)), {"axis": axis}, runtime=True)
        order = np.stack([rng.permutation(length)[:2] for _ in range(x.size // length)], -1)
        places = np.moveaxis(order.reshape(2, *np.delete(x.shape, axis)), 0, axis)
        yield Case("ScatterElements", (x, places, some(rng, *places.shape)), {"axis": axis})
        for form in ("add", "mul", "max", "min"):
            places = rng.integers(-length, length, places.shape)
            yield Case("ScatterElements", (x, places, some(rng, *places.shape)), {"axis": axis, "reduction": form})
    rows = rng.integers(-2, 2, (3, 2))
    yield Case("GatherND", (x, rows))
    yield Case("GatherND", (x, rng.integers(-2, 2, (n, 4, 1))), {"batch_dims": 1})
    yield Case("GatherND", (x, rng.integers(-2, 2, (n, c, 1))), {"batch_dims": 2})
    yield Case("ScatterND", (x, np.array([[0, 1], [1, 0]]), some(rng, 2, h)))
    for form in ("add", "mul", "max", "min"):
        yield Case("ScatterND", (x, rows, some(rng, 3, h)), {"reduction": form})
    yield Case("OneHot", (rng.integers(-5, 5, (3, 2)), ints(5), np.array([-1.0, 2.0])), {"axis": pick(rng, 0, 1, -1)}, runtime=True)
    yield Case("NonZero", (x.round(),), smooth=False)
    yield Case("Compress", (x, rng.random(c) < 0.5), {"axis": 1}, smooth=False)
    yield Case("Compress", (x, rng.random(5) < 0.5), smooth=False)
    edges = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.5], [4, 4, 5, 5]]], np.float32), np.array([[[0.9, 0.8, 0.5]]], np.float32)
    bounds = np.array(5, np.int64), np.array([0.5], np.float32), np.array([0.5], np.float32)  # both met exactly
    yield Case("NonMaxSuppression", (*edges, *bounds), smooth=False, runtime=True)
    corners = rng.random((2, 20, 4)) * 0.5
    corners[..., 2:] += corners[..., :2]
    scores = rng.random((2, 3, 20))
    for form in (0, 1):
        bounds = np.array(5, np.int64), np.array([0.3], np.float32), np.array([0.4], np.float32)
        boxes = corners.astype(np.float32)
        yield Case("NonMaxSuppression", (boxes, scores.astype(np.float32), *bounds), {"center_point_box": form}, smooth=False, runtime=True)


MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric", "tf_crop_and_resize")


@family
def resize(rng: Generator) -> Iterator[Case]:
    x = some(rng, size(rng, 1, 3), size(rng, 1, 4), size(rng, 3, 12), size(rng, 3, 12))
    region = np.array([0, 0, 0.1, 0.2, 1, 1, 0.7, 0.9], np.float32)
    wanted = [x.shape[2] + size(rng, 1, 9), size(rng, 1, x.shape[3])]
    for coordinates in MODES:
        crop = coordinates == "tf_crop_and_resize"
        roi = region if crop else None
        form: dict[str, Any] = {"coordinate_transformation_mode": coordinates}
        for mode in ("linear", "cubic"):
            form["mode"], sizes = mode, ints(*x.shape[:2], *wanted)
            if mode == "cubic":
                form |= {"cubic_coeff_a": -0.5, "exclude_outside": 0 if crop else size(rng, 0, 2)}
            if crop:
                form["extrapolation_value"] = 2.5
            yield Case("Resize", (x, roi, None, sizes), dict(form), runtime=True)
            if not crop:
                scales = np.array([1, 1, rng.uniform(0.3, 0.6), rng.uniform(1.4, 2.5)], np.float32)
                yield Case("Resize", (x, None, scales), {**form, "antialias": size(rng, 0, 2)}, runtime=True)
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
            if coordinates == "half_pixel_symmetric" and rounding in ("floor", "ceil"):
                continue  # many coordinates are whole, and which side of it they fall on is a matter of rounding
            near = {"coordinate_transformation_mode": coordinates, "mode": "nearest", "nearest_mode": rounding}
            yield Case("Resize", (x, roi, None, ints(*x.shape[:2], *wanted)), near, runtime=True)
            if not crop:
                yield Case("Resize", (x, roi, np.array([1, 1, 2, 0.5], np.float32)), near, runtime=True)
    for policy in ("stretch", "not_larger", "not_smaller"):
        for axes in ([2, 3], [3, 2]):
            form = {"axes": axes, "keep_aspect_ratio_policy": policy, "mode": "linear"}
            yield Case("Resize", (x, None, None, ints(*wanted)), form, runtime=True)
    for shape, sizes in (((10, 7), (5, 7)), ((20, 29), (1, 29))):  # 3.5 and 1.45
        form = {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "linear"}
        yield Case("Resize", (some(rng, 1, 1, *shape), None, None, ints(*sizes)), form, runtime=True)
    whole = np.array([0, 0, 0, 0.2, 1, 1, 0.7, 1], np.float32)  # up to the very edge
    form = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear", "extrapolation_value": 2.5}
    yield Case("Resize", (x, whole, None, ints(*x.shape[:2], *wanted)), form, runtime=True)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))  # channels last
    yield Case("Resize", (last, None, np.array([1, 2.5, 1.5, 1], np.float32)), {"mode": "linear"}, runtime=True)
    grid = rng.uniform(-1.2, 1.2, (x.shape[0], 4, 5, 2))
    for mode in ("linear", "nearest", "cubic"):
        for edge in ("zeros", "border", "reflection"):
            form = {"mode": mode, "padding_mode": edge, "align_corners": size(rng, 0, 2)}
            yield Case("GridSample", (x, grid), form, opset=20, runtime=True)
    yield Case("GridSample", (x, grid), {"mode": "bilinear"}, opset=16, runtime=True)
    yield Case("GridSample", (some(rng, 1, 2, 3, 4, 5), rng.uniform(-1.2, 1.2, (1, 2, 3, 4, 3))), opset=20, runtime=True)
