"""The passes that turn any graph into the one form that everything after import reads. Each says what holds afterwards.

Values keep their names and what they compute. Passes change the model in place, but for those that go through onnx's C++ code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from onnx import inliner, version_converter
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from dkcam.errors import ExportError
from dkcam.export.networks.branches import free_name, names_of
from dkcam.export.networks.inference import Fact
from dkcam.export.networks.refuse import COMPOSITES, STANDARD, first_line, refusal, shown
from dkcam.printable import printable

OPSET = 18
SMALL = 64  # values: constants up to here go along through onnx's C++ code, which reads axes and sizes from them
SCOPES = "pkg.torch.onnx.name_scopes"  # what torch's exporter says of a node, and layers are named by
LONGEST_SCOPES = 4096


def through(model: ir.Model, change: Callable[[onnx.ModelProto], onnx.ModelProto], what: str, source: str) -> ir.Model:
    """The model changed by onnx's C++ code, which never sees the weights: they go along as inputs, by name.

    Errors: ExportError with what the code says.
    """
    graph = model.graph
    inputs = len(graph.inputs)
    held = {name: value for name, value in graph.initializers.items() if value.const_value is not None and value.const_value.size > SMALL}
    for name, value in held.items():
        graph.initializers.pop(name)
        graph.inputs.append(value)
    try:
        found = ir.from_proto(change(ir.to_proto(model)))
    except Exception as error:  # whatever C++ throws
        raise refusal(f"{source} {what}: {first_line(error)}") from error
    _give_back(found.graph, list(found.graph.inputs[inputs:]), held)
    return found


def check(model: ir.Model, source: str) -> None:
    """Errors: ExportError for what onnx's checker finds: unknown operators, attributes of a wrong type, names out of reach."""
    graph = model.graph
    held = {name: value for name, value in graph.initializers.items() if value.const_value is not None and value.const_value.size > SMALL}
    for name, value in held.items():
        graph.initializers.pop(name)
        graph.inputs.append(value)
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except Exception as error:  # whatever C++ throws
        raise refusal(f"{source} is no valid ONNX model: {first_line(error)}; export it again") from error
    _give_back(graph, list(held.values()), held)


def _give_back(graph: ir.Graph, values: Sequence[ir.Value], held: Mapping[str, ir.Value]) -> None:
    """Inputs become the initializers again that they were."""
    ours = set(values)
    kept = [value for value in graph.inputs if value not in ours]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    for value in values:
        value.const_value = held[value.name or ""].const_value
        graph.register_initializer(value)


def inline_functions(model: ir.Model, source: str) -> ir.Model:
    """No functions of the file's own are left: each call is written out. Their number was bounded before (refuse.check_calls)."""
    if not model.functions:
        return model
    inline = partial(inliner.inline_local_functions, convert_version=True)
    return through(model, inline, "has functions that cannot be written out", source)


def raise_opset(model: ir.Model, source: str) -> ir.Model:
    """Opset 18 or newer. Before: every shape is known, which some operators' conversion reads."""
    version = model.opset_imports.get("", 1)
    if version >= OPSET:
        return model
    if model.ir_version < 8:
        model.ir_version = 8
    convert = partial(version_converter.convert_version, target_version=OPSET)
    return through(model, convert, f"is of opset {version}, which cannot be raised to {OPSET}; export it with opset 18", source)


def inline_composites(model: ir.Model, source: str) -> ir.Model:
    """Operators that ONNX defines by others, and that have no rule, are written as those. Before: every type is known,
    and their number was bounded (refuse.check_calls).
    """
    for _ in range(4):  # a definition may use another
        kinds = {node.op_type for node in model.graph if node.domain == "" and node.op_type in COMPOSITES}
        if not kinds:
            break

        for node in model.graph:
            if node.op_type in kinds:
                _defaults(node, model.opset_imports[""])

        def inline(proto: onnx.ModelProto, kinds: set[str] = kinds) -> onnx.ModelProto:
            return inliner.inline_selected_functions(proto, [("", kind) for kind in kinds], inline_schema_functions=True)

        model = through(model, inline, f"has {', '.join(sorted(kinds))}, which cannot be written out", source)
    return model


def _defaults(node: ir.Node, opset: int) -> None:
    """Attributes that are left out are written out: ONNX's definitions read them."""
    for name, attribute in onnx.defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in node.attributes and attribute.default_value.type:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)


def standard_domain(model: ir.Model, source: str) -> None:
    """Every node is of ONNX's own domain, written as "", and no other is imported."""
    for domain in [domain for domain in model.opset_imports if domain not in STANDARD]:
        model.opset_imports.pop(domain)
    version = model.opset_imports.pop("ai.onnx", None)
    model.opset_imports.setdefault("", version or 1)
    for node in model.graph:
        if node.domain:
            raise refusal(f"{source} has {shown(node.op_type)} (node {shown(node.name)}) of {shown(node.domain)}, which it does not define")


def describe(model: ir.Model, facts: Mapping[ir.Value, Fact], dimensions: Callable[[Fact], list[int | str | None] | None]) -> None:
    """Every value has its type and shape. dimensions: of a value, numbers, names, or None where nothing is known."""
    for value, fact in facts.items():
        value.type = ir.TensorType(fact.dtype)
        shape = dimensions(fact)
        value.shape = None if shape is None else ir.Shape(shape)


