"""Appends nodes to a graph: folds constants, infers every shape, writes equal nodes once.

The one way in which a pass, a rule or a method adds to a network. Values are ``onnx_ir.Value``; all arithmetic is float32.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Dimension = int | str
Array = NDArray[Any]

FOLDED = 1 << 12  # values: larger constants stay nodes on what the file holds already, and the runtime folds them when it loads
DATA = 64  # values: longer constants say nothing about shapes
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


class UnknownShape(Exception):
    """A value whose rank, or a dimension where a number or a name is needed, is not known."""


def shape_of(value: ir.Value) -> list[Dimension]:
    """Dimensions as numbers, or names where they are free. Errors: UnknownShape."""
    if value.shape is None:
        raise UnknownShape(f"{value.name} has no known rank")
    found: list[Dimension] = []
    for dimension in value.shape:
        if isinstance(dimension, int):
            found.append(dimension)
        elif dimension.value is None:
            raise UnknownShape(f"{value.name} has a dimension without number or name: {value.shape}")
        else:
            found.append(str(dimension.value))
    return found


def rank_of(value: ir.Value) -> int:
    """Errors: UnknownShape."""
    if value.shape is None:
        raise UnknownShape(f"{value.name} has no known rank")
    return len(value.shape)


def array_of(value: ir.Value | None) -> Array | None:
    """A constant's numbers, None for anything else."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def factors(dimension: Dimension) -> tuple[Fraction, Counter[str]]:
    """A dimension as a number times names: "height*width/1024" → 1/1024, {height, width}. A name with any other arithmetic is one."""
    if isinstance(dimension, int):
        return Fraction(dimension), Counter()
    if set("()+-% ,").intersection(dimension) or "**" in dimension or "//" in dimension:
        return Fraction(1), Counter([dimension])
    number, names = Fraction(1), Counter[str]()
    for part in dimension.split("*"):
        name, *below = part.split("/")
        if not all(one.isdecimal() for one in below):
            return Fraction(1), Counter([dimension])
        number /= math.prod(int(one) for one in below)
        if name.isdecimal():
            number *= int(name)
        else:
            names[name] += 1
    return number, names


def product_of(dimensions: Sequence[Dimension]) -> tuple[Fraction, Counter[str]]:
    """How many numbers there are, as a number times names."""
    parts = [factors(dimension) for dimension in dimensions]
    return math.prod((number for number, _ in parts), start=Fraction(1)), sum((names for _, names in parts), Counter())


def dimension_of(number: Fraction, names: Counter[str]) -> Dimension:
    """The dimension that ``factors`` takes apart."""
    if not names:
        return int(number)
    above = [str(number.numerator)] if number.numerator != 1 else []
    return "*".join([*above, *sorted(names.elements())]) + (f"/{number.denominator}" if number.denominator != 1 else "")


