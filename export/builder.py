"""A small writer of ONNX graphs: names by place, constants shared, nothing in the file but the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 8  # the oldest that opset 18 needs: read by ONNX Runtime 1.14 and newer

Dimension = int | str


class Builder:
    """Collects nodes and weights. Values are handled by name; every method that adds a node returns its output's."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.part = "graph"  # prefix of the names to come: "backbone", "head", …

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add one node with one output; ``name`` fixes the output's name."""
        output = name or f"{self.part}/{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{output}.node", **attributes))
        return output

    def top_k(self, values: str, count: int) -> str:
        """Indices of the ``count`` largest along the last axis, largest first."""
        output = f"{self.part}/TopK_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node("TopK", [values, self.ints(count)], [f"{output}.values", output], name=f"{output}.node", axis=-1)
        )
        return output

    def constant(self, values: NDArray[Any]) -> str:
        """A constant; equal ones are stored once."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            self._weights[name] = numpy_helper.from_array(values, name)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def weight(self, name: str, values: NDArray[np.float32]) -> str:
        """A trained weight under its own name. Weights that are exact in float16 are stored so, behind a Cast."""
        if name in self._weights or f"{name}.half" in self._weights:
            return name
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size >= 64 and np.array_equal(half.astype(np.float32), values):
            self._weights[f"{name}.half"] = numpy_helper.from_array(half, f"{name}.half")
            return self.op("Cast", f"{name}.half", name=name, to=TensorProto.FLOAT)
        self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def half(self, name: str, values: NDArray[np.float32]) -> str:
        """A trained weight rounded to float16, under its own name; what lies beyond float16 becomes its largest."""
        largest = float(np.finfo(np.float16).max)
        self._weights[name] = numpy_helper.from_array(np.clip(values, -largest, largest).astype(np.float16), name)
        return name

    def dequantised(self, name: str, whole: NDArray[Any], steps: NDArray[np.float32]) -> str:
        """Whole numbers (int8 or int32) times a step for each first index, behind a DequantizeLinear: float32."""
        if f"{name}.whole" not in self._weights:
            parts = {"whole": whole, "step": steps, "zero": np.zeros(len(steps), whole.dtype)}
            for part, values in parts.items():
                self._weights[f"{name}.{part}"] = numpy_helper.from_array(np.ascontiguousarray(values), f"{name}.{part}")
            self.op("DequantizeLinear", *(f"{name}.{part}" for part in parts), name=name, axis=0)
        return name

    def dims(self, value: str, start: int, end: int) -> str:
        """Dimensions start..end of a value's shape, int64 [end − start], read while the graph runs."""
        return self.op("Shape", value, start=start, end=end)

    def reshape(self, value: str, *parts: int | str) -> str:
        """Reshape to the given parts: numbers (0 copies that dimension, −1 is the rest) or shapes from ``dims``."""
        if all(isinstance(part, int) for part in parts):
            return self.op("Reshape", value, self.ints(*(part for part in parts if isinstance(part, int))))
        pieces = [self.ints(part) if isinstance(part, int) else part for part in parts]
        return self.op("Reshape", value, self.op("Concat", *pieces, axis=0))

    def mean(self, value: str, *axes: int, keep: bool = False) -> str:
        return self.op("ReduceMean", value, self.ints(*axes), keepdims=int(keep))

    def sum(self, value: str, *axes: int, keep: bool = False) -> str:
        return self.op("ReduceSum", value, self.ints(*axes), keepdims=int(keep))

    def unsqueeze(self, value: str, *axes: int) -> str:
        return self.op("Unsqueeze", value, self.ints(*axes))

    def transpose(self, value: str, *order: int) -> str:
        return self.op("Transpose", value, perm=list(order))

    def swap_last(self, value: str, rank: int) -> str:
        """Swap the last two axes of a value of this rank."""
        return self.transpose(value, *range(rank - 2), rank - 1, rank - 2)

    def model(
        self,
        inputs: Sequence[tuple[str, int, Sequence[Dimension]]],
        outputs: Sequence[tuple[str, int, Sequence[Dimension]]],
        metadata: dict[str, str],
        version: str,
    ) -> bytes:
        """The file's bytes: same calls, same bytes. inputs, outputs: (name, TensorProto type, shape)."""
        nodes = self._reachable({name for name, _, _ in outputs})
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "dkcam",
            [helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in inputs],
            [helper.make_tensor_value_info(name, kind, list(shape)) for name, kind, shape in outputs],
            [tensor for name, tensor in self._weights.items() if name in used],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model.producer_name, model.producer_version = "dkcam", version
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _reachable(self, wanted: set[str]) -> list[onnx.NodeProto]:
        """Only the nodes that the outputs need."""
        kept: list[onnx.NodeProto] = []
        for node in reversed(self._nodes):
            if wanted & set(node.output):
                kept.append(node)
                wanted = wanted | set(node.input)
        return kept[::-1]
