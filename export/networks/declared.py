"""What a file declares of its values: inputs, outputs and annotations, which are compared with what inference finds and not believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from dkcam.export.networks.inference import Fact
from dkcam.export.networks.refuse import refusal, shown
from dkcam.export.networks.weights import Array

WANTED = "one picture, float32 or uint8 [B,3,H,W] or [B,H,W,3]"
Dims = tuple["int | None", ...]


@dataclass(frozen=True)
class Declared:
    """(type, dimensions) by name; dimensions None where there is no shape, one of them None where it is free."""

    inputs: Mapping[str, tuple[int, Dims | None]]
    outputs: Mapping[str, tuple[int, Dims | None]]
    values: Mapping[str, tuple[int, Dims | None]]

    def check(self, facts: Mapping[ir.Value, Fact], source: str) -> None:
        """Errors: ExportError for a value that is declared as something else than it is."""
        for value, fact in facts.items():
            said = self.values.get(value.name or "") or self.outputs.get(value.name or "")
            if said is None:
                continue
            kind, dims = said
            shape = fact.shapes[0]
            wrong = kind not in (0, int(fact.dtype))
            if dims is not None and shape is not None:
                wrong |= len(dims) != len(shape) or any(a not in (b, None) and b is not None for a, b in zip(dims, shape, strict=False))
            if wrong:
                is_ = f"{fact.dtype.name} {_text(shape)}"
                said_ = f"{ir.DataType(kind).name} {_text(dims)}"
                raise refusal(
                    f"{source} says that {shown(value.name)} is {said_}, and it is {is_}; export it again, or strip its value_info"
                )


def declare(proto: onnx.ModelProto) -> Declared:
    """What is declared. ``proto`` loses it, but for types and ranks of inputs and outputs, which the checker wants."""
    graph = proto.graph
    found = Declared(*({value.name: _said(value) for value in part} for part in (graph.input, graph.output, graph.value_info)))
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
            for dimension in value.type.tensor_type.shape.dim:
                dimension.Clear()
    return found


def _said(value: onnx.ValueInfoProto) -> tuple[int, Dims | None]:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return kind.elem_type, None
    return kind.elem_type, tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)


def check_names(proto: onnx.ModelProto, weights: Mapping[str, Array], source: str) -> None:
    """Errors: ExportError for two values of one name, and for names that nothing gives."""
    graph = proto.graph
    inputs = [value.name for value in graph.input if value.name not in weights]
    given = {*weights, *inputs}
    if len(set(inputs)) < len(inputs):
        raise refusal(f"{source} has two inputs of one name; expected one of each; export it again")
    for node in graph.node:
        for name in node.output:
            if name and name in given:
                raise refusal(f"{source} has two values of the name {shown(name)} (node {shown(node.name)}); expected one; export it again")
            given.add(name)
    for node in graph.node:
        for name in node.input:
            if name and name not in given:
                where = f"{shown(node.op_type)} (node {shown(node.name)})"
                raise refusal(f"{source}: {where} reads {shown(name)}, which nothing gives: a weight is missing; export it again")
    for value in graph.output:
        if not value.name or value.name not in given:
            raise refusal(f"{source} has the output {shown(value.name)}, which nothing gives; export it again")
    if not graph.output:
        raise refusal(f"{source} has no outputs; expected a network; export it again")


def used_inputs(model: ir.Model, declared: Declared, source: str) -> ir.Value:
    """The one input that something reads; the others are taken out of the graph. Errors: ExportError listing what there is."""
    graph = model.graph
    used = [value for value in graph.inputs if value.uses()]
    if len(used) != 1:
        there = ", ".join(_shown(value, declared) for value in used) or "none that is read"
        raise refusal(f"{source} has {len(used)} inputs: {there}", tail=f"; expected {WANTED}")
    for value in list(graph.inputs):
        if value is not used[0]:
            graph.inputs.remove(value)
    return used[0]


def no_picture(value: ir.Value, declared: Declared, source: str) -> Exception:
    """The error for an input that is none."""
    return refusal(f"{source} takes {_shown(value, declared)}, which is no picture; expected {WANTED}")


def _shown(value: ir.Value, declared: Declared) -> str:
    _, dims = declared.inputs.get(value.name or "", (0, None))
    return f"{shown(value.name, 24)} {'?' if value.dtype is None else value.dtype.name} {_text(dims)}"


def _text(dims: Dims | None) -> str:
    if dims is None:
        return "of unknown rank"
    shown_dims = ["?" if d is None else str(d) for d in dims[:6]]
    return f"[{','.join(shown_dims)}{',…' if len(dims) > 6 else ''}]"
