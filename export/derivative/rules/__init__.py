"""One file a family of operators; importing this package fills the table. A new operator: add a function to its family."""

from dkcam.export.derivative.rules import (
    broadcast,
    einsum,
    index,
    layout,
    normalisation,
    pointwise,
    product,
    quantise,
    reduction,
)

__all__ = [
    "broadcast",
    "einsum",
    "index",
    "layout",
    "normalisation",
    "pointwise",
    "product",
    "quantise",
    "reduction",
]
