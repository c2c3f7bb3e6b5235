"""Random forms of single operators: sizes, strides, pads, groups, axes, modes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from onnx import helper

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One node. ``inputs``: in order, None where left out; real ones in float64.

    runtime: compared with ONNX Runtime in float32, not with the onnx package's reference in float64, which for this operator is wrong, does
    not take such inputs, or computes in float32. smooth: differentiable where the inputs lie.
    """

    kind: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18
    runtime: bool = False
    bound: float = 1e-9  # of the reference, relative: some write a constant in float32
    smooth: bool = True

    def feed(self, dtype: Any = np.float64) -> dict[str, Array]:
        given = {f"x{i}": value for i, value in enumerate(self.inputs) if value is not None}
        return {name: value.astype(dtype) if value.dtype == np.float64 else value for name, value in given.items()}

    def model(self, dtype: Any = np.float64) -> onnx.ModelProto:
        names = [f"x{i}" if value is not None else "" for i, value in enumerate(self.inputs)]
        node = helper.make_node(self.kind, names, [f"y{i}" for i in range(self.outputs)], name="n", **self.attributes)
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in self.feed(dtype).items()
        ]
        graph = helper.make_graph([node], "case", inputs, [helper.make_empty_tensor_value_info(name) for name in node.output])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def __str__(self) -> str:
        shapes = [None if value is None else value.tolist() if value.size < 5 else value.shape for value in self.inputs]
        return f"{self.kind} {self.attributes} {shapes} opset {self.opset}"


Family = Callable[[Generator], Iterator[Case]]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    FAMILIES[function.__name__] = function
    return function


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def some(rng: Generator, *shape: int) -> Array:
    return rng.standard_normal(shape)


def positive(rng: Generator, *shape: int) -> Array:
    return rng.random(shape) + 0.5


def size(rng: Generator, low: int = 1, high: int = 6) -> int:
    return int(rng.integers(low, high))


