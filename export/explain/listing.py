"""What ``--list-layers`` prints: where a heatmap can be taken, and what one costs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.export.derivative.sweep import activated, ancestors
from dkcam.export.explain.layers import Layer, Layers, multiplications
from dkcam.export.explain.names import path_of
from dkcam.export.writer import Dimension, shape_of


@dataclass(frozen=True)
class Listed:
    """name: of the module where the file knows it, else of the value. map: (rows, columns). stride: pixels for each cell, (0, 0) where
    sizes are free. cost: of one map there, as a share of the network's multiplications.
    """

    name: str
    value: str
    shape: tuple[Dimension, ...]
    map: tuple[Dimension, Dimension]
    stride: tuple[float, float]
    cost: float
    default: bool


def list_layers(graph: ir.Graph, layers: Layers, defaults: Sequence[Layer], picture: tuple[Dimension, Dimension]) -> list[Listed]:
    """The candidates, in the order the network computes them; the default is always among them."""
    chosen = {layer.name for layer in defaults}
    found = [*layers.candidates()]
    found += [layer for layer in defaults if layer.name not in {one.name for one in found}]
    order = {value: number for number, node in enumerate(graph) for value in node.outputs}
    found.sort(key=lambda layer: order.get(layer.value, -1))
    needed = ancestors(layers.scores)
    nodes = [node for node in graph if node in needed]
    whole = sum(multiplications(node) for node in nodes) or 1
    names = [_name(layer) for layer in found]
    rows = []
    for layer, name in zip(found, names, strict=True):
        active = activated(nodes, [layer.value])
        behind = sum(multiplications(node) for node in nodes if any(v in active for v in node.inputs if v is not None))
        stride = tuple(p / c if isinstance(p, int) and isinstance(c, int) else 0.0 for p, c in zip(picture, layer.size, strict=True))
        rows.append(
            Listed(
                name=name if names.count(name) == 1 else layer.name,
                value=layer.name,
                shape=tuple(shape_of(layer.value)),
                map=layer.size,
                stride=(stride[0], stride[1]),
                cost=behind / whole,
                default=layer.name in chosen,
            )
        )
    return rows


def _name(layer: Layer) -> str:
    node = layer.value.producer()
    return (path_of(node) if node is not None else "") or layer.name
