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
    """Adds nodes and constants to a model; ``finish`` puts the nodes in order and removes constants that nothing reads any more."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.graph = model, model.graph
        self.opset = model.opset_imports.get("", 18)
        self._names = {value.name for node in self.graph for value in node.outputs} | set(self.graph.initializers)
        self._names |= {value.name for value in self.graph.inputs} | {node.name for node in self.graph}
        # somebody may hold a constant that nothing reads yet
        self._held = {value for value in self.graph.initializers.values() if not value.uses()}
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
        tensor = ir.Tensor(np.ascontiguousarray(values) if values.ndim else values, name=self.free(name))
        found = ir.Value(name=tensor.name, shape=ir.Shape(values.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(found)
        return found

    def constant(self, name: str, values: Array) -> ir.Value:
        """A constant; equal ones are stored once, under the first one's name."""
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(name, values)
        return self._constants[key]

    def add(self, kind: str, inputs: Sequence[ir.Value | None], result: str | ir.Value, dtype: ir.DataType, **attributes: Any) -> ir.Value:
        """A node with one output of the shape of its first input. result: its name, or a value that no node gives."""
        source = inputs[0]
        assert source is not None
        if isinstance(result, str):
            result = ir.Value(name=self.free(result), shape=source.shape, type=ir.TensorType(dtype))
        node = ir.node(kind, inputs, attributes=attributes, outputs=[result], name=self.free(f"{result.name}.node"))
        self.graph.append(node)
        return result

    def cast(self, value: ir.Value, result: str | ir.Value, dtype: ir.DataType) -> ir.Value:
        return self.add("Cast", [value], result, dtype, to=int(dtype))

    def take_over(self, value: ir.Value, suffix: str) -> ir.Value:
        """A new value, which the node of ``value`` gives from now on; ``value`` keeps its readers, and waits for a node that gives it.

        So a value means the same to whoever holds it. Only of a node with one output.
        """
        node = value.producer()
        assert node is not None and len(node.outputs) == 1
        uses = list(value.uses())
        for use in uses:
            use.node.replace_input_with(use.idx, None)
        node.resize_outputs(0)
        node.resize_outputs(1)
        (inner,) = node.outputs
        inner.name, inner.type, inner.shape = self.free(f"{value.name}.{suffix}"), value.type, value.shape
        for use in uses:
            use.node.replace_input_with(use.idx, value)
        return inner

    def join(self, first: ir.Node, second: ir.Node) -> None:
        """One node, with the inputs and the name of the first, gives what the second gave, which alone reads the first."""
        (result, *_) = second.outputs
        uses = list(result.uses())
        for use in uses:
            use.node.replace_input_with(use.idx, None)
        second.resize_outputs(0)
        whole = ir.Node(
            first.domain,
            first.op_type,
            first.inputs,
            first.attributes.values(),
            outputs=[result],
            name=first.name,
            metadata_props=dict(first.metadata_props),
        )
        self.graph.insert_before(second, whole)
        self.graph.remove([first, second], safe=True)
        for use in uses:
            use.node.replace_input_with(use.idx, result)

    def finish(self) -> None:
        for constant in list(self.graph.initializers.values()):
            if not constant.uses() and constant not in self._held:
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
