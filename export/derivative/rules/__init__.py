"""One file a family of operators; importing this package fills the table. A new operator: add a function to its family."""

from dkcam.export.derivative.rules import (
    broadcast,
    convolution,
    einsum,
    index,
    layout,
    maximum,
    normalisation,
    pointwise,
    pooling,
    product,
    quantise,
    reduction,
)

__all__ = [
    "broadcast",
    "convolution",
    "einsum",
    "index",
    "layout",
    "maximum",
    "normalisation",
    "pointwise",
    "pooling",
    "product",
    "quantise",
    "reduction",
]
