"""Tries one rule: a graph of one operator, swept back from seeds of every kind, against autograd in float64.

    operator = Operator("Conv", [draw(2, 6, 9, 7), draw(4, 6, 3, 3)], {"pads": [1, 1, 1, 1]})
    check(operator, lambda x, w: F.conv2d(x, w, padding=1))

One call writes x → operator → y, pulls a full seed, two lazy ones and two pairs (g, d) back to x in the same graph, and compares
each gradient [K, *x] with the reference's: in float64 by the interpreter, in float32 by ONNX Runtime at all four of its
optimisation levels. It also refuses what TensorRT's parser would, and graphs whose declared shapes are not those of ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor

from dkcam.export.checking.interpreter import evaluate
from dkcam.export.derivative.cotangent import Cotangent, full
from dkcam.export.derivative.rule import UnsupportedOperator
from dkcam.export.derivative.sweep import sweep
from dkcam.export.writer import FLOATS, Writer

try:
    import tensorrt_rtx as trt
except ImportError:
    trt = None

Array = NDArray[Any]
Reference = Callable[..., Any]
"""(inputs of the operator, float64 tensors, None where one is left out) → its outputs."""

EXACT = 1e-9  # float64, relative to the largest number of the gradient
ROUNDED = 2e-7  # where a rule's constants have no exact float32
SINGLE = 1e-4  # float32
ZERO = 0.05  # gradients below count as this large: those that cancel to 0 have no scale of their own
HALF = 4e-3  # float32 behind a network that computes in float16
SEEDS = ("full", "lazy", "even", "pair", "lazy pair")


@dataclass(frozen=True)
class Operator:
    """One operator and the numbers it is tried on.

    inputs: the picture-dependent ones and the constants, in ONNX's order, None where one is left out. active: which of them want
    a gradient. free: input → axis → name of the dimensions that are unknown in the graph. computed: constants that are written
    as float16 behind a Cast, so that no rule sees their numbers. half: the network computes in float16. used: the outputs that
    something reads; None for all of real numbers. declared: the outputs' shapes, where inference does not tell them.
    """

    kind: str
    inputs: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    active: Sequence[int] = (0,)
    outputs: int = 1
    opset: int = 18
    free: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    computed: Sequence[int] = ()
    half: bool = False
    used: Sequence[int] | None = None
    declared: Sequence[Sequence[int | str]] = ()

    def reads(self, index: int) -> bool:
        return self.used is None or index in self.used

    def __str__(self) -> str:
        shapes = ", ".join("-" if v is None else str(list(v.shape)) for v in self.inputs)
        more = {"free": self.free, "computed": self.computed, "half": self.half}
        return f"{self.kind} of {shapes} {dict(self.attributes)} {({k: v for k, v in more.items() if v}) or ''}"

    def numbers(self) -> list[Array | None]:
        """The inputs as the graph sees them, rounded to its precision."""
        found: list[Array | None] = []
        for index, array in enumerate(self.inputs):
            if array is not None and array.dtype.kind == "f":
                array = array.astype(np.float16 if self.half or index in self.computed else np.float32)
                array = array if self.half else array.astype(np.float32)
            found.append(array)
        return found

    def model(self) -> ir.Model:
        """x0, x1 … → operator → y0, y1 …, every shape inferred; dimensions that inference cannot tell get a name."""
        nodes, values, constants, names = [], [], [], []
        for index, array in enumerate(self.numbers()):
            name = "" if array is None else f"x{index}"
            names.append(name)
            if array is None:
                continue
            if index in self.active:
                shape: list[int | str] = list(array.shape)
                for axis, free in self.free.get(index, {}).items():
                    shape[axis] = free
                values.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape))
            elif index in self.computed:
                constants.append(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=helper.np_dtype_to_tensor_dtype(array.dtype)))
            else:
                constants.append(numpy_helper.from_array(array, name))
        outs = [f"y{index}" for index in range(self.outputs)]
        nodes.append(helper.make_node(self.kind, names, outs, name="node", **self.attributes))
        graph = helper.make_graph(nodes, "one operator", values, [helper.make_empty_tensor_value_info(name) for name in outs], constants)
        opsets = [helper.make_opsetid("", self.opset)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=max(9, helper.find_min_ir_version_for(opsets)))
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=not self.declared, data_prop=True))
        for output, told in zip(model.graph.outputs, self.declared, strict=False):
            output.shape, output.type = ir.Shape(told), model.graph.inputs[0].type
        for index, output in enumerate(model.graph.outputs):
            assert output.shape is not None, f"{self}: the rank of its output is not known"
            sizes = [d if isinstance(d, int) or d.value is not None else f"y{index}.{axis}" for axis, d in enumerate(output.shape)]
            output.shape = ir.Shape(sizes)
        return model


@dataclass(frozen=True)
class Swept:
    """The graph with its gradients, and what it is to be run with. cotangents: seed → target → as the rule left it."""

    model: ir.Model
    feed: dict[str, Array]
    cotangents: dict[str, dict[str, Cotangent]]
    written: list[ir.Node]


def swept(operator: Operator, shapes: Sequence[Sequence[int]], *, seeds: Sequence[str] = SEEDS, k: int = 2, random: int = 0) -> Swept:
    """The operator's graph with every seed pulled back. shapes: of its outputs. The number of scalars is free where ``random`` is even."""
    generator = np.random.default_rng(random)
    many: int | str = k if random % 2 else "K"
    model = operator.model()
    graph = model.graph
    before = set(graph)
    names = {value.name: value for value in [*graph.inputs, *graph.outputs]}
    targets = [names[f"x{index}"] for index in operator.active]
    feed = {f"x{index}": array for index, array in enumerate(operator.numbers()) if array is not None and index in operator.active}
    writer = Writer(graph, operator.opset, "gradient")
    results, cotangents = [], {}
    for seed in seeds:
        given: dict[ir.Value, Cotangent] = {}
        for index, (output, shape) in enumerate(zip(list(graph.outputs), shapes, strict=False)):
            if not operator.reads(index) or output.dtype not in FLOATS:
                continue
            declared = list(output.shape or ())
            parts: list[ir.Value | None] = [None, None]
            for part, keep in enumerate(kept(seed, len(shape), generator)):
                if keep is None:
                    continue
                sizes = [size if one else 1 for size, one in zip(shape, keep, strict=True)]
                known = [size if one else 1 for size, one in zip(declared, keep, strict=True)]
                if part and seed == "lazy pair":  # d without the axes of 1 in front
                    first = next((axis for axis, one in enumerate(keep) if one), len(keep))
                    sizes, known = sizes[first:], known[first:]
                name = f"{output.name}.{seed}.{'gd'[part]}"
                value = ir.Value(name=name, shape=ir.Shape(known if part else [many, *known]), type=ir.TensorType(ir.DataType.FLOAT))
                graph.inputs.append(value)
                feed[name] = generator.standard_normal(sizes if part else [k, *sizes]).astype(np.float32)
                parts[part] = value
            assert parts[0] is not None
            given[output] = Cotangent(parts[0], parts[1])
        arrived = sweep(writer, given, targets)
        cotangents[seed] = {str(value.name): arrived[value] for value in targets if value in arrived}
        for value in targets:
            assert value in arrived, f"{operator}: no gradient reaches {value.name}"
            whole = full(writer, arrived[value].whole(writer), value)
            node = ir.node("Identity", [whole], num_outputs=1)  # of its own, even where two gradients are one value
            node.outputs[0].name, node.outputs[0].type = f"{value.name}.{seed}", whole.type
            node.outputs[0].shape = ir.Shape([many, *(value.shape or ())])
            graph.append(node)
            results.append(node.outputs[0])
    graph.outputs[:] = results  # an output of the operator that no rule reads need not run
    RemoveUnusedNodesPass()(model)
    return Swept(model, feed, cotangents, [node for node in graph if node not in before])


