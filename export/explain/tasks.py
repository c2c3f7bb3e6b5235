"""Which task a network does, told by its outputs, and which of them is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from dkcam.errors import ExportError
from dkcam.export.explain.scores import Behind, behind, class_axis
from dkcam.export.writer import FLOATS, Dimension, UnknownShape, shape_of
from dkcam.printable import printable

TASKS = ("classify", "detect", "regress", "dense")


@dataclass(frozen=True)
class Task:
    """kind: one of ``TASKS``. output: of the network, the one explained. found: the scores behind it. assumed: what was taken for
    granted, for a note to the user; "" where the file leaves no doubt.
    """

    kind: str
    output: ir.Value
    found: Behind
    assumed: str = ""


def find(outputs: Sequence[ir.Value], task: str, labels: int, named: Sequence[str]) -> Task:
    """The task of a network with these outputs; detectors are told apart before (``detect``).

    task: "auto" or one of ``TASKS``. labels: how many the user or the file gave, 0 for none. named: outputs that the user names.
    Errors: ExportError with all outputs and their shapes, where none or several fit.
    """
    fitting = []
    for output in outputs:
        if named and output.name not in named:
            continue
        one = _fits(output, task, labels)
        if one is not None:
            fitting.append(one)
    kinds = [one for one in fitting if one.kind == (fitting[0].kind)]
    if len(fitting) > 1 and not named and (len(kinds) > 1 or task == "auto"):
        raise ExportError(f"several outputs could be explained: {_listed(outputs)}; name one with --outputs, and its --task")
    if not fitting:
        what = "no task fits" if task == "auto" else f"--task {task} fits none of"
        raise ExportError(
            f"{what} the outputs {_listed(outputs)}; expected scores [B, n], maps [B, n, H, W] or boxes; give --task and --outputs"
        )
    return fitting[0]


def _fits(output: ir.Value, task: str, labels: int) -> Task | None:
    try:
        shape = shape_of(output)
        found = behind(output, squashes=task != "regress", past_argmax=True)
        inner = shape_of(found.scores)
    except UnknownShape:
        return None
    if output.dtype not in FLOATS and found.scores is output:
        return None
    wide = [d for d in inner[1:] if d != 1]
    if len(inner) == 4 and len([d for d in inner[2:] if d != 1]) == 2 and isinstance(inner[1], int):
        return Task("dense", output, found) if task in ("auto", "dense") and output.dtype is not None else None
    if len(wide) > 1 or len(shape) == 0 or not all(isinstance(d, int) for d in inner[1:]):
        return None
    count = inner[class_axis(found.scores)] if len(inner) > 1 else 1
    if task == "regress":
        return Task("regress", output, found)
    if task == "classify":
        return Task("classify", output, found) if count != 1 or found.squash == "Sigmoid" or labels else None
    if task != "auto":
        return None
    if count == 1 and not found.squash:
        return Task("regress", output, behind(output, squashes=False))
    assumed = (
        ""
        if found.squash or labels
        else "its output has no Softmax and no labels: taken for a classifier's (--task regress explains outputs as they are)"
    )
    return Task("classify", output, found, assumed)


def _listed(outputs: Sequence[ir.Value]) -> str:
    def shown(d: Dimension | None) -> str:
        return "?" if d is None else str(d)

    parts = []
    for output in outputs:
        dims = [d if isinstance(d, int) else d.value for d in output.shape] if output.shape is not None else ["unknown"]
        parts.append(f"{printable(output.name or '')} {'x'.join(shown(d) for d in dims)}")
    return ", ".join(parts[:8]) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "")
