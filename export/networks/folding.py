"""Constants are computed when a file is opened: by onnx's reference operators in NumPy, within bounds.

What is not folded stays a node, and the engine computes it. The list of operators is closed: each one's output is known in
size before it is computed, or is no larger than its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx.reference.ops as reference
import onnx_ir as ir
from numpy.typing import NDArray

Array = NDArray[Any]

MOST = 64 << 20  # bytes of one constant that is larger than what it is made of
MOST_GROWTH = 192 << 20  # bytes of all of them
MOST_WORK = 1 << 28  # values written, over all constants, and multiplications of matrix products
SMALL = 256  # values: always within the bounds of work, so that shapes are known whatever came before

ELEMENTWISE = frozenset(
    {
        *("Abs", "Add", "And", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "Less"),
        *("LessOrEqual", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid"),
        *("Sign", "Sin", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor"),
    }
)
STRUCTURAL = frozenset(
    {
        *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose"),
        *("Unsqueeze",),
    }
)
OTHERS = frozenset(
    {
        *("ArgMax", "ArgMin", "ConstantOfShape", "CumSum", "EyeLike", "MatMul", "NonZero", "Pad", "Range", "ReduceL2", "ReduceMax"),
        *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Softmax", "Trilu"),
    }
)
SLOW = frozenset({"GatherElements", "GatherND", "OneHot", "ScatterElements", "ScatterND", "TopK"})  # loops of Python: small ones alone
BOUNDED = frozenset({"NonZero"})  # size not known before, but bounded by the input's


class Budget:
    """What may still be folded in one file. weights: bytes of its own, which are moved about at no growth."""

    def __init__(self) -> None:
        self.growth, self.work = MOST_GROWTH, MOST_WORK

    def allows(self, kind: str, inputs: Sequence[Array | None], outputs: Sequence[tuple[int, int]]) -> bool:
        """outputs: (values, bytes) of each. Whatever it allows is taken from the budget."""
        given = [array for array in inputs if array is not None]
        values, size = sum(count for count, _ in outputs), sum(size for _, size in outputs)
        work = max(values, *(array.size for array in given)) if given else values
        if kind == "MatMul" and given:
            work = values * given[0].shape[-1] if given[0].ndim else values
        if work <= SMALL and size <= SMALL * 8:
            return True
        if kind in SLOW or work > self.work or size > MOST + max((array.nbytes for array in given), default=0):
            return False
        growth = max(0, size - max((array.nbytes for array in given), default=0))
        if growth > min(self.growth, MOST):
            return False
        self.growth -= growth
        self.work -= work
        return True


def can_fold(kind: str) -> bool:
    return kind in ELEMENTWISE or kind in STRUCTURAL or kind in OTHERS or kind in SLOW


def evaluate(node: ir.Node, opset: int, inputs: Sequence[Array | None]) -> list[Array] | None:
    """The outputs of one operator, None where the reference has none or fails: the node stays."""
    attributes: Mapping[str, Any] = {name: _plain(attribute) for name, attribute in node.attributes.items()}
    try:
        with np.errstate(all="ignore"):
            operator = reference.load_op("", node.op_type, opset)
            found = operator.eval(*inputs, n_outputs=len(node.outputs), **attributes)
    except Exception:  # NumPy's own complaints about values that do not fit
        return None
    results = list(found) if isinstance(found, (tuple, list)) else [found]
    if len(results) != len(node.outputs) or not all(isinstance(one, (np.ndarray, np.generic)) for one in results):
        return None
    return [np.asarray(one) for one in results]


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.serde.serialize_tensor(value)
    return list(value) if isinstance(value, (tuple, list)) else value


def constant_of(node: ir.Node) -> Array | None:
    """A Constant node's numbers, None for texts and sparse ones."""
    for name, attribute in node.attributes.items():
        if name == "value":
            value = attribute.value
            return None if value.dtype == ir.DataType.STRING else np.asarray(value.numpy())
        if name in ("value_float", "value_floats"):
            return np.array(attribute.value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(attribute.value, np.int64)
    return None
