"""What an operator's function is, and what it is given.

``@operator("Relu", branches=(0,))`` enters a function ``(call, *inputs) -> tensor or tuple of tensors`` into the table; an input left out
is None. It reads every attribute of its node: one that it did not read is refused, since a form of the operator would be computed
that is not the one in the graph. ``branches``: the inputs by which it chooses a branch, all from the first on where they are None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from dkcam.errors import ExportError

T = TypeVar("T")

INTEGERS = {
    ir.DataType.BOOL: torch.bool,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.INT16: torch.int16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.INT32: torch.int32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.INT64: torch.int64,
}
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


class NotInterpreted(ExportError):
    """An operator, or a form of it, that the interpreter does not know."""

    def __init__(self, node: ir.Node, why: str = "") -> None:
        self.node, self.why = node, why
        domain = f"{node.domain}." if node.domain not in ("", "ai.onnx") else ""
        super().__init__(f"the interpreter cannot compute {domain}{node.op_type} (node {node.name!r}){': ' + why if why else ''}")


@dataclass
class Call:
    """One node as its function sees it. ``seen``: values of another run, by name, by which branches are chosen (see interpreter.py)."""

    node: ir.Node
    version: int  # of the operator set
    dtype: torch.dtype  # of every real number
    seen: Mapping[str, Tensor] = field(default_factory=dict)
    flipped: int = 0  # choices that this run would have made otherwise
    choices: int = 0  # made by values of another run
    _read: set[str] = field(default_factory=set)

    def attribute(self, name: str, default: T) -> T:
        """An attribute's value, lists as lists; its type is the default's."""
        found = self.maybe(name)
        return default if found is None else found

    def required(self, name: str) -> Any:
        found = self.maybe(name)
        if found is None:
            raise self.refuse(f"attribute {name} is missing")
        return found

    def maybe(self, name: str) -> Any:
        """An attribute's value, None where it is not there."""
        self._read.add(name)
        found = self.node.attributes.get(name)
        if found is None:
            return None
        if found.is_ref():
            raise self.refuse(f"attribute {name} refers to a function's own; inline functions first")
        return list(found.value) if isinstance(found.value, (list, tuple)) else found.value

    def unread(self) -> list[str]:
        """Attributes of the node that its function did not ask for."""
        return sorted(set(self.node.attributes) - self._read)

    def choose(self, choice: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """A choice by the first inputs, ``values``: by those of the other run where they were given. No gradient passes."""
        own = [value.detach() for value in values]
        others = [self._other(index, value) for index, value in enumerate(own)]
        found = choice(*others)
        if any(other is not value for other, value in zip(others, own, strict=True)):
            mine = choice(*own)
            self.choices += found.numel()
            self.flipped += int((mine != found).sum()) if mine.shape == found.shape else found.numel()
        return found

    def _other(self, index: int, value: Tensor) -> Tensor:
        source = self.node.inputs[index]
        found = self.seen.get(source.name or "") if source is not None else None
        if found is None:
            return value
        if found.shape != value.shape:
            name = "" if source is None else source.name
            raise self.refuse(f"the value seen of {name!r} has shape {list(found.shape)}, expected {list(value.shape)}")
        return found.to(value.dtype)

    def torch_type(self, kind: ir.DataType | int) -> torch.dtype:
        """The tensor type of an ONNX type; every real one is ``dtype``."""
        return torch_type(ir.DataType(kind), self.dtype)

    def tensor(self, value: ir.TensorProtocol) -> Tensor:
        """An attribute's numbers."""
        return constant(value, self.dtype)

    def refuse(self, why: str) -> NotInterpreted:
        """To be raised: what about this node cannot be computed."""
        return NotInterpreted(self.node, why)


Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Operator:
    function: Function
    least: int  # inputs
    most: int | None  # inputs; None: any number
    branches: tuple[int, ...] | None = ()


OPERATORS: dict[str, Operator] = {}
F = TypeVar("F", bound=Function)


def operator(*kinds: str, branches: tuple[int, ...] | None = ()) -> Callable[[F], F]:
    """Enter a function for these operators."""

    def enter(function: F) -> F:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        plain = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
        entry = Operator(function, sum(p.default is p.empty for p in plain), None if variadic else len(plain), branches)
        for kind in kinds:
            assert kind not in OPERATORS, f"two functions for {kind}"
            OPERATORS[kind] = entry
        return function

    return enter


def torch_type(kind: ir.DataType, dtype: torch.dtype) -> torch.dtype:
    """Errors: ValueError."""
    if kind in FLOATS:
        return dtype
    if kind not in INTEGERS:
        raise ValueError(f"type {kind.name} is not known")
    return INTEGERS[kind]


def constant(value: ir.TensorProtocol, dtype: torch.dtype) -> Tensor:
    """A constant of a graph. Errors: ValueError for a type that is not known."""
    torch_type(value.dtype, dtype)
    return as_tensor(value.numpy(), dtype)


def as_tensor(array: Any, dtype: torch.dtype) -> Tensor:
    """An array as a tensor of its own memory; real numbers become ``dtype``. Errors: ValueError for what are no numbers."""
    if isinstance(array, Tensor):
        return array.to(dtype) if array.is_floating_point() else array
    array = np.asarray(array)
    if array.dtype.kind in "biu":
        return torch.from_numpy(np.array(array, order="C"))
    if array.dtype.name not in ("float16", "float32", "float64", "bfloat16"):
        raise ValueError(f"an array of {array.dtype} holds no real numbers")
    return torch.from_numpy(array.astype(np.float32 if array.dtype.itemsize <= 4 and dtype != torch.float64 else np.float64)).to(dtype)


def ints(tensor: Tensor) -> list[int]:
    """A small vector of whole numbers (a shape, axes) as a list."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def number(tensor: Tensor) -> int:
    """The one whole number in a tensor."""
    (value,) = ints(tensor)
    return value
