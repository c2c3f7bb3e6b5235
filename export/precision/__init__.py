"""float16 and int8 graphs, and the proof that they still say the same."""

from dkcam.export.precision.numerics import Half, Int8, Numerics

__all__ = ["Half", "Int8", "Numerics"]
