"""Poolings pulled back, against autograd of torch's own over padding that is written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dkcam.export.derivative.rule import UnsupportedOperator
from tests.export.derivative.harness import HALF, ROUNDED, Operator, check, swept
from tests.export.derivative.rules.test_convolution import numbers, same

MAXIMA = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
MEANS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


@dataclass(frozen=True)
class Case:
    """Drawn windows. pads: of the file; ends: padding after each axis that the last window needs, or less than 0 where it ends before."""

    x: np.ndarray
    attributes: dict[str, Any]
    pads: list[int]
    ends: list[int]
    free: dict[int, str]
    opset: int

    @property
    def count(self) -> int:
        return self.x.ndim - 2

    def padded(self, x: Tensor, fill: float) -> Tensor:
        sides = [self.pads[: self.count], self.ends]
        return F.pad(x, [sides[side][axis] for axis in reversed(range(self.count)) for side in (0, 1)], value=fill)


def draw(number: int) -> Case:
    random = np.random.default_rng(number)
    count = int(random.choice([1, 2, 2, 2, 3]))
    kernel, strides = numbers(random, count, 1, 2, 3, 4), numbers(random, count, 1, 2, 3)
    dilations = numbers(random, count, 1, 2) if random.random() < 0.4 else [1] * count
    if random.random() < 0.3:
        strides = list(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [int(random.integers(max(r, 2), r + (7 if count < 3 else 4))) for r in reach]
    if random.random() < 0.15:
        kernel, strides, dilations = list(sizes), list(sizes), [1] * count
        reach = kernel
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    pads = [int(random.integers(0, k)) if random.random() < 0.6 else 0 for k in kernel * 2]
    auto = str(random.choice(["NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if "SAME" in auto and (reach != kernel or any(k < s for k, s in zip(kernel, strides, strict=True))):
        auto = "NOTSET"  # refused
    up = bool(random.random() < 0.4) and auto == "NOTSET"
    if auto == "NOTSET":
        attributes["pads"] = pads
    else:
        attributes["auto_pad"] = auto
        sides = [same(n, r, s, auto) if "SAME" in auto else (0, 0) for n, r, s in zip(sizes, reach, strides, strict=True)]
        pads = [one[side] for side in (0, 1) for one in sides]
    if strides != [1] * count or random.random() < 0.5:
        attributes["strides"] = strides
    if dilations != [1] * count:
        attributes["dilations"] = dilations
    if up:
        attributes["ceil_mode"] = 1
    ends = []
    for n, r, s, b, e in zip(sizes, reach, strides, pads[:count], pads[count:], strict=True):
        # the windows that begin before the padding at the end, and reach less than a stride beyond it
        starts = [at for at in range(0, n + b + e, s) if at + r <= n + b + e + (s - 1 if up else 0) and (not up or at < n + b)]
        ends.append(starts[-1] + r - n - b)
    free: dict[int, str] = {}
    if random.random() < 0.5:
        free = {0: "B"}
        told = up and any(r < s + e for r, s, e in zip(reach, strides, pads[count:], strict=True))
        if not told and not ("SAME" in auto and strides != [1] * count):
            free.update({axis + 2: "DHW"[axis] for axis in range(count)})
    x = random.standard_normal((int(random.integers(1, 3)), 2, *sizes))
    if random.random() < 0.5:
        x = np.round(x)  # many ties
    opset = 22 if up else 19 if "dilations" in attributes else 18  # ONNX's shape inference has ceil_mode right since 22
    return Case(x, attributes, pads, ends, free, opset)


@pytest.mark.parametrize("number", range(48))
def test_a_maximum(number: int) -> None:
    case = draw(number)
    kernel = case.attributes["kernel_shape"]
    strides, dilations = (case.attributes.get(name, [1] * case.count) for name in ("strides", "dilations"))
    check(
        Operator("MaxPool", [case.x], case.attributes, free={0: case.free}, opset=case.opset),
        lambda x: MAXIMA[case.count - 1](case.padded(x, -1e9), kernel, strides, 0, dilations),
        k=2 + number % 2,
        random=number,
    )


def sums(case: Case, x: Tensor, fill: float = 0.0) -> Tensor:
    """Over windows; a convolution with ones, each channel by itself."""
    kernel = case.attributes["kernel_shape"]
    strides, dilations = (case.attributes.get(name, [1] * case.count) for name in ("strides", "dilations"))
    convolve = (F.conv1d, F.conv2d, F.conv3d)[case.count - 1]
    padded = case.padded(x, fill)
    flat = padded.reshape(-1, 1, *padded.shape[2:])
    found = convolve(flat, torch.ones(1, 1, *kernel, dtype=x.dtype), None, strides, 0, dilations)
    return found.reshape(*x.shape[:2], *found.shape[2:])


@pytest.mark.parametrize("number", range(60))
def test_a_mean(number: int) -> None:
    case = draw(1000 + number)
    include = bool(number % 2)
    attributes = {**case.attributes, "count_include_pad": int(include)} if include or number % 4 else case.attributes

    def reference(x: Tensor) -> Tensor:
        inside = torch.ones_like(x)
        if include:  # what the file pads is counted, what a last window reaches beyond it is not
            inside = F.pad(
                inside, [case.pads[axis + side * case.count] for axis in reversed(range(case.count)) for side in (0, 1)], value=1.0
            )
            return sums(case, x) / sums(Case(case.x, case.attributes, [0] * 2 * case.count, beyond, {}, 0), inside)
        return sums(case, x) / sums(case, inside)

    beyond = [end - pad for end, pad in zip(case.ends, case.pads[case.count :], strict=True)]
    operator = Operator("AveragePool", [case.x], attributes, free={0: case.free}, opset=case.opset)
    check(operator, reference, k=2 + number % 2, random=number, exact=ROUNDED)


@pytest.mark.parametrize("number", range(16))
def test_a_norm(number: int) -> None:
    case = draw(2000 + number)
    power = 1 + number % 4
    x = np.where(np.abs(case.x) < 0.05, 0.3, case.x)

    def reference(x: Tensor) -> Tensor:
        total = sums(case, x.abs() ** power)
        return total ** (1 / power)

    x[:, 1] = np.abs(x[:, 1]) + 0.1
    operator = Operator("LpPool", [x], {**case.attributes, "p": power}, free={0: case.free}, opset=case.opset)
    check(operator, reference, random=number, exact=ROUNDED)


def test_the_norm_of_nothing() -> None:
    """0, not NaN."""
    x = np.zeros((1, 2, 4, 4))
    x[0, 1, 1, 2] = 3.0
    for kind, attributes in (("LpPool", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("GlobalLpPool", {})):
        for power in (2, 3):
            check(Operator(kind, [x], {**attributes, "p": power}), seeds=["full", "pair"])


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 2, 4)])
@pytest.mark.parametrize("free", [False, True])
def test_over_all_of_space(shape: tuple[int, ...], free: bool) -> None:
    random = np.random.default_rng(0)
    x, space = random.standard_normal(shape), tuple(range(2, len(shape)))
    tied, some = np.round(x), np.where(np.abs(x) < 0.05, 0.3, x)
    names = {0: {0: "B", **{axis: "DHW"[axis - 2] for axis in space}}} if free else {}
    run = check(Operator("GlobalAveragePool", [x], free=names), lambda x: x.mean(space, keepdim=True), exact=ROUNDED)
    assert run.cotangents["even"]["x0"].g.shape[2:] == (shape[1], *[1] * len(space))
    check(Operator("GlobalMaxPool", [tied], free=names), lambda x: x.amax(space, keepdim=True))
    check(Operator("GlobalMaxPool", [tied], free=names), seeds=["full"])
    for power in (1, 2, 3):
        operator = Operator("GlobalLpPool", [some], {"p": power}, free=names)
        check(operator, lambda x, p=power: (x.abs() ** p).sum(space, keepdim=True) ** (1 / p), exact=ROUNDED)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_over_neighbouring_channels(size: int) -> None:
    random = np.random.default_rng(size)
    shape = (2, 7, 3, 4)[: 2 + size % 3]
    attributes = {"size": size, "alpha": 0.5, "beta": 0.75, "bias": 2.0}
    free = {0: {0: "B", **{axis: "HW"[axis - 2] for axis in range(2, len(shape))}}} if size % 2 else {}

    def reference(x: Tensor) -> Tensor:
        squares = F.pad((x * x).movedim(1, -1), [(size - 1) // 2, size // 2]).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
        return x / (2.0 + 0.5 / size * squares) ** 0.75

    check(Operator("LRN", [random.standard_normal(shape)], attributes, free=free), reference, exact=ROUNDED)
    check(Operator("LRN", [random.standard_normal(shape)], {"size": size}), exact=ROUNDED)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_a_network_in_half_precision(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 2, 7, 6))
    pool = F.max_pool2d if kind == "MaxPool" else F.avg_pool2d
    operator = Operator(kind, [x], {"kernel_shape": [3, 3], "strides": [2, 2]}, half=True)
    run = check(operator, lambda x: pool(x, 3, 2), exact=ROUNDED, single=HALF)
    assert all(node.outputs[0].dtype != "FLOAT16" for node in run.written)


@pytest.mark.parametrize(
    ("shape", "attributes", "free"),
    [
        ((2, 3, 7, 6), {"kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 2, 2, 2]}, {}),
        ((1, 2, 4), {"kernel_shape": [4], "dilations": [2], "pads": [0, 3]}, {}),  # one window, which does not hold all between its ends
        ((2, 3, 7, 6), {"kernel_shape": [4, 3], "strides": [3, 2], "ceil_mode": 1, "pads": [1, 0, 1, 0]}, {0: "B", 2: "H", 3: "W"}),
    ],
)
@pytest.mark.parametrize("include", [0, 1])
def test_means_that_few_draws_meet(shape: tuple[int, ...], attributes: dict[str, Any], free: dict[int, str], include: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    check(Operator("AveragePool", [x], {**attributes, "count_include_pad": include}, free={0: free}, opset=22), exact=ROUNDED)


def test_what_stays_even() -> None:
    """Tiles and windows over everything keep an even gradient even: a pooled head costs nothing beside the network."""
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 8))
    for attributes, axes in (({"kernel_shape": [2, 2], "strides": [2, 2]}, (1, 1)), ({"kernel_shape": [6, 1]}, (1, 1))):
        run = check(Operator("AveragePool", [x], attributes), seeds=["even"], exact=ROUNDED)
        arrived = run.cotangents["even"]["x0"]
        assert arrived.g.shape[3:] == axes and arrived.d is not None and arrived.d.shape == ()


def test_an_even_gradient_goes_back_once_for_all_k() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 8))
    for kind, size in (("MaxPool", 3), ("AveragePool", 3)):
        run = check(Operator(kind, [x], {"kernel_shape": [size, size]}), seeds=["even"], exact=ROUNDED)
        arrived = run.cotangents["even"]["x0"]
        assert arrived.g.shape == ["K", 2, 3, 1, 1] and arrived.d is not None and list(arrived.d.shape or ())[-2:] == [6, 8]


@pytest.mark.parametrize("size", [2, 3])
def test_a_stride_over_a_free_size_that_it_divides(size: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 8))
    attributes = {"kernel_shape": [size, size], "strides": [2, 2], "pads": [size - 2] * 4}
    for kind, pool in (("MaxPool", F.max_pool2d), ("AveragePool", F.avg_pool2d)):
        more = {} if kind == "MaxPool" else {"count_include_pad": 1}
        operator = Operator(kind, [x], attributes | more, free={0: {0: "B", 2: "2*H", 3: "W"}}, declared=[["B", 3, "H", "W/2"]])
        run = check(operator, lambda x, pool=pool: pool(x, size, 2, size - 2), exact=ROUNDED)
        if size == 2 and kind == "AveragePool":
            assert "Slice" not in [node.op_type for node in run.written]
    with_ends = Operator("MaxPool", [x], attributes, free={0: {2: "2*H"}}, declared=[[2, 3, "H", 4]])
    shapes = [node for node in swept(with_ends, [(2, 3, 3, 4)], seeds=["full"]).written if node.op_type == "Slice"]
    assert all(value.const_value is not None for node in shapes for value in node.inputs[1:] if value is not None)


def test_how_many_nodes_a_maximum_takes() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8))
    run = swept(Operator("MaxPool", [x], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}), [(1, 3, 4, 4)], seeds=["full"])
    assert len(run.written) <= 41


@pytest.mark.parametrize(
    ("kind", "attributes", "free", "why"),
    [
        ("MaxPool", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {2: "H"}, "fix the size"),
        ("MaxPool", {"auto_pad": "SAME_UPPER", "dilations": [2, 2]}, {}, "runtimes pad"),
        ("AveragePool", {"auto_pad": "SAME_LOWER", "strides": [4, 4]}, {}, "runtimes pad"),
        ("AveragePool", {"ceil_mode": 1, "strides": [2, 2], "pads": [1, 1, 2, 2]}, {3: "W"}, "fix the size"),
    ],
)
def test_what_is_refused(kind: str, attributes: dict[str, Any], free: dict[int, str], why: str) -> None:
    operator = Operator(kind, [np.ones((1, 2, 8, 8))], {"kernel_shape": [3, 3], **attributes}, free={0: free})
    with pytest.raises(UnsupportedOperator, match=f"{kind}.*'node'.*{why}"):
        swept(operator, [(1, 2, 3, 3)], seeds=["full"])


def test_neighbours_of_volumes_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match="5 axes"):
        swept(Operator("LRN", [np.ones((1, 2, 3, 3, 3))], {"size": 3}), [(1, 2, 3, 3, 3)], seeds=["full"])