def kept(seed: str, rank: int, random: np.random.Generator) -> tuple[list[bool] | None, list[bool] | None]:
    """Which axes of g and of d are not lazy; None for no d. "even": along space at least."""
    some = [bool(one) for one in random.integers(0, 2, rank)]
    return {
        "full": ([True] * rank, None),
        "lazy": (some, None),
        "even": ([axis < 2 for axis in range(rank)], None),
        "pair": ([True] * rank, [True] * rank),
        "lazy pair": (some, [bool(one) for one in random.integers(0, 2, rank)]),
    }[seed]


def check(
    operator: Operator,
    reference: Reference | None = None,
    *,
    seeds: Sequence[str] = SEEDS,
    k: int = 2,
    random: int = 0,
    exact: float = EXACT,
    single: float = SINGLE,
) -> Swept:
    """Compare every gradient with autograd of ``reference`` (the interpreter's operator, where none is given)."""
    inputs = {index: torch.from_numpy(array.astype(np.float64)) if array.dtype.kind == "f" else torch.from_numpy(array)
              for index, array in enumerate(operator.numbers()) if array is not None}  # fmt: skip
    for index in operator.active:
        inputs[index].requires_grad_()
    if reference is None:
        outputs = forward(operator, inputs)
    else:
        found = reference(*(inputs.get(index) for index in range(len(operator.inputs))))
        outputs = [found] if isinstance(found, Tensor) else list(found)
    run = swept(operator, [tuple(one.shape) for one in outputs], seeds=seeds, k=k, random=random)
    proto = ir.to_proto(run.model)
    plain(run.written)
    onnx.checker.check_model(proto, full_check=not operator.declared)
    expected = expectations(operator, inputs, outputs, run, seeds)
    feed = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in run.feed.items()}
    compare(operator, "float64", interpreted(run.model, feed, list(expected)), expected, exact)
    for level in range(4):
        compare(operator, f"ONNX Runtime, level {level}", runtime(proto, run.feed, list(expected), level), expected, single)
    return run


