"""An interpreter of ONNX graphs over torch: the reference for a network of which only the file is there.

It shares nothing with the rules of derivative/: its backward is autograd's. All real numbers, of whatever type in the graph, are
computed in one (float64); whole numbers and truths keep their type, but quantised ones (operators/quantise.py).

Derivatives where there is none, which the rules follow:

    Relu, ThresholdedRelu, Shrink        0 at the kink
    LeakyRelu, PRelu                     the slope of the negative side at 0
    Elu, Celu, Selu                      that of the exponential side at 0
    Clip                                 0 at the bounds and beyond (torch.clamp: 1 at the bounds)
    HardSigmoid                          0 at both kinks
    HardSwish                            0 at −3, 1 at 3
    Abs, Sign, Floor, Ceil, Round        0 where it is not defined, and for all but Abs everywhere
    Max, Min                             the first of equal inputs gets it all
    MaxPool, TopK                        the first of equal numbers in row-major order
    ReduceMax, ReduceMin, GlobalMaxPool  shared evenly among equals
    norms (ReduceL2, LpPool …)           0 at 0
    QuantizeLinear                       1 within the range of the type, its ends included, 0 where it is cut off

``seen`` holds values of another run, by name: where an operator has to choose a branch (a Relu's side, a maximum's place, a comparison,
a rounding) and the other run's input is there, it is chosen by that. So a float32 run and this one can be compared on the same side of
every kink: ask for the values that ``Interpreter.branches`` names. ``given`` replaces values altogether.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.errors import ExportError
from dkcam.export.checking.operators import FLOATS, OPERATORS, Call, NotInterpreted, as_tensor, constant

Values = Mapping[str, Tensor | NDArray[Any]]
NOTHING: Values = MappingProxyType({})
Tally = dict[str, tuple[int, int]]
"""Choices made by ``seen`` values: first output of a node → (how many this run would have made otherwise, how many)."""
OLDEST = 13  # operator set: before it, Softmax and others meant something else


class Interpreter:
    """A graph, as it is now, ready to be evaluated often: constants are read once.

    Errors: ExportError for an operator set before 13; a value's name given twice.
    """

    def __init__(self, model: ir.Model | onnx.ModelProto, *, dtype: torch.dtype = torch.float64) -> None:
        self.model = model if isinstance(model, ir.Model) else ir.from_proto(model)
        self.dtype = dtype
        version = self.model.graph.opset_imports.get("", self.model.graph.opset_imports.get("ai.onnx"))
        if version is None or version < OLDEST:
            raise ExportError(f"the graph has operator set {version}; the interpreter knows {OLDEST} and later: convert it first")
        self.version = version
        self._values: dict[str, ir.Value] = {}
        graph = self.model.graph
        for value in [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs if v.name)]:
            if self._values.setdefault(value.name or "", value) is not value:
                raise ExportError(f"two values are named {value.name!r}")
        self._constants: dict[str, Tensor] = {}

    def evaluate(
        self,
        feed: Values,
        wanted: Sequence[str],
        *,
        leaves: Collection[str] = (),
        given: Values = NOTHING,
        seen: Values = NOTHING,
        moved: Values = NOTHING,
        tally: Tally | None = None,
    ) -> dict[str, Tensor]:
        """The wanted values. Only what they need is computed, and forgotten after its last use.

        feed: the graph's inputs. leaves: values cut off, that require a gradient. given: values, inputs or not, that are not computed.
        seen: see the top. moved: values that are computed, then set to these numbers, while gradients pass as before. tally: filled with
        what seen values changed. Errors: NotInterpreted, naming operator and node; ExportError for a name that is not there.
        """
        for name in [*feed, *wanted, *leaves, *given, *seen, *moved]:
            if name not in self._values:
                raise ExportError(f"the graph has no value {name!r}")
        known = {name: self._tensor(name, value) for name, value in {**feed, **given}.items()}
        others = {name: self._tensor(name, value) for name, value in seen.items()}
        there = {name: self._tensor(name, value) for name, value in moved.items()}
        with torch.set_grad_enabled(bool(leaves) or any(value.requires_grad for value in known.values())):
            return self._run(known, wanted, leaves, others, there, {} if tally is None else tally)

    def branches(self, wanted: Sequence[str], after: str) -> list[str]:
        """Real values between ``after`` and the wanted ones by which some operator chooses a branch, ``after`` itself included."""
        active, found = {after}, dict[str, None]()
        for node in self._needed(wanted, {after}):
            names = [value.name or "" for value in node.inputs if value is not None]
            if active.isdisjoint(names):
                continue
            active.update(output.name or "" for output in node.outputs)
            entry = OPERATORS.get(node.op_type)
            inputs = () if entry is None else node.inputs if entry.branches is None else [node.inputs[i] for i in entry.branches]
            found.update((v.name or "", None) for v in inputs if v is not None and v.name in active and v.dtype in (None, *FLOATS))
        return list(found)

    def _run(
        self,
        known: dict[str, Tensor],
        wanted: Sequence[str],
        leaves: Collection[str],
        seen: dict[str, Tensor],
        moved: dict[str, Tensor],
        tally: Tally,
    ) -> dict[str, Tensor]:
        held: dict[str, Tensor] = {name: _leaf(name, value) if name in leaves else value for name, value in known.items()}
        nodes = self._needed(wanted, known)
        uses = Counter(name for node in nodes for name in _names(node.inputs))
        uses.update(wanted)
        for node in nodes:
            inputs = [None if value is None else self._input(value, held, leaves) for value in node.inputs]
            call = Call(node, self.version, self.dtype, seen)
            for output, value in zip(node.outputs, _apply(call, inputs), strict=False):
                name = output.name or ""
                if name not in known and uses[name]:
                    value = value + (moved[name] - value).detach() if name in moved else value
                    held[name] = _leaf(name, value) if name in leaves else value
            if call.choices:
                tally[node.outputs[0].name or ""] = call.flipped, call.choices
            for name in _names(node.inputs):
                uses[name] -= 1
                if not uses[name]:
                    held.pop(name, None)
        return {name: self._input(self._values[name], held, leaves) for name in wanted}

    def _input(self, value: ir.Value, held: dict[str, Tensor], leaves: Collection[str]) -> Tensor:
        name = value.name or ""
        found = held.get(name)
        if found is None and value.const_value is not None:
            found = self._constant(value)
            if name in leaves:
                found = held[name] = _leaf(name, found)
        if found is None:
            raise ExportError(f"input {name!r} is missing; the graph has {[v.name for v in self.model.graph.inputs]}")
        return found

    def _tensor(self, name: str, value: Tensor | NDArray[Any]) -> Tensor:
        try:
            return as_tensor(value, self.dtype)
        except ValueError as error:
            raise ExportError(f"value {name!r}: {error}") from error

    def _constant(self, value: ir.Value) -> Tensor:
        name = value.name or ""
        if name not in self._constants:
            assert value.const_value is not None
            try:
                self._constants[name] = constant(value.const_value, self.dtype)
            except ValueError as error:
                raise ExportError(f"initializer {name!r}: {error}") from error
        return self._constants[name]

    def _needed(self, wanted: Iterable[str], known: Collection[str]) -> list[ir.Node]:
        """The nodes that the wanted values need, each after those it needs itself. Errors: ExportError for a cycle."""
        order: list[ir.Node] = []
        entered: set[ir.Node] = set()
        done: set[ir.Node] = set()
        waiting = [(self._values[name].producer(), False) for name in reversed(list(wanted)) if name not in known]
        while waiting:
            node, complete = waiting.pop()
            if node is None or node in done:
                continue
            if complete:
                done.add(node)
                order.append(node)
                continue
            if node in entered:
                raise ExportError(f"node {node.name!r} needs its own output: the graph has a cycle")
            entered.add(node)
            waiting.append((node, True))
            for value in reversed(node.inputs):
                if value is not None and value.name not in known:
                    source = value.producer()
                    if source is not None and source not in done:
                        waiting.append((source, False))
        return order


def evaluate(
    model: ir.Model | onnx.ModelProto,
    feed: Values,
    wanted: Sequence[str],
    *,
    dtype: torch.dtype = torch.float64,
    leaves: Collection[str] = (),
    given: Values = NOTHING,
    seen: Values = NOTHING,
) -> dict[str, Tensor]:
    """The wanted values of a graph: ``Interpreter(model).evaluate(…)`` once."""
    return Interpreter(model, dtype=dtype).evaluate(feed, wanted, leaves=leaves, given=given, seen=seen)


def _apply(call: Call, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """A node's outputs. Errors: NotInterpreted."""
    node = call.node
    entry = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if entry is None:
        raise call.refuse("unknown operator")
    given = list(inputs)
    while given and given[-1] is None:
        given.pop()
    if len(given) < entry.least or any(value is None for value in given[: entry.least]):
        raise call.refuse(f"{len(given)} inputs, {entry.least} are needed")
    if entry.most is not None and len(given) > entry.most:
        raise call.refuse(f"{len(given)} inputs, at most {entry.most} are known")
    try:
        found = entry.function(call, *given)
    except (RuntimeError, IndexError, ValueError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise call.refuse(lines[0]) from error
    if call.unread():
        raise call.refuse(f"attribute {', '.join(call.unread())} is not known")
    results = found if isinstance(found, tuple) else (found,)
    if any(output.name for output in node.outputs[len(results) :]):
        raise call.refuse(f"{len(node.outputs)} outputs, at most {len(results)} are known")
    return results


def _leaf(name: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise ExportError(f"value {name!r} is of {value.dtype}, which has no gradient")
    return value.detach().requires_grad_()


def _names(values: Iterable[ir.Value | None]) -> set[str]:
    return {value.name or "" for value in values if value is not None}


__all__ = ["Interpreter", "NotInterpreted", "Values", "evaluate"]
