"""Numerics applied to a network: the passes, in their order."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from dkcam.export.passes.half import half
from dkcam.export.passes.int8 import int8
from dkcam.export.passes.merge_batch_norm import merge_batch_norm
from dkcam.export.passes.rows import products_as_rows
from dkcam.export.precision.numerics import Half, Int8, Numerics


def merge(model: ir.Model, numerics: Numerics, boundary: Collection[str], keep: Collection[str]) -> None:
    """What comes before numbers are rounded: ranges are taken of this network."""
    merge_batch_norm(model, {*keep, *boundary})
    if isinstance(numerics, Int8) and numerics.target == "cpu":
        products_as_rows(model, boundary)


def lower(model: ir.Model, numerics: Numerics, boundary: Collection[str], keep: Collection[str] = ()) -> None:
    """Let a float32 network compute in these numerics up to the boundary.

    boundary: names of values that stay float32, as does all that follows: the layer that is explained, or the scores. keep: names of
    values that must still be there. Errors: ExportError for a boundary that is not there.
    """
    merge(model, numerics, boundary, keep)
    if isinstance(numerics, Half):
        half(model, boundary, numerics.largest)
    else:
        int8(model, boundary, numerics, keep)