def fold(model: ir.Model, facts: Mapping[ir.Value, Fact]) -> None:
    """What does not depend on picture or size is an initializer; the nodes that computed it are gone. Outputs stay nodes."""
    graph = model.graph
    outputs = set(graph.outputs)
    gone: list[ir.Node] = []
    wanted: list[ir.Value] = []
    dead: set[ir.Node] = set()
    for node in reversed(graph):
        if any(output in outputs for output in node.outputs):
            continue
        read = [output for output in node.outputs if any(use.node not in dead for use in output.uses())]
        if all(output in facts and facts[output].constant for output in read):
            dead.add(node)
            gone.append(node)
            wanted += read
    for value in wanted:
        arrays = facts[value].arrays
        assert arrays is not None and value.name
        name, value.name = value.name, f"{value.name}/folded"
        array = arrays[0] if arrays[0].flags.c_contiguous else arrays[0].copy()
        tensor = ir.tensor(array, name=name)
        constant = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        value.replace_all_uses_with(constant)
        graph.register_initializer(constant)
    for node in gone:
        graph.remove(node, safe=True)


def constant_shapes(model: ir.Model) -> None:
    """A Reshape whose computed shape has one dimension at most that is not a number, or keeps free ones in their place, takes a constant.

    Before: shapes are known, so that only free sizes are left to compute.
    """
    graph, made = model.graph, names_of(model.graph)
    for node in graph:
        if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].const_value is not None:
            continue
        before, after = node.inputs[0].shape if node.inputs[0] is not None else None, node.outputs[0].shape
        if before is None or after is None or 0 in after or ("allowzero" in node.attributes and node.attributes["allowzero"].as_int()):
            continue
        sizes = [d if isinstance(d, int) else 0 if i < len(before) and d.value and d == before[i] else -1 for i, d in enumerate(after)]
        if sizes.count(-1) > 1:
            continue
        name = free_name(f"{node.outputs[0].name}/shape", made)
        tensor = ir.tensor(np.array(sizes, np.int64), name=name)
        constant = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(sizes)]), const_value=tensor)
        graph.register_initializer(constant)
        node.replace_input_with(1, constant)


def drop_identities(model: ir.Model, source: str) -> None:
    """No Identity and no Dropout is left but where an input is an output. Errors: ExportError for a Dropout that drops.

    Before: constants are folded, so that a training mode is a number.
    """
    for node in model.graph:
        if node.op_type != "Dropout":
            continue
        training = node.inputs[2] if len(node.inputs) > 2 else None
        off = training is None or (training.const_value is not None and not training.const_value.numpy().any())
        if not off:
            where = f"Dropout (node {shown(node.name)})"
            raise refusal(f"{source}: {where} drops values; expected a network in evaluation mode; export it after model.eval()")
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            continue
        node.resize_outputs(1)
        node.resize_inputs(1)
        node.op_type, node.version = "Identity", None
        node.attributes.clear()
    IdentityEliminationPass()(model)


def prune(model: ir.Model, source: str) -> None:
    """Nothing is left that no output depends on; nodes are in the order they run."""
    RemoveUnusedNodesPass()(model)
    sort(model.graph, source)


def sort(graph: ir.Graph, source: str) -> None:
    """Nodes are in the order they run. Errors: ExportError for a cycle."""
    try:
        graph.sort()
    except ValueError as error:
        raise cycle(graph, source) from error


def cycle(graph: ir.Graph, source: str) -> ExportError:
    """The error for a graph without an order, naming one node that waits for itself."""
    waiting = {node: sum(value is not None and value.producer() is not None for value in node.inputs) for node in graph}
    ready = [node for node, count in waiting.items() if count == 0]
    while ready:
        node = ready.pop()
        del waiting[node]
        for use in (use for output in node.outputs for use in output.uses()):
            if use.node in waiting:
                waiting[use.node] -= 1
                if waiting[use.node] == 0:
                    ready.append(use.node)
    left = next(iter(waiting), None)
    where = "" if left is None else f": {shown(left.op_type)} (node {shown(left.name)}) waits for its own output"
    return refusal(f"{source} has a cycle{where}; expected a network without loops; export it again")


def name_nodes(model: ir.Model) -> None:
    """Every node and value has a name of its own on one line, without control characters. Only torch's scopes are kept of notes."""
    graph = model.graph
    taken = names_of(graph)
    for value in [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]:
        name = value.name or ""
        if name and printable(name) != name:
            value.name = free_name(printable(name), taken)
        value.metadata_props.clear()
        value.meta.clear()
    used: set[str] = set()
    for index, node in enumerate(graph):
        node.name = free_name(printable(node.name) if node.name else f"{node.op_type}_{index}", used)
        scopes = node.metadata_props.get(SCOPES, "")
        node.metadata_props.clear()
        node.meta.clear()
        node.doc_string = None
        if 0 < len(scopes) <= LONGEST_SCOPES:
            node.metadata_props[SCOPES] = scopes
