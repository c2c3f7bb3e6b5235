"""What the interpreter promises beside numbers: derivatives at kinks, choices of another run, values given and cut off, refusals."""

from __future__ import annotations

import itertools
import re
import weakref
from typing import Any
from zlib import crc32

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, parser

from dkcam.errors import ExportError
from dkcam.export.checking.differences import differences
from dkcam.export.checking.gradients import gradients
from dkcam.export.checking.interpreter import Interpreter, NotInterpreted, evaluate
from dkcam.export.checking.operators import OPERATORS
from tests.export.checking import cases_of_numbers, cases_of_places  # noqa: F401
from tests.export.checking.cases import FAMILIES, Case, ints

ALL = [case for name, family in FAMILIES.items() for case in family(np.random.default_rng(crc32(name.encode())))]


def slope(kind: str, x: list[float] | list[list[float]], *more: Any, opset: int = 18, **attributes: Any) -> Any:
    """The derivative of the sum of the outputs at the first input."""
    case = Case(kind, (np.array(x, np.float64), *more), attributes, opset=opset)
    found = gradients(case.model(), case.feed(), "x0", lambda values: values["y0"].sum().reshape(1), reads=["y0"])
    return found.gradients[0].tolist()


def test_derivatives_at_kinks() -> None:
    assert slope("Relu", [-1, 0, 1]) == [0, 0, 1]
    assert slope("ThresholdedRelu", [0.5, 1, 2]) == [0, 0, 1]
    assert slope("Shrink", [-2, -0.5, 0, 0.5, 2]) == [1, 0, 0, 0, 1]
    assert slope("LeakyRelu", [-1, 0, 1], alpha=0.25) == [0.25, 0.25, 1]
    assert slope("PRelu", [-1, 0, 1], np.array([0.25])) == [0.25, 0.25, 1]
    assert slope("Elu", [0], alpha=0.5) == [0.5]
    assert slope("Celu", [0], alpha=0.5) == [1]
    assert slope("Selu", [0], alpha=0.5, gamma=3.0) == [1.5]
    assert slope("Clip", [-2, -1, 0, 1, 2], np.array(-1.0), np.array(1.0)) == [0, 0, 1, 0, 0]
    assert slope("HardSigmoid", [-2, 0, 2], alpha=0.25, beta=0.5) == [0, 0.25, 0]
    assert slope("HardSwish", [-3, 3]) == [0, 1]
    assert slope("Abs", [-1, 0, 1]) == [-1, 0, 1]
    for kind in ("Sign", "Floor", "Ceil", "Round"):
        assert slope(kind, [-1.2, 0, 1.2]) == [0, 0, 0]
    for kind in ("Max", "Min"):
        assert slope(kind, [1], np.array([1.0]), np.array([1.0])) == [1]
    assert slope("MaxPool", [[[2, 2, 1, 2]]], kernel_shape=[4]) == [[[1, 0, 0, 0]]]
    assert slope("GlobalMaxPool", [[[1, 2, 2]]]) == [[[0, 0.5, 0.5]]]
    assert slope("TopK", [1, 2, 2], ints(1)) == [0, 1, 0]
    for kind in ("ReduceMax", "ReduceMin"):
        assert slope(kind, [2, 2]) == [0.5, 0.5]
        case = Case(kind, (np.array([1.0, 2, 3]),))
        seen = {"x0": np.array([2.0, 2, 2])}
        found = gradients(case.model(), case.feed(), "x0", lambda values: values["y0"].reshape(1), reads=["y0"], seen=seen)
        np.testing.assert_allclose(found.gradients[0], [1 / 3] * 3)
        np.testing.assert_allclose(found.scores, [2])
    for kind in ("ReduceL1", "ReduceL2"):
        assert slope(kind, [0, 0]) == [0, 0]
    assert slope("LpPool", [[[0, 0, 3]]], kernel_shape=[2], strides=[1]) == [[[0, 0, 1]]]
    assert slope("QuantizeLinear", [-0.3, 0, 25.4, 25.5, 25.6], np.array(0.1)) == pytest.approx([0, 10, 10, 10, 0])


