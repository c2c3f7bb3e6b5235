"""Convolutions pulled back, against autograd of torch's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dkcam.export.derivative.cotangent import Cotangent
from dkcam.export.derivative.rule import UnsupportedOperator
from dkcam.export.derivative.sweep import sweep
from dkcam.export.writer import Writer
from tests.export.derivative.harness import HALF, Operator, check, swept

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def around(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Zeros before and after each axis of space, ONNX's order; negative ones crop."""
    count = len(pads) // 2
    return F.pad(x, [pads[axis + side * count] for axis in reversed(range(count)) for side in (0, 1)])


def same(size: int, reach: int, stride: int, auto: str) -> tuple[int, int]:
    """Padding with which the output is as long as the input, over the stride, rounded up."""
    missing = max(((size + stride - 1) // stride - 1) * stride + reach - size, 0)
    return (missing // 2, (missing + 1) // 2) if auto == "SAME_UPPER" else ((missing + 1) // 2, missing // 2)


def numbers(random: np.random.Generator, count: int, *choices: int) -> list[int]:
    return [int(one) for one in random.choice(choices, count)]


@pytest.mark.parametrize("number", range(48))
def test_a_convolution(number: int) -> None:
    random = np.random.default_rng(number)
    count = int(random.choice([1, 2, 2, 2, 3]))
    kernel, dilations = numbers(random, count, 1, 2, 3, 3, 5), numbers(random, count, 1, 1, 2, 3)
    strides = [1] * count if random.random() < 0.4 else numbers(random, count, 1, 2, 3)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [int(random.integers(r, r + 7 if count < 3 else r + 3)) for r in reach]
    pads = numbers(random, 2 * count, 0, 1, 2, 4)
    if random.random() < 0.25:
        kernel, reach, strides, pads = [1] * count, [1] * count, [1] * count, [0] * 2 * count
    groups, outer, inner = (int(random.choice(choice)) for choice in ([1, 1, 2, 4], [1, 2, 3], [1, 2]))
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups}
    auto = str(random.choice(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto != "NOTSET":
        attributes["auto_pad"] = auto
        sides = [same(n, r, s, auto) if "SAME" in auto else (0, 0) for n, r, s in zip(sizes, reach, strides, strict=True)]
        pads = [one[side] for side in (0, 1) for one in sides]
    else:
        attributes["pads"] = pads
    if random.random() < 0.5:
        attributes["kernel_shape"] = kernel
    if strides == [1] * count and random.random() < 0.5:
        del attributes["strides"]
    free: dict[int, str] = {}
    if random.random() < 0.5:
        free = {0: "B"} if "SAME" in auto else {0: "B", **{axis + 2: "DHW"[axis] for axis in range(count)}}
    x = random.standard_normal((int(random.integers(1, 3)), groups * inner, *sizes))
    weight = random.standard_normal((groups * outer, inner, *kernel))
    bias = random.standard_normal(groups * outer) if random.random() < 0.5 else None
    computed = (1,) if random.random() < 0.3 else ()
    operator = Operator("Conv", [x, weight, bias], attributes, free={0: free}, computed=computed)
    check(
        operator,
        lambda x, w, b: CONVOLUTIONS[count - 1](around(x, pads), w, b, strides, 0, dilations, groups),
        k=2 + number % 2,
        random=number,
    )


@pytest.mark.parametrize("number", range(32))
def test_a_transposed_convolution(number: int) -> None:
    random = np.random.default_rng(100 + number)
    count = int(random.choice([1, 2, 2, 3]))
    kernel, strides, dilations = numbers(random, count, 1, 2, 3, 4), numbers(random, count, 1, 2, 3), numbers(random, count, 1, 1, 2)
    sizes, more = numbers(random, count, 2, 3, 5), [int(random.integers(0, max(s, d))) for s, d in zip(strides, dilations, strict=True)]
    if random.random() < 0.2:
        kernel, strides, more = [1] * count, [1] * count, [0] * count
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [int(random.integers(0, (r + 1) // 2 + 1)) for r in reach * 2]
    groups, outer, inner = (int(random.choice(choice)) for choice in ([1, 1, 2, 3], [1, 2], [1, 2]))
    kind = str(random.choice(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "shape", "shape SAME_UPPER"]))
    if kind.startswith("SAME") and any(k < s for k, s in zip(kernel, strides, strict=True)):
        kind = "pads"  # refused
    if kind.startswith("SAME"):
        more = [0] * count  # ONNX's own shape inference is wrong for both together, ONNX Runtime right
    elif count == 1:
        kind = "pads"  # for output_shape of one axis it is wrong too
    whole = [(n - 1) * s + r + m for n, s, r, m in zip(sizes, strides, reach, more, strict=True)]
    if any(n - pads[a] - pads[a + count] < 1 for a, n in enumerate(whole)):
        pads = [0] * 2 * count
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups, "output_padding": more}
    if kind == "pads":
        attributes["pads"] = pads
    else:
        wanted = [n * s for n, s in zip(sizes, strides, strict=True)]
        if "shape" in kind:
            wanted = [n - int(random.integers(0, min(n, 3))) for n in whole]
            attributes["output_shape"] = wanted
        if "SAME" in kind:
            attributes["auto_pad"] = kind.split()[-1]
        missing = [max(n - w, 0) for n, w in zip(whole, wanted, strict=True)]
        first = [m // 2 if "UPPER" in kind else (m + 1) // 2 for m in missing]
        pads = first + [m - f for m, f in zip(missing, first, strict=True)]
    free: dict[int, str] = {}
    if random.random() < 0.5:
        free = {0: "B"} if "shape" in kind else {0: "B", **{axis + 2: "DHW"[axis] for axis in range(count)}}
    x = random.standard_normal((int(random.integers(1, 3)), groups * inner, *sizes))
    weight = random.standard_normal((groups * inner, outer, *kernel))

    def reference(x: Tensor, w: Tensor) -> Tensor:
        y = TRANSPOSED[count - 1](x, w, None, strides, 0, 0, groups, dilations)
        return around(around(y, [0] * count + more), [-p for p in pads])

    check(Operator("ConvTranspose", [x, weight], attributes, free={0: free}), reference, k=2 + number % 2, random=number)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_a_network_in_half_precision(kind: str) -> None:
    """The gradient is computed in float32 all the same."""
    random = np.random.default_rng(0)
    operator = Operator(kind, [random.standard_normal((2, 4, 6, 7)), random.standard_normal((4, 4, 3, 3))], {"strides": [2, 1]}, half=True)
    convolve = F.conv2d if kind == "Conv" else F.conv_transpose2d
    run = check(operator, lambda x, w: convolve(x, w, stride=(2, 1)), single=HALF)
    assert {str(node.outputs[0].dtype) for node in run.written if "Conv" in node.op_type} == {"FLOAT"}


def test_a_pointwise_convolution_stays_even_along_space_and_batch() -> None:
    random = np.random.default_rng(0)
    operator = Operator("Conv", [random.standard_normal((2, 4, 6, 7)), random.standard_normal((3, 4, 1, 1))])
    run = check(operator, F.conv2d, seeds=["even", "lazy"])
    assert run.cotangents["even"]["x0"].g.shape == ["K", 2, 4, 1, 1]


def test_the_weights_are_in_the_file_once() -> None:
    """Turned round by nodes: the runtime folds them when it loads the file."""
    random = np.random.default_rng(0)
    operator = Operator("Conv", [random.standard_normal((1, 96, 5, 5)), random.standard_normal((96, 96, 3, 3))], {"pads": [1, 1, 1, 1]})
    run = swept(operator, [(1, 96, 5, 5)], seeds=["full"])
    assert [node.op_type for node in run.written] == ["Reshape", "Transpose", "Slice", "Conv", "Reshape", "Identity"]
    assert sum(value.const_value is not None and value.const_value.size > 5000 for value in run.model.graph.initializers.values()) == 1


@pytest.mark.parametrize(
    ("kind", "attributes", "free", "why"),
    [
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2], "output_padding": [1, 1]}, {}, "declared as .* expected"),
        ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {2: "H"}, "fix the size"),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [4, 4]}, {}, "smaller than its stride"),
        ("ConvTranspose", {"output_shape": [9, 9], "strides": [2, 2]}, {3: "W"}, "fix the size"),
    ],
)
def test_what_is_refused(kind: str, attributes: dict[str, Any], free: dict[int, str], why: str) -> None:
    operator = Operator(kind, [np.ones((1, 2, 5, 5)), np.ones((2, 2, 3, 3))], attributes, free={0: free})
    with pytest.raises(UnsupportedOperator, match=f"{kind}.*'node'.*{why}"):
        swept(operator, [(1, 2, 3, 3)], seeds=["full"])


