"""The gradient of K boxes' scores at their level's map, where it is not zero: K windows instead of K maps.

The head between map and scores is written a second time, on the window of each box alone: convolutions without padding on windows
wide enough, and zeros put in where the map ends. ``sweep`` walks back through that copy as through any graph, with the boxes in
its batch. Nothing of the copy runs but what the derivatives read, and that is gathered from the values that the network has
computed already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.export.derivative.cotangent import Cotangent, full
from dkcam.export.derivative.rule import Step
from dkcam.export.derivative.space import windows_of
from dkcam.export.derivative.sweep import sweep
from dkcam.export.explain.detect.heads import POINTWISE, Head, Window
from dkcam.export.writer import Writer, rank_of, shape_of

BOXES = 10  # explained at once, as a rule
TAKEN_OUT, GATHERED, PRODUCT = 0.5, 10.0, 0.06  # ns: a number of a map in the runtime's own layout, one gathered, one multiplication


@dataclass(frozen=True)
class Cells:
    """Of N boxes, picture by picture: row and column [N] int64 of the cell at a level of ``size`` (rows, columns), and picture [N]
    int64, None for one picture.
    """

    row: ir.Value
    column: ir.Value
    picture: ir.Value | None
    size: tuple[int, int]


def space_of(value: ir.Value) -> tuple[int, int]:
    """Rows and columns of a map [B, C, h, w]."""
    rows, columns = shape_of(value)[2:]
    assert isinstance(rows, int) and isinstance(columns, int)
    return rows, columns


def gathered(writer: Writer, value: ir.Value, cells: Cells, window: Window) -> ir.Value:
    """Windows of a map [B, C, h, w] around N cells: [N, C, *window.size]. What lies outside of the map is any of its numbers."""
    (rows, columns), channels = space_of(value), shape_of(value)[1]
    assert isinstance(channels, int)
    down, right = np.arange(window.top, window.bottom + 1), np.arange(window.left, window.right + 1)
    place = writer.unsqueeze(writer.add(writer.op("Mul", cells.row, writer.ints(columns)), cells.column), 1, 2, 3)
    if window != Window():
        place = writer.add(place, writer.constant((down[:, None] * columns + right)[None, None], np.int64))
        place = writer.op("Max", writer.op("Min", place, writer.ints(rows * columns - 1)), writer.ints(0))
    place = writer.add(place, writer.constant(np.arange(channels)[None, :, None, None] * (rows * columns), np.int64))
    if cells.picture is not None:
        start = writer.op("Mul", cells.picture, writer.ints(channels * rows * columns))
        place = writer.add(place, writer.unsqueeze(start, 1, 2, 3))
    return writer.op("Gather", writer.reshape(value, -1), place, axis=0)


def inside(writer: Writer, cells: Cells, axis: int, places: NDArray[np.int64], size: int) -> ir.Value:
    """float32 [N, *places.shape]: 1 where a cell's row (axis 0) or column (1), moved by ``places``, is in 0..size−1, else 0."""
    own = np.arange(cells.size[axis]).reshape(-1, *[1] * places.ndim) + places
    table = writer.constant((own >= 0) & (own < size), np.float32)
    return writer.op("Gather", table, (cells.row, cells.column)[axis], axis=0)


def mask(writer: Writer, value: ir.Value, cells: Cells, window: Window) -> ir.Value:
    """1 where a window lies on the map, 0 outside: [N, 1, *window.size] in the map's type."""
    rows, columns = space_of(value)
    row = inside(writer, cells, 0, np.arange(window.top, window.bottom + 1)[None, :, None], rows)
    found = writer.mul(row, inside(writer, cells, 1, np.arange(window.left, window.right + 1)[None, None], columns))
    return found if value.dtype == ir.DataType.FLOAT else writer.op("Cast", found, to=int(value.dtype or 1))


def anew(head: Head, wanted: Sequence[tuple[ir.Value, Window]]) -> bool:
    """Whether values of a head on N windows are sooner computed from windows of its features than gathered from its maps."""
    assert head.windows is not None
    gathers = sum(TAKEN_OUT * _numbers(value) + BOXES * GATHERED * _numbers(value, window) for value, window in wanted)
    products = 0.0
    for node in head.nodes:
        weight, out = node.inputs[1] if len(node.inputs) > 1 else None, node.outputs[0]
        if node.op_type == "Conv" and weight is not None and out in head.windows and out not in head.scores:
            products += _numbers(out, head.windows[out]) * math.prod(size for size in shape_of(weight)[1:] if isinstance(size, int))
    return BOXES * (GATHERED * _numbers(head.features, head.windows[head.features]) + PRODUCT * products) < gathers


def _numbers(value: ir.Value, window: Window | None = None) -> int:
    """Of a map of one picture, or of one window."""
    channels = shape_of(value)[1]
    assert isinstance(channels, int)
    return channels * math.prod(space_of(value) if window is None else window.size)