def read(proto: onnx.ModelProto) -> tuple[list[str], list[list[int]]]:
    """By TensorRT's parser: (its complaints, none where it takes the graph; the shapes of the outputs, −1 for what is free)."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(proto.SerializeToString()):
        return [parser.get_error(i).desc() for i in range(parser.num_errors)], []
    return [], [list(network.get_output(i).shape) for i in range(network.num_outputs)]


def check_and_parse(operator: Operator, reference: Reference | None = None, **options: Any) -> Swept:
    """``check``, and TensorRT's parser takes the graph, where it is installed."""
    run = check(operator, reference, **options)
    if trt is not None:
        complaints, _ = read(ir.to_proto(run.model))
        assert not complaints, f"{operator}: {complaints}"
    return run


def refused(operator: Operator, why: str, shape: Sequence[int] = ()) -> None:
    """The rule refuses this form, saying why. shape: of the output, where it is not that of the first input."""
    array = operator.inputs[0]
    assert array is not None
    with pytest.raises(UnsupportedOperator, match=why):
        swept(operator, [shape or array.shape], seeds=["full"])


def expectations(
    operator: Operator, inputs: Mapping[int, Tensor], outputs: Sequence[Tensor], run: Swept, seeds: Sequence[str]
) -> dict[str, Array]:
    """Autograd's gradients [K, *x] by the name of the graph's output."""
    found = {}
    leaves = [inputs[index] for index in operator.active]
    for seed in seeds:
        cotangents = []
        real = [(index, output) for index, output in enumerate(outputs) if f"y{index}.{seed}.g" in run.feed]
        for index, output in real:
            g = torch.from_numpy(run.feed[f"y{index}.{seed}.g"].astype(np.float64))
            d = run.feed.get(f"y{index}.{seed}.d")
            whole = g if d is None else g * torch.from_numpy(d.astype(np.float64))
            cotangents.append(whole.broadcast_to(len(g), *output.shape))
        rows = [
            torch.autograd.grad([output for _, output in real], leaves, row, retain_graph=True) for row in zip(*cotangents, strict=True)
        ]
        for index, column in zip(operator.active, zip(*rows, strict=True), strict=True):
            found[f"x{index}.{seed}"] = torch.stack(column).numpy()
    return found


def compare(operator: Operator, how: str, found: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float) -> None:
    for name, right in expected.items():
        one = found[name]
        assert one.shape == right.shape, f"{operator}: {name} by {how} is {one.shape}, not {right.shape}"
        scale = max(float(np.abs(right).max()), ZERO) if right.size else 1.0
        error = float(np.abs(one - right).max()) / scale if right.size else 0.0
        assert error <= tolerance, f"{operator}: {name} by {how} is off by {error:.1e}"


def plain(nodes: Sequence[ir.Node]) -> None:
    """No operator or form that TensorRT's parser refuses, or that ONNX Runtime's optimiser breaks."""
    for node in nodes:
        assert not node.op_type.startswith("Scatter"), f"{node.op_type} has no place in a gradient"
        assert node.op_type != "Pad" or len(node.inputs) < 4, "Pad with axes"


def forward(operator: Operator, inputs: Mapping[int, Tensor]) -> list[Tensor]:
    """The operator's outputs by the interpreter, in float64; autograd can go back to the active inputs."""
    names = [f"y{index}" for index in range(operator.outputs)]
    found = evaluate(operator.model(), {f"x{index}": inputs[index] for index in operator.active}, names)
    return [found[name] for name in names]


def interpreted(model: ir.Model, feed: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
    """Values of a graph in float64."""
    return {name: value.numpy() for name, value in evaluate(model, feed, wanted).items()}


def runtime(proto: onnx.ModelProto, feed: Mapping[str, Array], wanted: Sequence[str], level: int = 3) -> dict[str, Array]:
    """Values of a graph by ONNX Runtime. level: 0 (as written) to 3 (all optimisations)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = [levels.ORT_DISABLE_ALL, levels.ORT_ENABLE_BASIC, levels.ORT_ENABLE_EXTENDED, levels.ORT_ENABLE_ALL][
        level
    ]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(list(wanted), dict(feed)), strict=True))
