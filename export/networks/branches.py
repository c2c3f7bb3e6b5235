"""A branch whose condition is known is written in place of its If."""

from __future__ import annotations

import onnx_ir as ir


def splice(node: ir.Node, condition: bool, taken: set[str]) -> list[ir.Value]:
    """Puts the chosen branch's nodes behind ``node``, which loses all its uses. Returns the branch's initializers, now the graph's.

    taken: the names in the graph, to which the branch's are added. Contract: names stay unique; the outputs of the graph keep
    theirs; a walk over the graph that has come to ``node`` goes on with the nodes of the branch.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
    results = list(branch.outputs)
    branch.outputs.clear()
    moved = list(branch)
    branch.remove(moved)
    constants = list(branch.initializers.values())
    branch.initializers.clear()
    for value in [*constants, *(output for one in moved for output in one.outputs)]:
        if value.name:
            value.name = free_name(value.name, taken)
    for value in constants:
        graph.register_initializer(value)
    copies = []
    for output, result in zip(node.outputs, results, strict=True):
        if not output.is_graph_output():
            output.replace_all_uses_with(result)
            continue
        # the graph's output keeps its name
        copy = ir.node("Identity", [result], num_outputs=1, name=f"{node.name}/{output.name}")
        name = output.name
        output.name = free_name(f"{name}.if", taken)
        copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = name, output.type, output.shape
        output.replace_all_uses_with(copy.outputs[0], replace_graph_outputs=True)
        copies.append(copy)
    graph.insert_after(node, [*moved, *copies])
    graph.remove(node, safe=True)
    return constants


def free_name(name: str, taken: set[str]) -> str:
    """The name, or one like it that is not taken; it is taken then."""
    number, free = 2, name
    while free in taken:
        free = f"{name}.{number}"
        number += 1
    taken.add(free)
    return free


def names_of(graph: ir.Graph) -> set[str]:
    """Of every value in it."""
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    return {value.name for value in values if value.name}