class Copy:
    """A head written on windows. ``at`` gives a value's window, as wide as it is read."""

    def __init__(self, writer: Writer, head: Head, cells: Cells) -> None:
        assert head.windows is not None
        self._writer, self._head, self._cells, self._windows = writer, head, cells, head.windows
        self._made: dict[ir.Value, ir.Value] = {}
        self._source: dict[ir.Value, tuple[ir.Value, Window]] = {}  # what a value of the copy is a window of
        start = gathered(writer, head.features, cells, head.windows[head.features])
        self.features = self._note(head.features, start, head.windows[head.features])
        before = set(writer.graph)
        for node in head.nodes:
            if any(output in head.windows for output in node.outputs):
                self._write(node)
        self._nodes = [node for node in writer.graph if node not in before]

    def at(self, value: ir.Value) -> ir.Value:
        return self._made[value]

    def settle(self) -> None:
        """Have the values that derivatives read gathered, where that takes less than the copy's computing them anew."""
        inside = set(self._nodes)
        needed = {output for node in self._nodes for output in node.outputs if any(use.node not in inside for use in output.uses())}
        made = [
            output
            for node in self._nodes
            for output in node.outputs
            if output in self._source and output in needed and not (node.op_type in POINTWISE and self._is_cheap(node, needed))
        ]
        if anew(self._head, [self._source[output] for output in made]):
            return
        for output in made:
            value, window = self._source[output]
            ir.convenience.replace_all_uses_with(output, gathered(self._writer, value, self._cells, window))
        self._writer.forget(self._nodes)

    def _is_cheap(self, node: ir.Node, needed: set[ir.Value]) -> bool:
        """Whether its inputs are at hand anyway."""
        return all(value is None or value.const_value is not None or value in needed for value in node.inputs) or not node.inputs

    def _note(self, value: ir.Value, made: ir.Value, window: Window) -> ir.Value:
        self._source[made] = (value, window)
        if window == self._windows.get(value):
            self._made[value] = made
        return made

    def _input(self, value: ir.Value, window: Window) -> ir.Value:
        """A window of a value, cut out of the widest one."""
        have, made = self._windows[value], self._made[value]
        rows, columns = window.size
        cut = self._writer.slice(made, 2, window.top - have.top, window.top - have.top + rows)
        cut = self._writer.slice(cut, 3, window.left - have.left, window.left - have.left + columns)
        return cut if cut is made else self._note(value, cut, window)

    def _write(self, node: ir.Node) -> None:
        window = next(self._windows[output] for output in node.outputs if output in self._windows)
        for output in node.outputs:
            if output in self._windows:
                window |= self._windows[output]
        if node.op_type == "Conv":
            self._note(node.outputs[0], self._convolution(node, window), window)
            return
        inputs = [self._input(value, window) if value is not None and value in self._windows else value for value in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        made = self._writer.ops(node.op_type, *inputs, outputs=len(node.outputs), **attributes)
        for output, one in zip(node.outputs, made, strict=True):
            if output in self._windows:
                self._note(output, one, window)
                self._made[output] = one if window == self._windows[output] else self._cut(one, window, self._windows[output])

    def _cut(self, made: ir.Value, have: Window, window: Window) -> ir.Value:
        rows, columns = window.size
        cut = self._writer.slice(made, 2, window.top - have.top, window.top - have.top + rows)
        return self._writer.slice(cut, 3, window.left - have.left, window.left - have.left + columns)

    def _convolution(self, node: ir.Node, window: Window) -> ir.Value:
        writer = self._writer
        step = Step(writer, node, [])
        value, weight, *bias = node.inputs
        assert value is not None and weight is not None
        kernel = [size for size in shape_of(weight)[2:] if isinstance(size, int)]
        windows = windows_of(step, kernel)
        rows, columns = ((windows.begins[axis], windows.reach[axis] - 1 - windows.begins[axis]) for axis in (0, 1))
        read = window.grown(rows, columns)
        x = self._input(value, read)
        if any(windows.pads):
            x = writer.mul(x, mask(writer, value, self._cells, read))
        groups = step.attribute("group", 1)
        if window.size == (1, 1) and groups == 1 and windows.dilations == [1, 1]:
            return self._product(x, weight, bias[0] if bias else None)
        attributes = {"kernel_shape": kernel, "dilations": windows.dilations, "group": groups}
        return writer.op("Conv", x, weight, *bias, **attributes)

    def _product(self, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
        """A convolution of one window as big as its kernel: a matrix product, whose way back wastes nothing."""
        writer = self._writer
        outer = shape_of(weight)[0]
        assert isinstance(outer, int)
        rows = writer.reshape(x, writer.dims(x, 0, 1), -1)
        made = writer.op("Gemm", rows, writer.reshape(weight, outer, -1), bias, transB=1)
        return writer.unsqueeze(made, 2, 3)


def gradients(
    writer: Writer, head: Head, cells: Cells, seeds: Mapping[ir.Value, ir.Value], targets: Sequence[ir.Value] | None = None
) -> tuple[Copy, dict[ir.Value, ir.Value]]:
    """(the copy, gradient float32 [N, C, *window] at the features, or at ``targets``, values of the head).

    seeds: raw scores of the head → float32 [N, C], what each of the N scores takes of the channels at its cell.
    """
    copy = Copy(writer, head, cells)
    wanted = [copy.features] if targets is None else [copy.at(value) for value in targets]
    given = {copy.at(value): Cotangent(writer.unsqueeze(seed, 0, 3, 4)) for value, seed in seeds.items()}
    arrived = sweep(writer, given, wanted)
    names = [head.features] if targets is None else list(targets)
    found = {}
    for name, value in zip(names, wanted, strict=True):
        whole = full(writer, arrived[value].whole(writer), value)
        found[name] = writer.squeeze(whole, 0)
    copy.settle()
    assert all(rank_of(value) == 4 for value in found.values())
    return copy, found
