"""One file a family of operators; importing this package fills the table. A new operator: add a function to its family."""

from dkcam.export.derivative.rules import (
    convolution,
    pointwise,
)

__all__ = [
    "convolution",
    "pointwise",
]