def test_a_relu_keeps_what_is_no_number() -> None:
    case = Case("Relu", (np.array([np.nan]),))
    assert evaluate(case.model(), case.feed(), ["y0"])["y0"].isnan().all()
    assert evaluate(case.model(), case.feed(), ["y0"], seen=case.feed())["y0"].isnan().all()


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_choices_by_values_of_another_run(kind: str) -> None:
    """Where the other run's inputs are this run's nothing changes; where they differ, the branch is theirs and smooth in ours."""
    rng = np.random.default_rng(0)
    declared, chosen, flipped = OPERATORS[kind].branches, 0, 0
    for case in (case for case in ALL if case.kind == kind):
        interpreter, outputs = Interpreter(case.model()), [f"y{i}" for i in range(case.outputs)]
        feed, real = case.feed(), [name for name, value in case.feed().items() if value.dtype.kind == "f" and value.size]
        inputs = [f"x{i}" for i in range(len(case.inputs)) if declared is None or i in declared]
        plain, tally = interpreter.evaluate(feed, outputs), dict[str, tuple[int, int]]()
        seen = {name: feed[name] for name in feed}
        same = interpreter.evaluate(feed, outputs, seen=seen, tally=tally)
        for name in outputs:
            torch.testing.assert_close(same[name], plain[name], rtol=1e-14, atol=1e-14, equal_nan=True)
        assert all(wrong == 0 for wrong, _ in tally.values()) or np.isnan(next(iter(feed.values()))).any()
        chosen += sum(count for _, count in tally.values())
        for index, value in enumerate(case.inputs):
            if f"x{index}" in real and kind not in ("NonZero", "NonMaxSuppression"):
                tally.clear()
                interpreter.evaluate(feed, outputs, seen={f"x{index}": value}, tally=tally)
                assert bool(tally) == (declared is None or index in declared), f"{case}: input {index}"
        others = {name: -feed[name] + 0.1 * rng.standard_normal(feed[name].shape) for name in real if name in inputs}
        if not others or kind in ("NonZero", "NonMaxSuppression"):
            continue
        tally.clear()
        moved = interpreter.evaluate(feed, outputs, seen=others, tally=tally)
        flipped += sum(wrong for wrong, _ in tally.values())
        sums = [name for name in outputs if moved[name].is_floating_point()]
        if sums and case.smooth:
            found = gradients(interpreter, feed, inputs[0], lambda v: torch.stack([v["y0"].sum()]), reads=["y0"], seen=others)
            error = differences(
                interpreter, feed, inputs[0], lambda v: torch.stack([v["y0"].sum()]), found.gradients, reads=["y0"], seen=others
            )
            assert error.error.max() < 1e-6, case
            assert found.flipped == sum(wrong for wrong, _ in tally.values())
    assert bool(chosen) == (declared != ()), kind
    if declared != () and kind not in ("NonZero", "NonMaxSuppression"):
        assert flipped, kind


NETWORK = parser.parse_model("""
<ir_version: 10, opset_import: ["" : 18]>
network (float[1,2,4,4] image) => (float[1,3] scores, float[1,2,4,4] other)
<float[3,2] w = {1, -2, 3, 4, -5, 6}>
{
    a = Relu(image)
    b = Mul(a, a)
    c = Relu(b)
    pooled = GlobalAveragePool(c)
    flat = Flatten(pooled)
    scores = Gemm <transB: int = 1> (flat, w)
    other = Missing(a)
}
""")
IMAGE = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)


def test_only_what_is_needed_is_computed() -> None:
    assert evaluate(NETWORK, {"image": IMAGE}, ["scores"])["scores"].dtype == torch.float64
    with pytest.raises(NotInterpreted, match=r"cannot compute Missing \(node ''\): unknown operator"):
        evaluate(NETWORK, {"image": IMAGE}, ["other"])


def test_given_values_replace_a_part() -> None:
    c = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    expected = c.mean((2, 3)) @ np.array([[1, -2], [3, 4], [-5, 6]]).T
    found = evaluate(NETWORK, {}, ["scores", "flat"], given={"c": c}, dtype=torch.float32)
    assert found["scores"].dtype == torch.float32
    np.testing.assert_allclose(found["scores"], expected)


