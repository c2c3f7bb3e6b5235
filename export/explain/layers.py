"""Where a heatmap can be taken: values with positions, the default among them, and what ``--layer`` names.

The default is the last map of features before space is pooled away: what global pooling, flattening or a class token reads.
A network that keeps space (segmentation) is explained at its coarsest map, where a position sees most of the picture.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.derivative.sweep import activated, ancestors
from dkcam.export.explain.names import path_of
from dkcam.export.explain.places import places
from dkcam.export.writer import Dimension, UnknownShape, array_of, shape_of
from dkcam.printable import printable

MOST_SKIPPED = 16  # tokens that are no place: a class token, a distillation token, registers
POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "ReduceLogSumExp"})
ACTIVATIONS = frozenset(
    {"Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Gelu", "Mish", "PRelu", "BatchNormalization"}
)
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"})
MOVES = frozenset({"Reshape", "Flatten", "Transpose", "Identity", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class Layer:
    """A value with positions. space: its axes of rows and columns, or the one axis of tokens. skip: tokens at the front
    that are no place. grid: (rows, columns) of the tokens, None where ``space`` has two axes.
    """

    value: ir.Value
    space: tuple[int, ...]
    channel: int
    skip: int = 0
    grid: tuple[Dimension, Dimension] | None = None

    @property
    def name(self) -> str:
        return self.value.name or ""

    @property
    def size(self) -> tuple[Dimension, Dimension]:
        """(rows, columns) of the heatmap."""
        if self.grid is not None:
            return self.grid
        shape = shape_of(self.value)
        return shape[self.space[0]], shape[self.space[1]]


class Layers:
    """The layers of one network, on the way from its image to some scores."""

    def __init__(self, graph: ir.Graph, image: ir.Value, picture: tuple[Dimension, Dimension], scores: Sequence[ir.Value]) -> None:
        """picture: (height, width) of the image."""
        self.scores = scores
        self._picture = picture
        nodes = list(graph)
        self._active = activated(nodes, [image])
        needed = ancestors(scores)
        self._nodes = [node for node in nodes if node in needed and any(output in self._active for output in node.outputs)]
        self._image = image

    def default(self) -> Layer:
        """The last map before space is pooled away. Errors: ExportError where there is none."""
        for node in reversed(self._nodes):
            found = self._read_by(node)
            if found is not None:
                return found
        for value in reversed(self.narrow()):
            found = self.at(value)
            if found is not None:
                return found
        raise ExportError("no layer with positions lies between image and scores; --list-layers shows what there is, --layer names one")

    def coarsest(self) -> Layer:
        """The last map of the lowest resolution. Errors: ExportError."""
        maps = [found for found in self.maps() if isinstance(found.size[0], int) and isinstance(found.size[1], int)]
        if not maps:
            return self.default()
        least = min(_positions(found) for found in maps)
        return [found for found in maps if _positions(found) == least][-1]

    def maps(self) -> list[Layer]:
        """Every value with more than one position, in the order the network computes them."""
        found = [self.at(value) for value in self._computed]
        return [layer for layer in found if layer is not None and _positions(layer) != 1]

    @cached_property
    def _computed(self) -> dict[ir.Value, None]:
        """Values that depend on the image by more than scaling and moving: from the first product of weights on."""
        found: dict[ir.Value, None] = {}
        for node in self._nodes:
            if node.op_type in PRODUCTS or any(value in found for value in node.inputs if value is not None):
                found.update(dict.fromkeys(output for output in node.outputs if output in self._active))
        return found

    def narrow(self) -> list[ir.Value]:
        """Values that everything passes on its way from image to scores, in order: the ends of blocks."""
        waiting: dict[ir.Value, int] = {}
        inside = set(self._nodes)

        def readers(value: ir.Value) -> int:
            return len({use.node for use in value.uses() if use.node in inside})

        waiting[self._image] = readers(self._image)
        found = []
        for node in self._nodes:
            for value in {value for value in node.inputs if value is not None and value in waiting}:
                waiting[value] -= 1
                if waiting[value] <= 0:
                    del waiting[value]
            for output in node.outputs:
                if output in self._active and readers(output):
                    waiting[output] = readers(output)
            if len(waiting) == 1:
                found.append(next(iter(waiting)))
        return found

    def candidates(self) -> list[Layer]:
        """What ``--list-layers`` prints: the ends of blocks, and the last map of each resolution that has none."""
        ends = [value for value in self.narrow() if value in self._computed and not self._only_activated(value)]
        found = [layer for layer in map(self.at, ends) if layer is not None]
        sizes = {layer.size for layer in found}
        return found + [layer for size, layer in {one.size: one for one in self.maps()}.items() if size not in sizes]

    def _only_activated(self, value: ir.Value) -> bool:
        """Whether all that reads this value is an activation, whose output is the end of the block then."""
        readers = {use.node for use in value.uses()}
        return len(readers) == 1 and next(iter(readers)).op_type in ACTIVATIONS

    def named(self, name: str) -> Layer:
        """A value, a node, or a module's path ("layer4.2", its last call). Errors: ExportError."""
        for node in self._nodes:
            if name in (node.name, *(output.name for output in node.outputs)):
                value = next((output for output in node.outputs if output.name == name), node.outputs[0])
                return self._at(value, name)
        inside = [node for node in self._nodes if f"{path_of(node)}.".startswith(f"{name}.")]
        if inside:
            return self._at(inside[-1].outputs[0], name)
        known = [layer.name for layer in self.maps()] + [path_of(node) for node in self._nodes]
        near = difflib.get_close_matches(name, [one for one in known if one], 3)
        hint = f"; near: {', '.join(printable(one) for one in near)}" if near else ""
        raise ExportError(
            f"--layer {printable(name)}: no value, node or module of this name lies between image and scores{hint}; --list-layers shows all"
        )

    def _at(self, value: ir.Value, name: str) -> Layer:
        found = self.at(value)
        if found is None:
            shape = "x".join(map(str, value.shape)) if value.shape is not None else "unknown"
            raise ExportError(
                f"--layer {printable(name)}: its shape {shape} has no positions; "
                "expected features [B, C, h, w], [B, h, w, C] or tokens [B, T, C]"
            )
        return found

    def at(self, value: ir.Value) -> Layer | None:
        """The value as a layer; None where it has no positions."""
        try:
            shape = shape_of(value)
        except UnknownShape:
            return None
        if len(shape) == 4:
            if (space := self._places.get(value)) is not None and self._is_map(shape[space[0]], shape[space[1]]):
                return Layer(value, space, 6 - sum(space))
            first, last = self._fits(shape[2], shape[3]), self._fits(shape[1], shape[2])
            return Layer(value, (1, 2), 3) if last and not first else Layer(value, (2, 3), 1) if first else None
        if len(shape) == 3:
            return self._tokens(value, 1, 2)
        return None

    @cached_property
    def _places(self) -> Mapping[ir.Value, tuple[int, int]]:
        return places(self._nodes, self._image)

    def _is_map(self, rows: Dimension, columns: Dimension) -> bool:
        if isinstance(rows, str) or isinstance(columns, str):
            return isinstance(rows, str) and isinstance(columns, str)
        return rows * columns > 1

    def _fits(self, rows: Dimension, columns: Dimension) -> bool:
        """Whether these can be the rows and columns of a map of the picture: both fewer, by about the same factor."""
        if isinstance(rows, str) or isinstance(columns, str):
            return isinstance(rows, str) and isinstance(columns, str)
        height, width = self._picture
        if not isinstance(height, int) or not isinstance(width, int) or rows * columns <= 1:
            return False
        # rounding moves a small map by one row or column
        return rows <= height and columns <= width and abs(rows * width - columns * height) <= max(height, width)

    def _tokens(self, value: ir.Value, axis: int, channel: int) -> Layer | None:
        """Tokens as a layer, their grid from the last map before them that has as many positions."""
        count = shape_of(value)[axis]
        if not isinstance(count, int) or count <= 1:
            return None
        best: tuple[int, tuple[int, int]] | None = None
        for grid in self._grids:
            skip = count - grid[0] * grid[1]
            if 0 <= skip <= MOST_SKIPPED and (best is None or skip < best[0]):
                best = skip, grid
        if best is None:
            return None
        return Layer(value, (axis,), channel, *best)

    @cached_property
    def _grids(self) -> list[tuple[int, int]]:
        """Sizes of the network's maps with four axes."""
        found: dict[tuple[int, int], None] = {}
        for shape in (output.shape for node in self._nodes for output in node.outputs):
            for rows, columns in ((shape[2], shape[3]), (shape[1], shape[2])) if shape is not None and len(shape) == 4 else ():
                if isinstance(rows, int) and isinstance(columns, int) and rows * columns > 1 and self._fits(rows, columns):
                    found[rows, columns] = None
        return list(found)

    def _read_by(self, node: ir.Node) -> Layer | None:
        """What this node pools, if it is one that gives space up."""
        source = node.inputs[0] if node.inputs else None
        if source is None or source not in self._active or node.outputs[0].shape is None:
            return None
        try:
            before, after = shape_of(source), shape_of(node.outputs[0])
        except UnknownShape:
            return None
        kind, rank = node.op_type, len(before)
        if kind in POOLS and rank == 4 and before[2:] != [1, 1]:
            return Layer(source, (2, 3), 1)
        if kind in REDUCTIONS:
            return self._reduced(node, source, before)
        if kind in ("AveragePool", "MaxPool", "Conv") and rank == 4 and after[2:] == [1, 1] and before[2:] != [1, 1]:
            return Layer(source, (2, 3), 1)
        if (
            kind in ("Reshape", "Flatten")
            and rank == 4
            and len(after) == 2
            and sum(d != 1 for d in before[1:]) > 1
            and before[0] == after[0]
        ):
            return self.at(source)
        if (
            kind in ("Gather", "Slice")
            and rank == 3
            and isinstance(before[1], int)
            and before[1] > 4
            and (len(after) == 2 or after[1] == 1)
        ):
            return self._before_attention(source)
        return None

    def _reduced(self, node: ir.Node, source: ir.Value, before: list[Dimension]) -> Layer | None:
        rank = len(before)
        given = node.attributes.get("axes")
        axes = list(given.as_ints()) if given is not None else []
        if not axes and len(node.inputs) > 1 and (listed := array_of(node.inputs[1])) is not None:
            axes = [int(axis) for axis in listed.ravel()]
        axes = sorted(axis % rank for axis in axes)
        if rank == 4 and axes in ([2, 3], [1, 2]) and [before[axes[0]], before[axes[1]]] != [1, 1]:
            return Layer(source, (axes[0], axes[1]), 1 if axes == [2, 3] else 3)
        if rank == 3 and axes in ([1], [2]):
            axis = axes[0]
            return self._moved(source, axis) or self._tokens(source, axis, 3 - axis)
        return None

    def _moved(self, value: ir.Value, axis: int) -> Layer | None:
        """The map with two spatial axes that these tokens were made of by moving numbers alone."""
        count, channels = shape_of(value)[axis], shape_of(value)[3 - axis]
        node = value.producer()
        while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
            source = node.inputs[0]
            if source.shape is None:
                return None
            if len(source.shape) == 4:
                found = self.at(source)
                fits = found is not None and _positions(found) == count and shape_of(source)[found.channel] == channels
                return found if fits else None
            node = source.producer()
        return None

    def _before_attention(self, read: ir.Value) -> Layer | None:
        """A class token reads the picture only in attention: what the last attention is given."""
        shape = shape_of(read)
        softmaxes = [i for i, node in enumerate(self._nodes) if node.op_type == "Softmax" and len(node.outputs[0].shape or ()) >= 3]
        if not softmaxes:
            return None
        before = self._nodes[: softmaxes[-1]]
        norms = [n.outputs[0] for n in before if n.op_type == "LayerNormalization" and n.outputs[0].shape == ir.Shape(shape)]
        if norms:
            return self._tokens(norms[-1], 1, 2)
        ends = set(self.narrow())
        stream = [n.outputs[0] for n in before if n.outputs[0] in ends and n.outputs[0].shape == ir.Shape(shape)]
        return self._tokens(stream[-1], 1, 2) if stream else None


def _positions(layer: Layer) -> int:
    """How many positions; 0 where that is free."""
    rows, columns = layer.size
    return rows * columns if isinstance(rows, int) and isinstance(columns, int) else 0


def multiplications(node: ir.Node) -> int:
    """Of one node, for one picture of known size; 0 where it has none or its shapes are free."""
    try:
        out = [d if isinstance(d, int) else 1 for d in shape_of(node.outputs[0])]
        if node.op_type in ("Conv", "ConvTranspose") and node.inputs[1] is not None and node.inputs[0] is not None:
            weight = [d if isinstance(d, int) else 1 for d in shape_of(node.inputs[1])]
            base = out if node.op_type == "Conv" else [d if isinstance(d, int) else 1 for d in shape_of(node.inputs[0])]
            return math.prod(base) * math.prod(weight[1:])
        if node.op_type in ("MatMul", "Gemm") and node.inputs[0] is not None:
            turned = node.attributes.get("transA")
            last = shape_of(node.inputs[0])[-2 if turned is not None and turned.as_int() else -1]
            return math.prod(out) * (last if isinstance(last, int) else 1)
    except UnknownShape:
        return 0
    return 0
