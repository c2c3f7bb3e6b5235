"""Random forms of operators of numbers: pointwise, broadcast, products, reductions, quantisation, attention."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from tests.export.checking.cases import Case, family, ints, pick, positive, size, some


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