def test_leaves_are_cut_off() -> None:
    found = evaluate(NETWORK, {"image": IMAGE}, ["scores", "image", "b"], leaves=["image", "b"])
    assert found["b"].is_leaf and found["b"].requires_grad
    image, b = torch.autograd.grad(found["scores"].sum(), [found["image"], found["b"]], allow_unused=True)
    assert image is None
    assert b.shape == (1, 2, 4, 4)
    assert not evaluate(NETWORK, {"image": IMAGE}, ["scores"])["scores"].requires_grad


def test_gradients_of_names_and_of_functions() -> None:
    found = gradients(NETWORK, {"image": IMAGE}, "a", ["scores"])
    a, w = np.maximum(IMAGE, 0), np.array([[1, -2], [3, 4], [-5, 6.0]])
    np.testing.assert_allclose(found.gradients, 2 * a / 16 * w[:, None, :, None, None], rtol=1e-12)
    np.testing.assert_allclose(found.leaf, a)
    np.testing.assert_allclose(found.scores, ((a**2).mean((2, 3)) @ w.T)[0], rtol=1e-6)
    one = gradients(NETWORK, {"image": IMAGE}, "a", lambda values: values["scores"][0, 1:2], reads=["scores"])
    assert torch.equal(one.gradients, found.gradients[1:2])
    nothing = gradients(NETWORK, {"image": IMAGE}, "c", ["a"])
    assert nothing.gradients.shape == (32, 1, 2, 4, 4) and not nothing.gradients.any()


def test_differences_tell_a_wrong_gradient() -> None:
    found = gradients(NETWORK, {"image": IMAGE}, "a", ["scores"]).gradients
    right = differences(NETWORK, {"image": IMAGE}, "a", ["scores"], found)
    assert right.expected.shape == right.measured.shape == (3, 3)
    assert right.error.max() < 1e-8
    wrong = found.clone()
    wrong[1] *= 1.001
    error = differences(NETWORK, {"image": IMAGE}, "a", ["scores"], wrong).error
    assert error[1] > 1e-4
    assert error[[0, 2]].max() < 1e-8
    turned = found.flip(3)
    assert differences(NETWORK, {"image": IMAGE}, "a", ["scores"], turned).error.min() > 0.01


def test_branches_are_named_and_followed() -> None:
    interpreter = Interpreter(NETWORK)
    assert interpreter.branches(["scores"], "image") == ["image", "b"]
    assert interpreter.branches(["scores"], "a") == ["b"]
    b = evaluate(NETWORK, {"image": IMAGE}, ["b"])["b"]
    found = gradients(interpreter, {"image": IMAGE}, "a", ["scores"], seen={"b": -b})
    assert (found.flipped, found.choices) == (int((b > 0).sum()), 32)
    assert not found.gradients.any()


def test_float32_and_float64_agree_on_the_same_side() -> None:
    """A unit within rounding of its kink: the two runs differ by the whole of its gradient, and not when one follows the other."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        kink (float[3] x) => (float y)
        <float[1] bias = {-0.1}> { shifted = Add(x, bias) bent = Relu(shifted) y = ReduceSum <keepdims: int = 0> (bent) }
    """)
    x = np.array([0.1 + 1e-10, 1.0, -1.0])
    single = evaluate(model, {"x": x}, ["shifted"], dtype=torch.float32)["shifted"]
    assert single[0] == 0
    plain = gradients(model, {"x": x - 1e-8}, "x", ["y"]), gradients(model, {"x": x + 1e-8}, "x", ["y"])
    assert [found.gradients[0].tolist() for found in plain] == [[0, 1, 0], [1, 1, 0]]
    found = gradients(model, {"x": x + 1e-8}, "x", ["y"], seen={"shifted": single})
    assert found.gradients[0].tolist() == [0, 1, 0]
    assert (found.flipped, found.choices) == (1, 3)


def test_values_are_forgotten_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    alive: list[Any] = []

    def counting(call: Any, x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        held.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(y))
        return y

    monkeypatch.setitem(OPERATORS, "Neg", OPERATORS["Neg"].__class__(counting, 1, 1))
    names = ["x", *(f"v{i}" for i in range(20))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in itertools.pairwise(names)]
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("v19", 1, [2])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    assert evaluate(model, {"x": np.zeros(2)}, ["v19", "v3"])["v19"].tolist() == [20, 20]
    assert max(held) <= 3