@pytest.mark.parametrize(
    "attributes", [{"pads": [1, 1, 1, 1]}, {"pads": [0, 2, 1, 0]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}]
)
def test_a_stride_over_a_free_size_that_it_divides(attributes: dict[str, Any]) -> None:
    """Nothing is left over, so nothing needs to be cut off."""
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((2, 3, 6, 8)), random.standard_normal((4, 3, 3, 3))]
    free = {0: {0: "B", 2: "H/2", 3: "W"}}
    operator = Operator("Conv", inputs, {"strides": [2, 2], **attributes}, free=free, declared=[["B", 4, "H/4", "W/2"]])
    pads = attributes.get("pads", [0, 0, 1, 1] if attributes.get("auto_pad") == "SAME_UPPER" else [1, 1, 0, 0])
    run = check(operator, lambda x, w: F.conv2d(around(x, pads), w, stride=2))
    assert "Slice" not in [node.op_type for node in run.written]


def test_negative_pads_are_refused() -> None:
    """ONNX's shape inference refuses them too, but not every file goes through it."""
    operator = Operator("Conv", [np.ones((1, 2, 5, 5)), np.ones((2, 2, 3, 3))], {"pads": [1, 1, 1, 0]})
    model = operator.model()
    model.graph[0].attributes["pads"] = ir.AttrInt64s("pads", [1, 1, -1, 0])
    value = model.graph.inputs[0]
    with pytest.raises(UnsupportedOperator, match="pads are negative"):
        sweep(Writer(model.graph, 18), {model.graph.outputs[0]: Cotangent(model.graph.outputs[0])}, [value])


def test_weights_that_depend_on_the_picture_are_refused() -> None:
    operator = Operator("Conv", [np.ones((1, 2, 5, 5)), np.ones((2, 2, 3, 3))], active=(0, 1))
    with pytest.raises(UnsupportedOperator, match="depend on the picture"):
        swept(operator, [(1, 2, 3, 3)], seeds=["full"])


def test_a_wrong_rule_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the harness: a gradient that is off in one number of a border fails."""
    operator = Operator("Conv", [np.ones((1, 1, 4, 4)), np.ones((1, 1, 3, 3))])
    with pytest.raises(AssertionError, match="off by"):
        check(operator, lambda x, w: F.conv2d(x, w) + 1e-3 * torch.cat([x[..., :1, 1:3], x[..., :1, 1:3]], 2))
