"""From a network's graph to the finished one: the task, the way back, the maps, the outputs under their fixed names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, TopologicalSortPass

from dkcam.errors import ExportError
from dkcam.export.derivative.sweep import sweep
from dkcam.export.explain import classify, dense, masked, regress
from dkcam.export.explain.cam import Maps, explain
from dkcam.export.explain.detect import plan as detect
from dkcam.export.explain.detect.plan import DetectPlan
from dkcam.export.explain.dropkey import Attention
from dkcam.export.explain.layers import Layer
from dkcam.export.explain.scores import Explained
from dkcam.export.explain.tasks import Task
from dkcam.export.writer import Writer, shape_of
from dkcam.printable import printable
from dkcam.spec import SPEC_KEY, ModelSpec

WRITERS = {"classify": classify.explain, "regress": regress.explain, "dense": dense.explain}


@dataclass(frozen=True)
class Wanted:
    """What is written into a graph. layers: where the heat is taken; several give one map, on the finest grid. count: K, None for
    free. per_image: ``classes`` [B, K]. outputs: fixed names. own: the network's own outputs that stay, by name; no inner value has
    any of these names (``free_names``).
    """

    layers: Sequence[Layer]
    method: str = "gradcam"
    count: int | None = None
    per_image: bool = False
    outputs: Sequence[str] = ("logits", "probabilities", "explained", "weights", "heatmap")
    own: Mapping[str, ir.Value] = field(default_factory=dict)


def assemble(
    model: ir.Model, batch: int | str, task: Task, wanted: Wanted, head: Attention | None = None, plan: DetectPlan | None = None
) -> None:
    """Write the explanation into ``model``, whose input ``image`` is in place. Errors: ExportError.

    Afterwards the graph's inputs are ``image``, ``classes`` and with masks ``key_mask``, its outputs those of ``wanted``, and nothing
    else is left in it. head: the paper's, which has its closed form. plan: of a detector.
    """
    graph = model.graph
    writer = Writer(graph, model.opset_imports.get("", 18))
    count: int | str = wanted.count or "K"
    shape = ir.Shape([batch, count] if wanted.per_image else [count])
    classes = ir.Value(name="classes", shape=shape, type=ir.TensorType(ir.DataType.INT64))
    if head is not None:
        found = masked.explain(writer, head, classes, wanted.layers[0], wanted.method, "gradient" in wanted.outputs)
    else:
        if plan is not None:
            said = detect.write(writer, plan, classes, wanted.method, [layer.value for layer in wanted.layers] == plan.features)
        else:
            said = WRITERS[task.kind](writer, task.found, classes)
        found = dict(said.outputs)
        if said.seeds and set(wanted.outputs) & {"weights", "heatmap", "gradient", "features"}:
            found |= heat(writer, said, wanted)
    missing = [name for name in wanted.outputs if name not in found]
    if missing:
        raise ExportError(f"--outputs {missing[0]}: --task {task.kind} gives {', '.join(found)}")
    _finish(model, {name: found[name] for name in wanted.outputs}, wanted.own, classes)


def heat(writer: Writer, said: Explained, wanted: Wanted) -> dict[str, ir.Value]:
    """heatmap, weights, gradient and features of the layers."""
    writer.part = "gradient"
    arrived = sweep(writer, said.seeds, [layer.value for layer in wanted.layers])
    writer.part = "heatmap"
    maps = []
    for layer in wanted.layers:
        if layer.value not in arrived:
            raise ExportError(f"--layer {printable(layer.name)}: no gradient of the scores reaches it; --list-layers shows where one does")
        maps.append(explain(writer, layer, arrived[layer.value], wanted.method))
    if len(maps) == 1:
        return {"heatmap": maps[0].heatmap, "weights": maps[0].weights, "gradient": maps[0].gradient, "features": maps[0].features}
    return {"heatmap": _together(writer, maps)}


def _together(writer: Writer, maps: Sequence[Maps]) -> ir.Value:
    """Maps [B, K, h, w] of several layers on the finest grid, each over its own largest value, their mean."""
    sizes = [shape_of(one.heatmap)[2:] for one in maps]
    finest = max(range(len(maps)), key=lambda i: [d if isinstance(d, int) else 0 for d in sizes[i]])
    total: ir.Value | None = None
    for one, size in zip(maps, sizes, strict=True):
        top = writer.op("ReduceMax", one.heatmap, writer.ints(2, 3), keepdims=1)
        scaled = writer.div(one.heatmap, writer.op("Max", top, writer.number(1e-30)))
        if size != sizes[finest]:
            target = writer.join(writer.dims(scaled, 0, 2), writer.dims(maps[finest].heatmap, 2, 4))
            scaled = writer.op("Resize", scaled, None, None, target, mode="linear")
            scaled.shape = maps[finest].heatmap.shape  # a target read while the graph runs leaves inference without one
        total = scaled if total is None else writer.add(total, scaled)
    assert total is not None
    return writer.mul(total, writer.number(1 / len(maps)))


def free_names(model: ir.Model, names: Sequence[str]) -> None:
    """Give inner values that have one of these names another, so that the outputs and inputs to come can have it."""
    wanted = set(names)
    values = [value for node in model.graph for value in node.outputs] + list(model.graph.initializers.values())
    have = {value.name for value in values} | wanted
    for value in values:
        if value.name in wanted:
            name = f"{value.name}.inner"
            while name in have:
                name += "_"
            have.add(name)
            value.name = name


def _finish(model: ir.Model, outputs: Mapping[str, ir.Value], own: Mapping[str, ir.Value], classes: ir.Value) -> None:
    """Fixed outputs first, then the network's own."""
    graph = model.graph
    graph.outputs.clear()
    for name, value in [*outputs.items(), *own.items()]:
        if value.name == name and value.producer() is not None:
            graph.outputs.append(value)
            continue
        node = ir.node("Identity", [value], num_outputs=1, name=f"{name}.node")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, value.type, value.shape
        graph.append(node)
        graph.outputs.append(node.outputs[0])
    if any(value is classes for node in graph for value in node.inputs):
        graph.inputs.insert(1, classes)  # after image, before key_mask
    RemoveUnusedNodesPass()(model)
    TopologicalSortPass()(model)


def to_bytes(model: ir.Model, spec: ModelSpec) -> bytes:
    """The file: same graph and spec, same bytes."""
    names = "{" + ", ".join(f"{i}: {label!r}" for i, label in enumerate(spec.labels)) + "}"
    model.metadata_props.clear()
    model.metadata_props.update({SPEC_KEY: spec.to_json(), "names": names})
    model.producer_name, model.producer_version = "dkcam", spec.provenance.versions.get("dkcam", "")
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))
