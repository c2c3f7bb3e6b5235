"""int8 up to a boundary, as pairs of QuantizeLinear and DequantizeLinear, which engines turn into operators on 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_ir as ir

from dkcam.export.passes.edit import Array, Editor, named
from dkcam.export.passes.int8_plan import Operator, Plan, operators, plan, range_of
from dkcam.export.precision.numerics import Int8
from dkcam.export.writer import array_of


def multiplications(model: ir.Model, boundary: Collection[str], target: str, keep: Collection[str] = ()) -> dict[str, int]:
    """Names of the operators that int8 can have, with their multiplications for one picture. keep: as ``int8``."""
    return {name: one.work for name, one in operators(model, named(model.graph, boundary), target, keep).items()}


def wanted(model: ir.Model, boundary: Collection[str], target: str, keep: Collection[str] = ()) -> list[str]:
    """Names of the values whose ranges ``int8`` asks for."""
    return plan(model, named(model.graph, boundary), target, keep).ranges()


def int8(model: ir.Model, boundary: Collection[str], numerics: Int8, keep: Collection[str] = ()) -> None:
    """Round what leads to the boundary, but for ``numerics.kept``.

    boundary: names of values. keep: names of values that are explained: an operator whose own result that is stays float32; one behind
    an activation is what the network goes on with, rounded. Errors: ExportError for a boundary that is not there.
    """
    found = plan(model, named(model.graph, boundary), numerics.target, keep, numerics.kept)
    _Quantiser(model, found, numerics).write()


class _Quantiser:
    def __init__(self, model: ir.Model, found: Plan, numerics: Int8) -> None:
        self._editor, self._plan, self._numerics = Editor(model), found, numerics
        self._weights: dict[tuple[ir.Value, int], tuple[ir.Value, Array]] = {}

    def write(self) -> None:
        # everything is looked up before anything changes
        steps = {value: self._numerics.step(range_of(value)) for value in (*self._plan.rounded, *self._plan.given)}
        sources = {one.node: one.source for one in self._plan.operators.values()}
        uses = {value: [use for use in value.uses() if use.node in sources and use.idx == 0] for value in self._plan.given}
        for value in self._plan.rounded:
            before = value.producer()
            if before is not None and len(before.outputs) == 1:
                self._pair(self._editor.take_over(value, "exact"), value, *steps[value])
            else:
                self._pair_behind(value, steps[value], list(value.uses()))
        for value in self._plan.given:
            self._pair_behind(value, steps[value], uses[value])
        for one in self._plan.operators.values():
            self._operator(one, steps[sources[one.node]][0])
        self._editor.finish()

    def _pair_behind(self, value: ir.Value, step: tuple[float, int], uses: Sequence[tuple[ir.Node, int]]) -> None:
        """What these read is the value rounded."""
        rounded = self._pair(value, f"{value.name}.rounded", *step)
        for node, index in uses:
            node.replace_input_with(index, rounded)

    def _pair(self, value: ir.Value, result: str | ir.Value, step: float, zero: int) -> ir.Value:
        """The value rounded to whole steps."""
        cpu, editor = self._numerics.target == "cpu", self._editor
        parts = (editor.constant("step", np.array(step, np.float32)), editor.constant("zero", np.array(zero, np.uint8 if cpu else np.int8)))
        whole = editor.add("QuantizeLinear", [value, *parts], f"{value.name}.whole", ir.DataType.UINT8 if cpu else ir.DataType.INT8)
        return editor.add("DequantizeLinear", [whole, *parts], result, ir.DataType.FLOAT)

    def _operator(self, one: Operator, step: float) -> None:
        weight = one.node.inputs[1]
        assert weight is not None
        key = (weight, one.axis)
        if key not in self._weights:
            self._weights[key] = self._whole_weights(one, weight.name or one.name)
        rounded, steps = self._weights[key]
        one.node.replace_input_with(1, rounded)
        bias = one.node.inputs[2] if len(one.node.inputs) > 2 else None
        array = array_of(bias)
        if self._numerics.target == "cpu" and bias is not None and array is not None:
            fine = (steps.astype(np.float64) * step).astype(np.float32)
            whole = np.clip(np.rint(array / fine.astype(np.float64)), -(2**31) + 1, 2**31 - 1).astype(np.int32)
            one.node.replace_input_with(2, self._dequantised(bias, whole, fine, 0))

    def _whole_weights(self, one: Operator, name: str) -> tuple[ir.Value, Array]:
        largest, others = self._numerics.largest, tuple(axis for axis in range(one.weight.ndim) if axis != one.axis)
        steps = np.maximum(np.abs(one.weight).max(axis=others), 1e-12).astype(np.float32) / np.float32(largest)
        spread = steps.reshape([-1 if axis == one.axis else 1 for axis in range(one.weight.ndim)])
        whole = np.clip(np.rint(one.weight / spread), -largest, largest).astype(np.int8)
        weight = one.node.inputs[1]
        assert weight is not None
        return self._dequantised(weight, whole, steps, one.axis), steps

    def _dequantised(self, old: ir.Value, whole: Array, steps: Array, axis: int) -> ir.Value:
        """Whole numbers times a step for each index of an axis: float32, under the old constant's name if nothing else reads that."""
        editor, name = self._editor, old.name or "weight"
        if len(old.uses()) == 1:
            editor.drop(old)
        parts = [editor.weight(f"{name}.{part}", values) for part, values in (("whole", whole), ("step", steps))]
        parts.append(editor.weight(f"{name}.zero", np.zeros(len(steps), whole.dtype)))
        return editor.add("DequantizeLinear", parts, name, ir.DataType.FLOAT, axis=axis)