def pick(rng: Generator, *values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


@family
def pointwise(rng: Generator) -> Iterator[Case]:
    x = some(rng, size(rng), size(rng), size(rng))
    for kind in ("Abs", "Atan", "Asinh", "Cos", "Exp", "Identity", "Mish", "Neg", "Relu", "Sigmoid", "Sin", "Sinh"):
        yield Case(kind, (x,))
    for kind in ("Softplus", "Softsign", "Cosh", "Tan", "Tanh"):
        yield Case(kind, (x * 10 if kind == "Softplus" else x / 2,))
    for kind in ("Erf", "Gelu"):
        yield Case(kind, (x,), opset=20, runtime=True)
    yield Case("Gelu", (x,), {"approximate": "tanh"}, opset=20, bound=1e-7)
    yield Case("HardSwish", (x * 3,), bound=1e-7)
    for kind in ("Log", "Sqrt", "Reciprocal"):
        yield Case(kind, (positive(rng, 3, 4),))
    for kind in ("Acos", "Asin", "Atanh"):
        yield Case(kind, (rng.uniform(-0.9, 0.9, (3, 4)),))
    yield Case("Acosh", (positive(rng, 3, 4) + 0.6,))
    for kind in ("Sign", "Floor", "Ceil", "Round"):
        yield Case(kind, (x * 3,), smooth=False)
    a, b = float(rng.uniform(0.1, 2)), float(rng.uniform(0.1, 2))
    for kind in ("LeakyRelu", "Elu", "Celu", "ThresholdedRelu"):
        yield Case(kind, (x,), {"alpha": np.float32(a).item()})
        yield Case(kind, (x,))
    yield Case("Selu", (x,), {"alpha": a, "gamma": b})
    yield Case("Selu", (x,))
    yield Case("HardSigmoid", (x,), {"alpha": a / 3, "beta": b / 3})
    yield Case("Shrink", (x,), {"lambd": a / 2, "bias": b})
    yield Case("Swish", (x,), {"alpha": a}, opset=24)
    yield Case("PRelu", (x, some(rng, 1, x.shape[2])))
    low, high = np.array(-a / 2), np.array(b / 2)
    for bounds in ((low, high), (low,), (None, high), (high, low)):
        yield Case("Clip", (x, *bounds))
    for kind in ("Softmax", "LogSoftmax", "Hardmax"):
        yield Case(kind, (x,), {"axis": size(rng, -3, 3)}, smooth=kind != "Hardmax")
        yield Case(kind, (x,), smooth=kind != "Hardmax")
    odd = np.where(rng.random(x.shape) < 0.5, np.array([np.inf, -np.inf, np.nan, 1.0])[rng.integers(0, 4, x.shape)], x)
    for flags in ({}, {"detect_negative": 0}, {"detect_positive": 0}):
        yield Case("IsInf", (odd,), flags, opset=20, smooth=False)
    yield Case("IsNaN", (odd,), opset=20, smooth=False)
    yield Case("Not", (x > 0,), smooth=False)
    yield Case("Cast", (x * 3,), {"to": 7}, smooth=False)
    yield Case("Cast", (x.round(),), {"to": 9}, smooth=False)
    yield Case("Cast", (rng.integers(-9, 9, (3, 4)),), {"to": 11}, smooth=False)
    yield Case("CastLike", (x * 3, ints(1)), smooth=False)
    yield Case("Dropout", (x, np.array(0.3)), smooth=False)


@family
def broadcast(rng: Generator) -> Iterator[Case]:
    n, c, h = size(rng), size(rng), size(rng)
    for shapes in (((n, c, h), (c, 1)), ((h,), (n, 1, h)), ((), (c, h))):
        a, b = (some(rng, *shape) for shape in shapes)
        for kind in ("Add", "Sub", "Mul"):
            yield Case(kind, (a, b))
        yield Case("Div", (a, positive(rng, *shapes[1])))
        yield Case("Pow", (positive(rng, *shapes[0]), b))
        yield Case("Mod", (a * 5, positive(rng, *shapes[1])), {"fmod": 1})
        yield Case("Where", (rng.random(shapes[0]) < 0.5, a, b))
        for kind in ("Max", "Min", "Sum", "Mean"):
            yield Case(kind, (a, b, some(rng, h)), runtime=True)
            yield Case(kind, (a,))
        for kind in ("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"):
            yield Case(kind, (a.round(), b.round()), smooth=False)
        for kind in ("And", "Or", "Xor"):
            yield Case(kind, (a > 0, b > 0), smooth=False)
        whole, other = (np.asarray(rng.integers(-9, 10, shape)) for shape in shapes)
        for kind in ("Mod", "Div"):
            yield Case(kind, (whole, np.where(other == 0, 1, other)), smooth=False, runtime=True)
        for kind in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            yield Case(kind, (whole, other), smooth=False)
        yield Case("Pow", (whole, np.abs(other) % 4), smooth=False)
    yield Case("Pow", (some(rng, n, h), np.array(2.0, np.float32)))


@family
def product(rng: Generator) -> Iterator[Case]:
    n, m, k, b = size(rng), size(rng), size(rng), size(rng)
    for left, right in (((n, k), (k, m)), ((k,), (k, m)), ((n, k), (k,)), ((b, 1, n, k), (3, k, m)), ((n, k), (b, k, m))):
        yield Case("MatMul", (some(rng, *left), some(rng, *right)))
    for a_turned, b_turned in ((0, 0), (0, 1), (1, 0), (1, 1)):
        a, c = some(rng, *((k, n) if a_turned else (n, k))), some(rng, *((m, k) if b_turned else (k, m)))
        more = pick(rng, (), (some(rng, m),), (some(rng, n, 1),))
        yield Case("Gemm", (a, c, *more), {"transA": a_turned, "transB": b_turned, "alpha": 0.75, "beta": 1.5})
    for equation, shapes in (("bij,bjk->bik", ((b, n, k), (b, k, m))), ("...ij,kj->...ik", ((b, 2, n, k), (m, k))), ("ij->j", ((n, k),))):
        yield Case("Einsum", tuple(some(rng, *shape) for shape in shapes), {"equation": equation})


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
def reduction(rng: Generator) -> Iterator[Case]:
    x = some(rng, size(rng), size(rng), size(rng), size(rng))
    for kind in ("Sum", "Mean", "Prod", "L1", "L2", "SumSquare", "Max", "Min", "LogSumExp", "LogSum"):
        real = np.abs(x) + 0.5 if kind == "LogSum" else x
        for axes in ([1], [-1, 2], [0, 1, 2, 3]):
            yield Case(f"Reduce{kind}", (real, ints(*axes)), {"keepdims": size(rng, 0, 2)})
        yield Case(f"Reduce{kind}", (real,), {"keepdims": size(rng, 0, 2)})
        if kind not in ("Sum",):
            yield Case(f"Reduce{kind}", (real,), {"axes": [1, 3], "keepdims": 0}, opset=13)
        if kind not in ("LogSum", "LogSumExp"):
            whole = rng.integers(-9, 9, (3, 4)).astype(np.int32)
            yield Case(f"Reduce{kind}", (whole, ints(1)), {"keepdims": size(rng, 0, 2)}, smooth=False, runtime=True)
        if kind not in ("Max", "Min", "LogSumExp"):
            yield Case(f"Reduce{kind}", (np.array(2.5),), {"keepdims": size(rng, 0, 2)})
    yield Case("ReduceSum", (x, ints()), {"noop_with_empty_axes": 1})
    ties = (x * 2).round()
    for kind in ("ArgMax", "ArgMin"):
        for last in (0, 1):
            form = {"axis": size(rng, -4, 4), "keepdims": size(rng, 0, 2), "select_last_index": last}
            yield Case(kind, (ties,), form, smooth=False)
    for axis in (1, -1):
        count = size(rng, 1, x.shape[axis] + 1)
        yield Case("TopK", (x, ints(count)), {"axis": axis, "largest": size(rng, 0, 2)}, outputs=2)
        yield Case("TopK", (ties, ints(count)), {"axis": axis, "largest": size(rng, 0, 2)}, outputs=2, smooth=False)
        form = {"exclusive": size(rng, 0, 2), "reverse": size(rng, 0, 2)}
        yield Case("CumSum", (x, np.array(axis, np.int64)), form)


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
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))  # channels last
    yield Case("Resize", (last, None, np.array([1, 2.5, 1.5, 1], np.float32)), {"mode": "linear"}, runtime=True)
    grid = rng.uniform(-1.2, 1.2, (x.shape[0], 4, 5, 2))
    for mode in ("linear", "nearest", "cubic"):
        for edge in ("zeros", "border", "reflection"):
            form = {"mode": mode, "padding_mode": edge, "align_corners": size(rng, 0, 2)}
            yield Case("GridSample", (x, grid), form, opset=20, runtime=True)
    yield Case("GridSample", (x, grid), {"mode": "bilinear"}, opset=16, runtime=True)
    yield Case("GridSample", (some(rng, 1, 2, 3, 4, 5), rng.uniform(-1.2, 1.2, (1, 2, 3, 4, 3))), opset=20, runtime=True)


