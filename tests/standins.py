"""Tiny networks that no exporter wrote, with the inputs and outputs of exported ones: what a run makes of each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from dkcam.spec import SPEC_KEY, ExplanationSpec, InputSpec, ModelSpec, Provenance

COLOURS = {"red": (40, 40, 250), "blue": (250, 60, 30)}  # BGR
SIZE = (192, 320)
SIDE = 32  # of a square, in pixels of the input; squares lie on this grid
RANKS = 16
CELL = 8  # of the heatmap


def square_finder(
    *, size: tuple[int, int] = SIZE, count: int | None = None, per_image: bool = False, resize: str = "stretch", batch: int = 8
) -> bytes:
    """A detector of red and blue squares, ``SIDE`` pixels wide on a grid: boxes, scores, explained, heatmap."""
    rows, columns = size[0] // SIDE, size[1] // SIDE
    one = rows * columns
    nodes, weights = _excess()
    number = _Constants(weights)
    k: Any = count or "K"

    def op(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    op("AveragePool", ["excess"], "squares", kernel_shape=[SIDE, SIDE], strides=[SIDE, SIDE])
    op("Reshape", ["squares", number([0, 2 * one])], "flat")
    nodes.append(helper.make_node("TopK", ["flat", number([RANKS])], ["best", "places"], axis=1))
    op("Reshape", ["squares", number([0, 2, one])], "by_class")
    op("ReduceMax", ["by_class", number([2])], "class_best", keepdims=0)
    op("ArgMax", ["by_class"], "class_cell", axis=2, keepdims=0)
    op("Add", ["class_cell", number([[0, one]])], "class_place")
    # classes → [B, K]
    if per_image:
        op("Identity", ["classes"], "asked")
    else:
        op("Shape", ["image"], "batch", start=0, end=1)
        op("Shape", ["classes"], "k")
        op("Concat", ["batch", "k"], "both", axis=0)
        op("Expand", ["classes", "both"], "asked")
    op("Less", ["asked", number(0)], "ranked")
    op("Sub", [number(-1), "asked"], "minus")
    op("Clip", ["minus", number(0), number(RANKS - 1)], "rank")
    op("Clip", ["asked", number(0), number(1)], "class")
    for name in ("best", "place"):
        source = {"best": "best", "place": "places"}[name]
        op("GatherElements", [source, "rank"], f"rank_{name}", axis=1)
        op("GatherElements", [f"class_{name}", "class"], f"of_class_{name}", axis=1)
        op("Where", ["ranked", f"rank_{name}", f"of_class_{name}"], f"chosen_{name}")
    op("Greater", ["chosen_best", number(np.float32(0.5))], "there")
    op("Where", ["there", "chosen_best", number(np.float32(0))], "scores")
    op("Div", ["chosen_place", number(one)], "explained")
    op("Mod", ["chosen_place", number(one)], "cell")
    op("Div", ["cell", number(columns)], "row")
    op("Mod", ["cell", number(columns)], "column")
    corners = []
    for name, source, side, step in (
        ("x1", "column", columns, 0),
        ("y1", "row", rows, 0),
        ("x2", "column", columns, 1),
        ("y2", "row", rows, 1),
    ):
        op("Add", [source, number(step)], f"{name}_cell")
        op("Cast", [f"{name}_cell"], f"{name}_float", to=TensorProto.FLOAT)
        op("Div", [f"{name}_float", number(np.float32(side))], f"{name}_share")
        op("Where", ["there", f"{name}_share", number(np.float32(0))], f"{name}_kept")
        corners.append(op("Unsqueeze", [f"{name}_kept", number([2])], name))
    op("Concat", corners, "boxes", axis=2)
    # heat: the class's colour around the box's own square
    op("AveragePool", ["excess"], "fine", kernel_shape=[CELL, CELL], strides=[CELL, CELL])
    op("Reshape", ["fine", number([0, 2, (size[0] // CELL) * (size[1] // CELL)])], "fine_flat")
    op("OneHot", ["explained", number(2), number(np.array([0, 1], np.float32))], "hot_class")
    op("MatMul", ["hot_class", "fine_flat"], "of_class")
    op("OneHot", ["cell", number(one), number(np.array([0, 1], np.float32))], "hot_cell")
    op("Reshape", ["hot_cell", number([0, -1, rows, columns])], "mask")
    op("Resize", ["mask", "", number(np.array([1, 1, SIDE / CELL, SIDE / CELL], np.float32))], "near", mode="nearest")
    op("Reshape", ["of_class", number([0, -1, size[0] // CELL, size[1] // CELL])], "colour")
    op("Mul", ["colour", "near"], "glow")
    op("Cast", ["there"], "on", to=TensorProto.FLOAT)
    op("Unsqueeze", ["on", number([2, 3])], "on_map")
    op("Mul", ["glow", "on_map"], "heatmap")
    spec = ModelSpec(
        task="detect",
        labels=tuple(COLOURS),
        input=_input(size, resize, batch),
        explanation=ExplanationSpec(
            layers=("excess",), count=count, per_image=per_image, outputs=("boxes", "scores", "explained", "heatmap")
        ),
        provenance=Provenance(),
    )
    outputs = [
        ("boxes", TensorProto.FLOAT, ["batch", k, 4]),
        ("scores", TensorProto.FLOAT, ["batch", k]),
        ("explained", TensorProto.INT64, ["batch", k]),
        ("heatmap", TensorProto.FLOAT, ["batch", k, size[0] // CELL, size[1] // CELL]),
    ]
    return _file(nodes, weights, spec, outputs, ["batch", k] if per_image else [k])


def balance(*, size: tuple[int, int] = SIZE) -> bytes:
    """A regressor with one output, "steering": red on the right less red on the left, with heat for its rise or fall."""
    nodes, weights = _excess()
    number = _Constants(weights)
    high, wide = size[0] // CELL, size[1] // CELL
    sides = np.where(np.arange(wide) < wide / 2, -1, 1).astype(np.float32)
    nodes += [
        helper.make_node("Slice", ["excess", number([0]), number([1]), number([1])], ["red"]),
        helper.make_node("AveragePool", ["red"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Mul", ["cells", number(sides)], ["signed"]),
        helper.make_node("ReduceSum", ["signed", number([2, 3])], ["logits"], keepdims=0),
        helper.make_node("Less", ["classes", number(0)], ["falls"]),
        helper.make_node("Where", ["falls", number(np.float32(-1)), number(np.float32(1))], ["sign"]),
        helper.make_node("Reshape", ["sign", number([1, -1, 1, 1])], ["sign_map"]),
        helper.make_node("Mul", ["signed", "sign_map"], ["both"]),
        helper.make_node("Relu", ["both"], ["heatmap"]),
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=1),
        helper.make_node("Shape", ["classes"], ["k"]),
        helper.make_node("Concat", ["batch", "k"], ["shape"], axis=0),
        helper.make_node("Expand", [number(0), "shape"], ["explained"]),
    ]
    spec = ModelSpec(
        task="regress",
        labels=("steering",),
        input=_input(size, "stretch", 8),
        explanation=ExplanationSpec(layers=("cells",), outputs=("logits", "explained", "heatmap")),
    )
    outputs = [
        ("logits", TensorProto.FLOAT, ["batch", 1]),
        ("explained", TensorProto.INT64, ["batch", "K"]),
        ("heatmap", TensorProto.FLOAT, ["batch", "K", high, wide]),
    ]
    return _file(nodes, weights, spec, outputs, ["K"])


def squares(*places: tuple[str, int, int], size: tuple[int, int] = SIZE) -> np.ndarray:
    """A dark frame uint8 [H, W, 3] BGR of the network's size, with (colour, row, column) of the grid."""
    frame = np.full((*size, 3), 40, np.uint8)
    frame[:, ::7] = 55
    for colour, row, column in places:
        frame[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = COLOURS[colour]
    return frame


def box_of(row: int, column: int, size: tuple[int, int] = SIZE) -> tuple[float, float, float, float]:
    """A square's (x1, y1, x2, y2), 0..1 of the frame of ``squares``."""
    return column * SIDE / size[1], row * SIDE / size[0], (column + 1) * SIDE / size[1], (row + 1) * SIDE / size[0]


def described(data: bytes, change: Any) -> bytes:
    """The file with another description: change(spec)."""
    model = onnx.load_from_string(data)
    (entry,) = [entry for entry in model.metadata_props if entry.key == SPEC_KEY]
    entry.value = change(ModelSpec.from_json(entry.value, "stand-in")).to_json()
    return bytes(model.SerializeToString())


class _Constants:
    """Initializers, made where they are used: number([1, 2]) → a name."""

    def __init__(self, weights: list[Any]) -> None:
        self._weights = weights

    def __call__(self, value: Any) -> str:
        array = np.array(value) if isinstance(value, (np.ndarray, np.floating)) else np.array(value, np.int64)
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name


def _excess() -> tuple[list[Any], list[Any]]:
    """image → "excess" float32 [B, 2, H, W]: by how much red, and blue, exceed the other channels, 0..1."""
    weights: list[Any] = []
    kernel = np.array([[1, -0.5, -0.5], [-0.5, -0.5, 1]], np.float32)[:, :, None, None] / np.float32(300)
    weights.append(numpy_helper.from_array(kernel, "kernel"))
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["difference"]),
        helper.make_node("Clip", ["difference", _Constants(weights)(np.float32(0)), _Constants(weights)(np.float32(1))], ["excess"]),
    ]
    return nodes, weights


def _input(size: tuple[int, int], resize: str, batch: int) -> InputSpec:
    given = InputSpec(height=size[0], width=size[1], resize=resize)
    return replace(given, batch=(1, batch), dynamic=("batch",)) if batch > 1 else given


def _file(nodes: list[Any], weights: list[Any], spec: ModelSpec, outputs: list[Any], classes: list[Any]) -> bytes:
    batch: Any = "batch" if "batch" in spec.input.dynamic else 1
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, spec.input.height, spec.input.width, 3]),
        helper.make_tensor_value_info("classes", TensorProto.INT64, classes),
    ]
    given = [helper.make_tensor_value_info(name, kind, [batch if d == "batch" else d for d in shape]) for name, kind, shape in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "stand-in", inputs, given, weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    helper.set_model_props(model, {SPEC_KEY: spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