class Writer:
    """Adds nodes to ``graph``. ``part`` prefixes the names to come ("picture", "gradient", "heatmap" …).

    Nodes that nothing uses do no harm: the exporter removes them and sorts the graph.
    """

    def __init__(self, graph: ir.Graph, opset: int, part: str = "explain") -> None:
        self.graph, self.opset, self.part = graph, opset, part
        self._written: dict[tuple[Any, ...], ir.Value | tuple[ir.Value, ...]] = {}
        self._sizes: dict[ir.Value, list[Dimension]] = {}  # what an int64 vector of dimensions is made of
        self._names = {value.name for node in graph for value in node.outputs} | set(graph.initializers) | {v.name for v in graph.inputs}

    # constants

    def constant(self, values: Any, dtype: Any = None) -> ir.Value:
        """A constant; equal ones are stored once."""
        array = np.ascontiguousarray(np.asarray(values, dtype)) if np.ndim(values) else np.asarray(values, dtype)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        found = self._written.get(key)
        if found is None:
            name = self._name("constant")
            tensor = ir.tensor(array, name=name)
            found = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
            self.graph.register_initializer(found)
            self._written[key] = found
        assert isinstance(found, ir.Value)
        return found

    def ints(self, *values: int) -> ir.Value:
        """int64 [n]."""
        return self.constant(np.array(values, np.int64))

    def number(self, value: float) -> ir.Value:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))

    # nodes

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """One node with one output."""
        found = self._add(kind, inputs, 1, attributes)
        return found[0]

    def ops(self, kind: str, *inputs: ir.Value | None, outputs: int, **attributes: Any) -> tuple[ir.Value, ...]:
        """One node with several outputs."""
        return self._add(kind, inputs, outputs, attributes)

    def _add(self, kind: str, inputs: Sequence[ir.Value | None], outputs: int, attributes: dict[str, Any]) -> tuple[ir.Value, ...]:
        key = (kind, tuple(id(value) for value in inputs), outputs, repr(sorted(attributes.items())))
        found = self._written.get(key)
        if found is None:
            given = [value for value in inputs if value is not None]
            arrays = [array_of(value) for value in given]
            if given and all(a is not None for a in arrays) and sum(a.size for a in arrays if a is not None) <= FOLDED:
                found = self._fold(kind, inputs, outputs, attributes)
            else:
                found = self._node(kind, inputs, outputs, attributes)
            self._written[key] = found
        assert isinstance(found, tuple)
        return found

    def _node(self, kind: str, inputs: Sequence[ir.Value | None], outputs: int, attributes: dict[str, Any]) -> tuple[ir.Value, ...]:
        name = self._name(kind)
        node = ir.node(kind, inputs, attributes=attributes, num_outputs=outputs, name=f"{name}.node")
        for index, output in enumerate(node.outputs):
            output.name = name if index == 0 else f"{name}.{index}"
        self._infer(node, inputs, attributes)
        self.graph.append(node)
        return tuple(node.outputs)

    def _name(self, kind: str) -> str:
        number = len(self._names)
        name = f"{self.part}/{kind}_{number}"
        while name in self._names:
            number += 1
            name = f"{self.part}/{kind}_{number}"
        self._names.add(name)
        return name

    def _fold(self, kind: str, inputs: Sequence[ir.Value | None], outputs: int, attributes: dict[str, Any]) -> tuple[ir.Value, ...]:
        names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
        feed = {name: array_of(value) for name, value in zip(names, inputs, strict=True) if name}
        node = helper.make_node(kind, names, [f"o{index}" for index in range(outputs)], **attributes)
        graph = helper.make_graph(
            [node],
            "fold",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items() if a is not None],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        found = ReferenceEvaluator(model).run(None, feed)
        assert isinstance(found, list)
        return tuple(self.constant(array) for array in found)

    def _infer(self, node: ir.Node, inputs: Sequence[ir.Value | None], attributes: dict[str, Any]) -> None:
        names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
        proto = helper.make_node(node.op_type, names, [f"o{index}" for index in range(len(node.outputs))], **attributes)
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for name, value in zip(names, inputs, strict=True):
            if value is None:
                continue
            if value.dtype is None:
                raise UnknownShape(f"{value.name} has no known type")
            types[name] = helper.make_tensor_type_proto(int(value.dtype), shape_of(value))
            array = array_of(value)
            if array is not None and array.size <= DATA:
                data[name] = numpy_helper.from_array(array)
        schema = onnx.defs.get_schema(node.op_type, self.opset)
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=[helper.make_opsetid("", self.opset)])
        for index, output in enumerate(node.outputs):
            kind = found[f"o{index}"].tensor_type
            output.type = ir.TensorType(ir.DataType(kind.elem_type))
            if kind.HasField("shape"):
                output.shape = ir.Shape([d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in kind.shape.dim])

    def forget(self, nodes: Collection[ir.Node]) -> None:
        """Nodes whose inputs were exchanged: what is written from now on is not taken from them."""
        gone = set(nodes)
        self._written = {key: made for key, made in self._written.items() if not isinstance(made, tuple) or made[0].producer() not in gone}

    # shapes

    def dims(self, value: ir.Value, start: int = 0, end: int | None = None) -> ir.Value:
        """Dimensions start..end as int64 [end − start]: a constant where they are known, read while the graph runs otherwise."""
        shape = shape_of(value)[start:end]
        if all(isinstance(d, int) for d in shape):
            return self.ints(*(d for d in shape if isinstance(d, int)))
        first = start if start >= 0 else start + rank_of(value)
        found = self.op("Shape", value, start=first, end=first + len(shape))
        self._sizes[found] = shape
        return found

    def join(self, *parts: int | Sequence[int] | ir.Value) -> ir.Value:
        """One int64 vector of numbers and vectors of dimensions."""
        values = [part if isinstance(part, ir.Value) else self.ints(*([part] if isinstance(part, int) else part)) for part in parts]
        values = [value for value in values if shape_of(value) != [0]] or [self.ints()]
        sizes: list[Dimension] = []
        for value in values:
            array = array_of(value)
            sizes += self._sizes[value] if array is None else array.tolist()
        found = values[0] if len(values) == 1 else self.op("Concat", *values, axis=0)
        self._sizes[found] = sizes
        return found

    def reshape(self, value: ir.Value, *parts: int | Sequence[int] | ir.Value) -> ir.Value:
        """Reshape to numbers (at most one −1 for the rest) and vectors from ``dims``. 0 is an empty axis, not a copy."""
        to = self.join(*parts)
        sizes = self._completed(value, list(self._sizes[to]))
        if sizes == shape_of(value):
            return value
        if all(isinstance(d, int) and d >= 0 for d in sizes):
            to = self.ints(*(d for d in sizes if isinstance(d, int)))
        found = self.op("Reshape", value, to)
        if -1 not in sizes:
            found.shape = ir.Shape(sizes)  # inference forgets what a computed shape was made of
        return found

    @staticmethod
    def _completed(value: ir.Value, sizes: list[Dimension]) -> list[Dimension]:
        """A wanted shape with its −1 worked out, where it can be: the number and names that the rest of the shape lacks."""
        if -1 not in sizes:
            return sizes
        number, names = product_of(shape_of(value))
        wanted, others = product_of([size for size in sizes if size != -1])
        if wanted == 0 or not others <= names or (names == others and (number / wanted).denominator != 1):
            return sizes
        left = dimension_of(number / wanted, names - others)
        return [left if size == -1 else size for size in sizes]

    def expand(self, value: ir.Value, *parts: int | Sequence[int] | ir.Value) -> ir.Value:
        """Broadcast to numbers and vectors from ``dims``; 1 keeps a dimension."""
        to = self.join(*parts)
        sizes, have = self._sizes[to], shape_of(value)
        full = [b if a == 1 else a for a, b in zip(have, sizes, strict=True)] if len(sizes) == len(have) else None
        if full == have:
            return value
        found = self.op("Expand", value, to)
        if full is not None:
            found.shape = ir.Shape(full)
        return found

    def size(self, value: ir.Value, axis: int) -> ir.Value:
        """One dimension as a float32 scalar."""
        dimension = shape_of(value)[axis]
        if isinstance(dimension, int):
            return self.number(dimension)
        axis %= rank_of(value)
        return self.op("Cast", self.op("Squeeze", self.dims(value, axis, axis + 1), self.ints(0)), to=int(ir.DataType.FLOAT))

    # arithmetic

    def mul(self, a: ir.Value | None, b: ir.Value | None) -> ir.Value:
        """a · b, where None is 1."""
        for one, other in ((a, b), (b, a)):
            if other is not None and (one is None or (_is_one(one) and rank_of(one) <= rank_of(other))):
                return other
        assert a is not None and b is not None
        return self.op("Mul", a, b)

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Add", a, b)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Sub", a, b)

    def div(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.op("Div", a, b)

    def neg(self, a: ir.Value) -> ir.Value:
        return self.op("Neg", a)

    def float32(self, value: ir.Value) -> ir.Value:
        """The value in float32."""
        return value if value.dtype == ir.DataType.FLOAT else self.op("Cast", value, to=int(ir.DataType.FLOAT))

    def sum(self, value: ir.Value, *axes: int, keep: bool = True) -> ir.Value:
        return self._reduced("ReduceSum", value, axes, keep)

    def mean(self, value: ir.Value, *axes: int, keep: bool = True) -> ir.Value:
        return self._reduced("ReduceMean", value, axes, keep)

    def _reduced(self, kind: str, value: ir.Value, axes: Sequence[int], keep: bool) -> ir.Value:
        shape = shape_of(value)
        axes = [axis % len(shape) for axis in axes]
        if keep:
            axes = [axis for axis in axes if shape[axis] != 1]
        if not axes:
            return value
        if not keep and all(shape[axis] == 1 for axis in axes):
            return self.squeeze(value, *axes)
        return self.op(kind, value, self.ints(*axes), keepdims=int(keep))

    # layout

    def transpose(self, value: ir.Value, *order: int) -> ir.Value:
        return value if list(order) == sorted(order) else self.op("Transpose", value, perm=list(order))

    def swap_last(self, value: ir.Value) -> ir.Value:
        """Swap the last two axes."""
        rank = rank_of(value)
        return self.transpose(value, *range(rank - 2), rank - 1, rank - 2)

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        return self.op("Unsqueeze", value, self.ints(*axes)) if axes else value

    def squeeze(self, value: ir.Value, *axes: int) -> ir.Value:
        return self.op("Squeeze", value, self.ints(*axes)) if axes else value

    def slice(self, value: ir.Value, axis: int, start: int, end: int, step: int = 1) -> ir.Value:
        """value[…, start:end:step, …] along one axis; 2**31 − 1 and −(2**31) are the far ends."""
        size = shape_of(value)[axis]
        if step == 1 and start == 0 and isinstance(size, int) and end >= size:
            return value
        return self.op("Slice", value, self.ints(start), self.ints(end), self.ints(axis % rank_of(value)), self.ints(step))

    def pad(self, value: ir.Value, axis: int, before: int, after: int, fill: float = 0.0) -> ir.Value:
        if before == 0 and after == 0:
            return value
        rank = rank_of(value)
        axis %= rank
        pads = [0] * (2 * rank)
        pads[axis], pads[axis + rank] = before, after
        # all axes: ONNX Runtime's transpose optimiser reorders pads as if there were no `axes` input, and fails when it runs
        return self.op("Pad", value, self.ints(*pads), self.number(fill))


def _is_one(value: ir.Value) -> bool:
    array = array_of(value)
    return array is not None and array.size == 1 and float(array.reshape(())) == 1.0
