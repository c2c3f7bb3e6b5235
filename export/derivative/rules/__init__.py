"""One file a family of operators; importing this package fills the table. A new operator: add a function to its family."""

from dkcam.export.derivative.rules import (
    broadcast,
    convolution,
    einsum,
    grid_sample,
    index,
    layout,
    maximum,
    normalisation,
    pointwise,
    pooling,
    product,
    quantise,
    reduction,
    resize,
)

__all__ = [
    "broadcast",
    "convolution",
    "einsum",
    "grid_sample",
    "index",
    "layout",
    "maximum",
    "normalisation",
    "pointwise",
    "pooling",
    "product",
    "quantise",
    "reduction",
    "resize",
]