def test_nodes_in_any_order() -> None:
    model = ir.from_proto(NETWORK)
    nodes = list(model.graph)
    model.graph.remove(nodes)
    model.graph.extend(reversed(nodes))
    found, expected = (evaluate(m, {"image": IMAGE}, ["scores"])["scores"] for m in (model, NETWORK))
    assert torch.equal(found, expected)


def refused(why: str, model: onnx.ModelProto | ir.Model, feed: dict[str, Any], wanted: str = "y0") -> None:
    with pytest.raises(ExportError) as found:
        evaluate(model, feed, [wanted])
    assert re.search(why, str(found.value)), str(found.value)
    assert "\n" not in str(found.value)


X = np.ones((1, 4, 6, 6))
REFUSALS = [
    ("attribute surprise is not known", Case("Relu", (X,), {"surprise": 1})),
    ("Conv .*4 inputs, at most 3", Case("Conv", (X, np.ones((4, 4, 1, 1)), np.ones(4), X))),
    ("Add .*1 inputs, 2 are needed", Case("Add", (X,))),
    ("Relu .*2 outputs, at most 1", Case("Relu", (X,), outputs=2)),
    ("storage_order", Case("MaxPool", (X,), {"kernel_shape": [2, 2], "storage_order": 1})),
    ("kernel_shape", Case("MaxPool", (X,))),
    ("training_mode", Case("BatchNormalization", (X, *[np.ones(4)] * 4), {"training_mode": 1}, opset=15)),
    ("training mode", Case("Dropout", (X, np.array(0.5), np.array(True)))),
    ("kernel_shape is \\[3, 3\\]", Case("Conv", (X, np.ones((4, 4, 1, 1))), {"kernel_shape": [3, 3]})),
    ("mode = 'area'", Case("Resize", (X, None, np.array([1, 1, 2, 2], np.float32)), {"mode": "area"})),
    ("mode = 'near'", Case("Resize", (X, None, np.array([1, 1, 2, 2], np.float32)), {"coordinate_transformation_mode": "near"})),
    ("nearest_mode = 'up'", Case("Resize", (X, None, np.array([1, 1, 2, 2], np.float32)), {"nearest_mode": "up"})),
    ("neither scales nor sizes", Case("Resize", (X,))),
    ("policy = 'fit'", Case("Resize", (X, None, None, ints(1, 4, 3, 3)), {"keep_aspect_ratio_policy": "fit"})),
    ("auto_pad = 'SAME'", Case("Conv", (X, np.ones((4, 4, 1, 1))), {"auto_pad": "SAME"})),
    ("runtimes differ", Case("ConvTranspose", (X, np.ones((4, 4, 2, 2))), {"auto_pad": "SAME_UPPER", "strides": [3, 3]})),
    ("runtimes differ", Case("MaxPool", (X,), {"auto_pad": "SAME_UPPER", "kernel_shape": [1, 1], "strides": [4, 4]})),
    ("mode = 'mirror'", Case("Pad", (X, ints(*[0] * 8)), {"mode": "mirror"})),
    ("mode = 'reflect' with pads", Case("Pad", (X, ints(0, 0, -1, 0, 0, 0, 0, 0)), {"mode": "reflect"})),
    ("mode = 'reflect' with pads \\(0, 6\\) of 6", Case("Pad", (X, ints(0, 0, 0, 0, 0, 0, 6, 0)), {"mode": "reflect"})),
    ("mode = 'wrap' with pads \\(7, 0\\) of 6", Case("Pad", (X, ints(0, 0, 7, 0, 0, 0, 0, 0)), {"mode": "wrap"}, opset=19)),
    ("a step of 0", Case("Slice", (X, ints(0), ints(3), ints(3), ints(0)))),
    ("a step of -1", Case("Slice", (X, ints(-1), ints(2**31 - 1), ints(3), ints(-1)))),
    ("reduction = 'mean'", Case("ScatterElements", (X, ints(0).reshape(1, 1, 1, 1), X[:, :1, :1, :1]), {"reduction": "mean"})),
    ("an index is outside axis 1 of 4", Case("GatherND", (X, ints(0, 9)))),
    ("an index is outside axis 1 of 4", Case("GatherND", (X, ints(0, 4)))),
    ("an index is outside axis 1 of 4", Case("ScatterND", (X, ints(0, -5), X[0, 0]))),
    ("padding_mode = 'mirror'", Case("GridSample", (X, np.zeros((1, 2, 2, 2))), {"padding_mode": "mirror"}, opset=20)),
    ("num_outputs is 3", Case("Split", (X,), {"axis": 1, "num_outputs": 3}, outputs=2)),
    ("not all 1", Case("Squeeze", (X, ints(1)))),
    ("p = 3", Case("LpNormalization", (X,), {"p": 3})),
    ("approximate = 'fast'", Case("Gelu", (X,), {"approximate": "fast"}, opset=20)),
    ("type FLOAT8E5M2 is not known", Case("Cast", (X,), {"to": 19})),
    ("left_window_size", Case("Attention", (X, X, X), {"left_window_size": 2}, opset=25)),
    ("The size of tensor a", Case("Add", (X, np.ones(5)))),
]


