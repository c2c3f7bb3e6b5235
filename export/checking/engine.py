"""A finished file in the engine, and the plain network beside it: at which side of a kink the file stands, and what the engine loses.

To see on which side, inner values become outputs; with them the engine may fuse and lay out otherwise, and where two values are as near
as rounding, another of them may be the larger. Where that changes a map, file and inner values are asked again without the engine's
optimisations: then outputs more or less change nothing.

What the engine loses is seen on the network as it was, without any gradient in it: ONNX Runtime's blocked layout (NCHWc) loses ten times
what its plain kernels do on some networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from dkcam.export.derivative.sweep import activated, ancestors
from dkcam.export.parity import TOLERANCE

if TYPE_CHECKING:
    import onnxruntime

Outputs = Mapping[str, NDArray[np.generic]]
Ask = Callable[[NDArray[np.generic], NDArray[np.int64], Sequence[str]], Outputs]
Run = Callable[[bytes, str], Ask]
"""(a file's bytes, what to call it) → a function of (image, classes, names of outputs)."""

PER_CLASS = frozenset({"explained", "boxes", "scores", "weights", "heatmap", "gradient"})
SAME = TOLERANCE / 10  # of a map's maximum
LINEAR = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Concat",
        "Conv",
        "ConvTranspose",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "MatMul",
        "Neg",
        "Pad",
        "ReduceMean",
        "ReduceSum",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Sub",
        "Sum",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Upsample",
    }
)


@dataclass(frozen=True)
class Said:
    """outputs: the file's. seen: inner values, by name. plainly: whether the engine's optimisations are left out of the maps."""

    outputs: Outputs
    seen: Mapping[str, Tensor]
    plainly: bool


class File:
    """A file that answers with its inner values. count: how many classes it explains in one run, None for as many as are asked for.
    steps: outputs besides maps that change by steps, as a region's share does.
    """

    def __init__(
        self, data: bytes, inner: Sequence[str], count: int | None, outputs: Sequence[str], run: Run, steps: Collection[str] = ()
    ) -> None:
        self._data, self._inner, self._count, self._outputs, self._run = data, list(inner), count, list(outputs), run
        self._compared = [name for name in outputs if name in ("heatmap", "gradient", *steps)]
        self._sided = {*PER_CLASS, *steps}
        self._asked: dict[tuple[bool, bool], Ask] = {}

    def said(self, image: NDArray[np.generic], classes: NDArray[np.int64]) -> Said:
        """Its outputs and inner values on one batch; classes int64 [K]."""
        given = self._all(self._ask(False, True), image, classes)
        if not self._inner:
            return Said(given, {}, False)
        some = classes[: self._count or len(classes)]
        inner = self._ask(True, True)(image, some, [*self._outputs, *self._inner])
        plainly = not all(_same(given[name][:, : len(some)] if name in PER_CLASS else given[name], inner[name]) for name in self._compared)
        if plainly:
            again = self._all(self._ask(False, False), image, classes)
            given = {name: again[name] if name in self._sided else value for name, value in given.items()}
            inner = self._ask(True, False)(image, some, [*self._outputs, *self._inner])
        return Said(given, {name: torch.from_numpy(np.asarray(inner[name])) for name in self._inner}, plainly)

    def _ask(self, inner: bool, optimised: bool) -> Ask:
        if (inner, optimised) not in self._asked:
            data = with_outputs(self._data, self._inner) if inner else self._data
            self._asked[inner, optimised] = self._run(data, "the new file") if optimised else in_onnxruntime(data, optimised=False)
        return self._asked[inner, optimised]

    def _all(self, ask: Ask, image: NDArray[np.generic], classes: NDArray[np.int64]) -> Outputs:
        """All classes at once, or as many at a time as the graph explains."""
        fixed = self._count or len(classes)
        parts = [ask(image, classes[start : start + fixed], self._outputs) for start in range(0, len(classes), fixed)]
        return {name: np.concatenate([part[name] for part in parts], 1) if name in PER_CLASS else parts[0][name] for name in parts[0]}


class PlainNetwork:
    """The network as it was before anything was explained, in the engine. layers, scores: names of values."""

    def __init__(self, model: ir.Model, layers: Sequence[str], scores: Sequence[str]) -> None:
        self._model, self._layers, self._scores = model, layers, scores
        self._names: list[str] = []
        self._ask: Ask | None = None

    def values(self, image: NDArray[np.generic]) -> dict[str, Tensor]:
        """What the engine finds for the layers, the scores, and all that decides a gradient between them."""
        if self._ask is None:  # most networks are never asked
            read = _read(self._model, self._layers, self._scores)
            self._names = list(dict.fromkeys([*self._layers, *read, *self._scores]))
            data = bytes(ir.to_proto(self._model).SerializeToString())
            self._ask = in_onnxruntime(with_outputs(data, self._names), optimised=True)
        found = self._ask(image, np.array([], np.int64), self._names)
        return {name: torch.from_numpy(np.asarray(found[name])) for name in self._names}


def open_session(path: Path | bytes, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    """A file in ONNX Runtime alone, on the processor. Errors: ONNX Runtime's own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def in_onnxruntime(data: bytes, *, optimised: bool) -> Ask:
    """A file's answers in ONNX Runtime alone."""
    session = open_session(data, optimised=optimised)
    inputs = {each.name for each in session.get_inputs()}

    def ask(image: NDArray[np.generic], classes: NDArray[np.int64], names: Sequence[str]) -> Outputs:
        feed = {name: value for name, value in (("image", image), ("classes", classes)) if name in inputs}
        return dict(zip(names, session.run(list(names), feed), strict=True))

    return ask


def with_outputs(data: bytes, names: Sequence[str]) -> bytes:
    """A file with inner values as outputs too."""
    proto = onnx.load_from_string(data)
    have = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return bytes(proto.SerializeToString())


def _read(model: ir.Model, layers: Collection[str], scores: Collection[str]) -> list[str]:
    """Values on the way from the layers to the scores that derivatives depend on: the inputs of whatever is not linear."""
    nodes = list(model.graph)
    named = {value.name: value for node in nodes for value in node.outputs}
    active, needed = activated(nodes, [named[name] for name in layers]), ancestors([named[name] for name in scores])
    curved = [node for node in nodes if node in needed and node.op_type not in LINEAR]
    return [value.name or "" for node in curved for value in node.inputs if value is not None and value in active and value.name in named]


def _same(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    """Whether maps [B, K, …] agree, each by its own size, or numbers [B, n]."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    over = tuple(range(2, first.ndim)) or (1,)
    return bool((np.abs(first - second).max(over) <= SAME * np.abs(first).max(over)).all())