@family
def quantise(rng: Generator) -> Iterator[Case]:
    x = some(rng, 2, 3, 4) * 3
    for kind in (np.uint8, np.int8):
        yield Case("QuantizeLinear", (x, np.array(0.05), np.array(3, kind)), smooth=False, runtime=True)
        yield Case("QuantizeLinear", (x, positive(rng, 3) / 20, np.array([1, 5, 7], kind)), {"axis": -2}, smooth=False, runtime=True)
        whole = rng.integers(0, 100, (2, 3, 4)).astype(kind)
        yield Case("DequantizeLinear", (whole, np.array(0.05), np.array(3, kind)), smooth=False, runtime=True)
        yield Case("DequantizeLinear", (whole, positive(rng, 3), np.array([1, 5, 7], kind)), {"axis": 1}, smooth=False, runtime=True)
        blocks = positive(rng, 2, 3, 2)
        yield Case("DequantizeLinear", (whole, blocks), {"axis": 2, "block_size": 2}, smooth=False, opset=21, runtime=True)
    yield Case("QuantizeLinear", (x, np.array(0.05)), smooth=False, runtime=True)


@family
def attention(rng: Generator) -> Iterator[Case]:
    batch, heads, queries, keys = size(rng), size(rng, 1, 3), size(rng, 2), size(rng, 2)
    q, k, v = some(rng, batch, 2 * heads, queries, 4), some(rng, batch, heads, keys, 4), some(rng, batch, heads, keys, 3)
    for form in ({}, {"scale": 0.25}, {"softcap": 1.5}, {"is_causal": 1}):
        yield Case("Attention", (q, k, v), form, opset=23)
    yield Case("Attention", (q, k, v, some(rng, queries, keys)), opset=23)
    yield Case("Attention", (q, k, v, rng.random((queries, keys)) < 0.7), opset=23)
    flat = [some(rng, batch, length, 8) for length in (queries, keys, keys)]
    yield Case("Attention", tuple(flat), {"q_num_heads": 4, "kv_num_heads": 4}, opset=23)
