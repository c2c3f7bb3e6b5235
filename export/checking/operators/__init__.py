"""What the interpreter can compute: one file a family, entered in one table."""

from dkcam.export.checking.operators import (
    attention,
    broadcast,
    index,
    layout,
    normalisation,
    pointwise,
    pooling,
    product,
    quantise,
    reduction,
    resize,
)
from dkcam.export.checking.operators.table import FLOATS, OPERATORS, Call, NotInterpreted, as_tensor, constant

__all__ = [
    "FLOATS",
    "OPERATORS",
    "Call",
    "NotInterpreted",
    "as_tensor",
    "attention",
    "broadcast",
    "constant",
    "index",
    "layout",
    "normalisation",
    "pointwise",
    "pooling",
    "product",
    "quantise",
    "reduction",
    "resize",
]
