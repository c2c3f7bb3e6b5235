"""Shape and type of every value, node by node, at one or several sizes of the picture, with constants computed on the way.

onnx's own inference gives the shapes; what only depends on shapes (Shape → Gather → Concat → Reshape) is computed as the walk
comes by, so that every shape is a number. Several sizes at once show which dimensions follow the picture, and how.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from dkcam.errors import ExportError
from dkcam.export.networks import folding
from dkcam.export.networks.branches import names_of, splice
from dkcam.export.networks.folding import Array, Budget
from dkcam.export.networks.refuse import first_line, refusal, shown

Shape = tuple["int | None", ...]

DATA = 1024  # values: longer constants say nothing about shapes
LARGEST = 1 << 29  # values of one activation at the smallest of the sizes
MOST_AXES = 16
SIZES = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1}  # which input has a number for each axis


@dataclass(frozen=True)
class Fact:
    """Of one value: its type, and at each size its shape (None where the rank is unknown).

    arrays: its numbers at each size, where they do not depend on the picture. fixed: which of them are the same at every size,
    broadcast to the array; None where none can be said to be.
    """

    dtype: ir.DataType
    shapes: tuple[Shape | None, ...]
    arrays: tuple[Array, ...] | None = None
    fixed: Array | bool | None = None

    @property
    def unranked(self) -> bool:
        """Whether its rank is unknown, or not the same at every size."""
        return len({None if shape is None else len(shape) for shape in self.shapes}) != 1 or self.shapes[0] is None

    @property
    def columns(self) -> list[tuple[int | None, ...]]:
        """Each dimension at every size; none where the rank is unknown."""
        return [] if self.unranked else list(zip(*(shape for shape in self.shapes if shape is not None), strict=True))

    @property
    def constant(self) -> bool:
        """Whether its numbers are known and the same at every size."""
        return self.arrays is not None and self.fixed is not None and bool(np.all(self.fixed))


@dataclass
class Inference:
    """Walks a graph once. sizes: shapes of the picture. Branches (If) whose condition is constant are written in place of the If."""

    model: ir.Model
    image: ir.Value
    sizes: Sequence[tuple[int, ...]]
    source: str
    facts: dict[ir.Value, Fact] = field(default_factory=dict)

    def run(self) -> dict[ir.Value, Fact]:
        """Errors: ExportError naming the node whose inputs do not fit, control flow, and values too large."""
        graph = self.model.graph
        self._opset = self.model.opset_imports.get("", 1)
        self._budget = Budget()
        self._names = names_of(graph)
        values = [math.prod(size) for size in self.sizes]
        self._most = [LARGEST * count // min(values) for count in values]
        self._types: dict[tuple[int, Shape | None], onnx.TypeProto] = {}
        assert self.image.dtype is not None
        self.facts[self.image] = Fact(self.image.dtype, tuple(self.sizes))
        for value in graph.initializers.values():
            self._initializer(value)
        for node in graph:
            self._visit(node)
        return self.facts

    def _initializer(self, value: ir.Value) -> None:
        assert value.const_value is not None
        self.facts[value] = self._known(value.const_value.numpy())

    def _known(self, array: Array) -> Fact:
        count = len(self.sizes)
        return Fact(ir.DataType.from_numpy(array.dtype), (array.shape,) * count, (array,) * count, True)

    def _visit(self, node: ir.Node) -> None:
        if node.op_type == "If":
            self._branch(node)
            return
        if node.op_type == "Constant":
            try:
                array = folding.constant_of(node)
            except (ValueError, TypeError) as error:
                raise self._refused(node, f"is damaged: {first_line(error)}") from error
            if array is None:
                raise self._refused(node, "holds text or a sparse tensor, expected numbers")
            self.facts[node.outputs[0]] = self._known(array)
            return
        inputs = [None if value is None else self.facts.get(value) for value in node.inputs]
        for value, fact in zip(node.inputs, inputs, strict=True):
            if value is not None and fact is None:
                raise self._refused(node, f"reads {shown(value.name)}, whose type is not known")
        found = self._infer(node, inputs)
        for index, output in enumerate(node.outputs):
            if not output.name:
                continue
            if index not in found:
                raise self._refused(node, f"gives {shown(output.name)}, whose type is not known")
            self.facts[output] = found[index]
        self._fold(node, inputs)

    def _branch(self, node: ir.Node) -> None:
        condition = None if node.inputs[0] is None else self.facts.get(node.inputs[0])
        if condition is None or not condition.constant or condition.arrays is None or condition.arrays[0].size != 1:
            raise self._refused(node, "chooses while the network runs; expected no control flow: export it traced, with fixed sizes")
        for value in splice(node, bool(condition.arrays[0].reshape(())[()]), self._names):
            try:
                self._initializer(value)
            except (ValueError, TypeError) as error:
                raise self._refused(node, f"has the damaged weight {shown(value.name)}: {first_line(error)}") from error

    # shapes

    def _infer(self, node: ir.Node, inputs: Sequence[Fact | None]) -> dict[int, Fact]:
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, "")
        except onnx.defs.SchemaError as error:
            raise self._refused(node, f"is no operator of opset {self._opset}") from error
        names = ["" if fact is None else f"i{index}" for index, fact in enumerate(inputs)]
        proto = onnx.NodeProto(op_type=node.op_type, input=names, output=[f"o{i}" if v.name else "" for i, v in enumerate(node.outputs)])
        proto.attribute.extend(ir.serde.serialize_attribute(attribute) for attribute in node.attributes.values())
        found: list[dict[int, tuple[ir.DataType, Shape | None]]] = []
        for at in range(len(self.sizes)):
            if at and all(fact is None or _same(fact, at) for fact in inputs):
                found.append(found[-1])
                continue
            types = {n: self._type(fact, at) for n, fact in zip(names, inputs, strict=True) if fact is not None}
            data = {n: numpy_helper.from_array(a) for n, fact in zip(names, inputs, strict=True) if (a := _data(fact, at)) is not None}
            found.append(self._outputs(node, schema, proto, types, data, self._most[at]))
            self._check_sizes(node, [None if fact is None else fact.shapes[at] for fact in inputs], found[-1])
        return {i: Fact(dtype, tuple(one[i][1] for one in found)) for i, (dtype, _) in found[0].items()}

    def _outputs(
        self,
        node: ir.Node,
        schema: onnx.defs.OpSchema,
        proto: onnx.NodeProto,
        types: dict[str, onnx.TypeProto],
        data: dict[str, onnx.TensorProto],
        most: int,
    ) -> dict[int, tuple[ir.DataType, Shape | None]]:
        try:
            inferred = onnx.shape_inference.infer_node_outputs(
                schema, proto, types, data, opset_imports=[helper.make_opsetid("", self._opset)]
            )
        except Exception as error:  # InferenceError, and what else C++ throws
            shapes = [_shape(types[name].tensor_type) for name in proto.input if name]
            given = ", ".join("?" if shape is None else str(list(shape)).replace("None", "?") for shape in shapes[:3])
            raise self._refused(node, f"cannot take {given}: {first_line(error)}") from error
        found = {}
        for index, output in enumerate(node.outputs):
            kind = inferred.get(f"o{index}")
            if kind is None or not output.name:
                continue
            if not kind.HasField("tensor_type"):
                raise self._refused(node, "gives a list or an optional value, expected tensors")
            if kind.tensor_type.elem_type == onnx.TensorProto.STRING:
                raise self._refused(node, "gives text, expected numbers")
            shape = _shape(kind.tensor_type)
            if shape is not None:
                self._check(node, shape, most)
            found[index] = (ir.DataType(kind.tensor_type.elem_type), shape)
        return found

    def _type(self, fact: Fact, at: int) -> onnx.TypeProto:
        key = (int(fact.dtype), fact.shapes[at])
        found = self._types.get(key)
        if found is None:
            found = self._types[key] = helper.make_tensor_type_proto(*key)
        return found

    def _check(self, node: ir.Node, shape: Shape, most: int) -> None:
        known = [d for d in shape if d is not None]
        if len(shape) > MOST_AXES:
            raise self._refused(node, f"gives {len(shape)} axes, expected {MOST_AXES} at most")
        if any(d < 0 for d in known) or math.prod(known) > most:
            raise self._refused(node, f"gives {list(shape)}, expected {LARGEST} values at most")

    def _check_sizes(self, node: ir.Node, inputs: Sequence[Shape | None], outputs: Mapping[int, tuple[ir.DataType, Shape | None]]) -> None:
        """What onnx's inference takes on trust."""
        first = inputs[0] if inputs else None
        wanted = SIZES.get(node.op_type, len(inputs))
        size = inputs[wanted] if wanted < len(inputs) else None
        if size is not None and len(size) == 1 and (size[0] or 0) > MOST_AXES:
            raise self._refused(node, f"gives {size[0]} axes, expected {MOST_AXES} at most")
        if node.op_type == "Reshape" and first is not None:
            before, after = _count(first), _count(outputs[0][1])
            if before is not None and after is not None and before != after:
                raise self._refused(node, f"cannot take {list(first)}: {before} values do not fill {list(outputs[0][1] or ())}")
        if node.op_type == "Conv" and first is not None and inputs[1] is not None and len(first) > 1 and len(inputs[1]) > 1:
            group = node.attributes["group"].as_int() if "group" in node.attributes else 1
            channels, inside = first[1], inputs[1][1]
            if channels is not None and inside is not None and channels != inside * group:
                raise self._refused(node, f"cannot take {list(first)}: its weights are for {inside * group} channels")

    # constants

    def _fold(self, node: ir.Node, inputs: Sequence[Fact | None]) -> None:
        outputs = [self.facts.get(output) for output in node.outputs]
        if node.op_type in ("Shape", "Size"):
            self._fold_shape(node, inputs[0], outputs[0])
            return
        given = [fact for fact in inputs if fact is not None]
        if not folding.can_fold(node.op_type) or any(fact.arrays is None for fact in given) or any(fact is None for fact in outputs):
            return
        found: list[list[Array]] = []
        for at in range(len(self.sizes)):
            if at and all(fact.arrays is not None and fact.arrays[at] is fact.arrays[at - 1] for fact in given):
                found.append(found[-1])
                continue
            numbers = [None if fact is None or fact.arrays is None else fact.arrays[at] for fact in inputs]
            results = self._evaluate(node, numbers, [(fact.dtype, fact.shapes[at]) for fact in outputs if fact is not None])
            if results is None:
                return
            found.append(results)
        fixed = self._fixed(node, inputs)
        for index, (output, fact) in enumerate(zip(node.outputs, outputs, strict=True)):
            assert fact is not None
            arrays = [one[index] for one in found]
            mask = fixed[index] if isinstance(fixed, list) else fixed
            self.facts[output] = Fact(fact.dtype, tuple(a.shape for a in arrays), tuple(arrays), mask)

    def _evaluate(
        self, node: ir.Node, arrays: Sequence[Array | None], wanted: list[tuple[ir.DataType, Shape | None]]
    ) -> list[Array] | None:
        sizes = []
        for dtype, shape in wanted:
            if shape is None or any(d is None for d in shape):
                if node.op_type not in folding.BOUNDED or arrays[0] is None:
                    return None
                count = arrays[0].size * arrays[0].ndim
            else:
                count = math.prod(d for d in shape if d is not None)
            sizes.append((count, int(count * dtype.itemsize)))
        if not self._budget.allows(node.op_type, arrays, sizes):
            return None
        results = folding.evaluate(node, self._opset, arrays)
        if results is None:
            return None
        for result, (dtype, shape) in zip(results, wanted, strict=True):
            known = shape is not None and all(d is not None for d in shape)
            if ir.DataType.from_numpy(result.dtype) != dtype or (known and result.shape != shape):
                return None
        return results

    def _fold_shape(self, node: ir.Node, source: Fact | None, output: Fact | None) -> None:
        if source is None or output is None or any(shape is None for shape in source.shapes):
            return
        shapes = [shape for shape in source.shapes if shape is not None]
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else None
        parts = [shape if node.op_type == "Size" else shape[start:end] for shape in shapes]
        if any(d is None for shape in parts for d in shape):
            return
        whole = [np.array(shape, np.int64) for shape in parts]
        arrays = [np.array(np.prod(one), np.int64) for one in whole] if node.op_type == "Size" else whole
        if len({len(shape) for shape in parts}) != 1:
            return
        mask = np.all([one == arrays[0] for one in arrays], axis=0)
        if mask.all():
            arrays = [arrays[0]] * len(arrays)
        self.facts[node.outputs[0]] = Fact(ir.DataType.INT64, (arrays[0].shape,) * len(arrays), tuple(arrays), np.asarray(mask))

    def _fixed(self, node: ir.Node, inputs: Sequence[Fact | None]) -> Array | bool | list[Array] | None:
        """Which numbers of the outputs are the same at every size, told from which of the inputs are, never from their being equal."""
        given = [fact for fact in inputs if fact is not None]
        if all(fact.constant for fact in given):
            return True
        if any(fact.fixed is None for fact in given):
            return None
        masks = [None if f is None or f.arrays is None or f.fixed is None else np.broadcast_to(f.fixed, f.arrays[0].shape) for f in inputs]
        if node.op_type in folding.ELEMENTWISE:
            shapes = [mask.shape for mask in masks if mask is not None]
            whole = np.ones(np.broadcast_shapes(*shapes), bool)
            for mask in masks:
                whole = whole & (True if mask is None else mask)
            return whole
        data = len(masks) if node.op_type == "Concat" else 1
        if node.op_type not in folding.STRUCTURAL or not all(fact is None or fact.constant for fact in inputs[data:]):
            return None
        arrays = [None if f is None or f.arrays is None else f.arrays[0] for f in inputs]
        moved = [m.astype(np.int64) if i < data and m is not None else arrays[i] for i, m in enumerate(masks)]
        if node.op_type == "Cast":
            return masks[0]
        results = folding.evaluate(node, self._opset, moved)
        return None if results is None else [one.astype(bool) for one in results]

    def _refused(self, node: ir.Node, what: str) -> ExportError:
        return refusal(f"{self.source}: {shown(node.op_type)} (node {shown(node.name)}) {what}")


def _same(fact: Fact, at: int) -> bool:
    """Whether nothing changed between this size and the one before."""
    return fact.shapes[at] == fact.shapes[at - 1] and (fact.arrays is None or fact.arrays[at] is fact.arrays[at - 1])


def _data(fact: Fact | None, at: int) -> Array | None:
    if fact is None or fact.arrays is None or fact.arrays[at].size > DATA:
        return None
    return fact.arrays[at]


def _count(shape: Shape | None) -> int | None:
    """How many values there are, None where that is not known."""
    if shape is None or any(d is None for d in shape):
        return None
    return math.prod(d for d in shape if d is not None)


def _shape(kind: onnx.TypeProto.Tensor) -> Shape | None:
    if not kind.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