@pytest.mark.parametrize(("why", "case"), REFUSALS, ids=[f"{case.kind}-{i}" for i, (_, case) in enumerate(REFUSALS)])
def test_a_form_that_is_not_known_is_refused(why: str, case: Case) -> None:
    refused(why, case.model(), case.feed())
    with pytest.raises(NotInterpreted, match=rf"cannot compute {case.kind} \(node 'n'\)"):
        evaluate(case.model(), case.feed(), ["y0"])


def test_what_is_no_graph_for_it_is_refused() -> None:
    refused("no value 'nothing'", NETWORK, {"image": IMAGE}, "nothing")
    refused("no value 'picture'", NETWORK, {"picture": IMAGE}, "scores")
    refused(r"input 'image' is missing; the graph has \['image'\]", NETWORK, {}, "scores")
    refused("operator set 12", Case("Relu", (X,), opset=12).model(), {"x0": X})
    foreign = Case("Relu", (X,)).model()
    foreign.graph.node[0].domain = "com.somebody"
    refused("com.somebody.Relu", foreign, {"x0": X})
    refused("holds no real numbers", Case("Relu", (X,)).model(), {"x0": np.array(["a"])})
    with pytest.raises(ExportError, match=r"'x0' is of torch\.int64, which has no gradient"):
        evaluate(Case("Neg", (ints(1),)).model(), {"x0": ints(1)}, ["y0"], leaves=["x0"])
    cycle = Case("Relu", (X,)).model()
    cycle.graph.node[0].input[0] = "z"
    cycle.graph.node.append(helper.make_node("Relu", ["y0"], ["z"], name="second"))
    refused("the graph has a cycle", cycle, {"x0": X})
    with pytest.raises(ExportError, match=r"scores have shape \[1, 3\], expected \[K\]"):
        gradients(NETWORK, {"image": IMAGE}, "a", lambda values: values["scores"], reads=["scores"])
    with pytest.raises(ExportError, match="has shape"):
        gradients(NETWORK, {"image": IMAGE}, "a", ["scores"], seen={"b": np.zeros(3)})


def test_batch_norm_before_tokens_at_batch_one() -> None:
    """torch 2.13's own batch-norm, in evaluation mode at batch 1, has a wrong backward when its gradient comes transposed."""
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        tokens (float[1,3,4,5] x, float[3] s, float[3] b, float[3] m, float[3] v, float[20,3] w) => (float y)
        <int64[2] flat = {0, 0}, int64[3] shape = {1, 3, 20}>
        {
            n = BatchNormalization(x, s, b, m, v)
            f = Reshape(n, shape)
            t = Transpose <perm: ints = [0, 2, 1]> (f)
            p = Mul(t, w)
            y = ReduceSum <keepdims: int = 0> (p)
        }
    """)
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((1, 3, 4, 5)), "w": rng.standard_normal((20, 3)), "v": rng.random(3) + 0.5}
    feed |= {name: rng.standard_normal(3) for name in "sbm"}
    found = gradients(model, feed, "x", ["y"]).gradients[0]
    factor = feed["s"] / np.sqrt(feed["v"] + 1e-5)
    expected = (feed["w"] * factor).T.reshape(1, 3, 4, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
