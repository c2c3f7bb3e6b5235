"""What every pass needs: new values under free names, and who reads a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import TopologicalSortPass

from dkcam.errors import ExportError
from dkcam.printable import printable

Array = NDArray[Any]
MULTIPLYING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


class Editor:
    """Adds nodes and constants to a model; ``finish`` puts the nodes in order and removes constants that nothing reads."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self.opset = model.opset_imports.get("", 18)
        self._names = {value.name for node in self.graph for value in node.outputs} | set(self.graph.initializers)
        self._names |= {value.name for value in self.graph.inputs}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def free(self, name: str) -> str:
        """The name, or with a number where another value has it."""
        number, found = 1, name
        while found in self._names:
            number += 1
            found = f"{name}.{number}"
        self._names.add(found)
        return found

    def drop(self, constant: ir.Value) -> None:
        """A constant that nothing reads any more; its name is free again."""
        if constant.name is not None and constant.name in self.graph.initializers and constant not in self.graph.outputs:
            self.graph.initializers.pop(constant.name)
            self._names.discard(constant.name)

    def weight(self, name: str, values: Array) -> ir.Value:
        """A constant of its own, under this name or one like it."""
        tensor = ir.tensor(np.ascontiguousarray(values) if values.ndim else values, name=self.free(name))
        found = ir.Value(name=tensor.name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(found)
        return found

    def constant(self, name: str, values: Array) -> ir.Value:
        """A constant; equal ones are stored once, under the first one's name."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(name, values)
        return self._constants[key]

    def add(self, kind: str, inputs: Sequence[ir.Value | None], name: str, dtype: ir.DataType, **attributes: Any) -> ir.Value:
        """A node with one output of the shape of its first input."""
        name = self.free(name)
        node = ir.node(kind, inputs, attributes=attributes, num_outputs=1, name=f"{name}.node")
        output, source = node.outputs[0], inputs[0]
        assert source is not None
        output.name, output.type, output.shape = name, ir.TensorType(dtype), source.shape
        self.graph.append(node)
        return output

    def cast(self, value: ir.Value, name: str, dtype: ir.DataType) -> ir.Value:
        return self.add("Cast", [value], name, dtype, to=int(dtype))

    def swap_names(self, a: ir.Value, b: ir.Value) -> None:
        """Of two values that nodes give."""
        a.name, b.name = b.name, a.name

    def finish(self) -> None:
        for constant in list(self.graph.initializers.values()):
            if not constant.uses():
                self.drop(constant)
        TopologicalSortPass()(self.model)


def named(graph: ir.Graph, names: Iterable[str]) -> list[ir.Value]:
    """The values of these names. Errors: ExportError for one that is not there."""
    values = {value.name: value for node in graph for value in node.outputs} | {value.name: value for value in graph.inputs}
    names = list(names)
    for name in names:
        if name not in values:
            raise ExportError(f"the graph has no value {printable(name)}")
    return [values[name] for name in names]


def readers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def real(value: ir.Value | None) -> bool:
    """Whether a value is float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT
