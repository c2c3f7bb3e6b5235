"""The onnx package's own tests of single operators: a graph, inputs, and outputs that its authors vouch for."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as nodes
from onnx.backend.test.case import base
from onnx.backend.test.case.test_case import TestCase

SLOW = {"export_averagepool_3d_default", "export_lppool_3d_default", "export_maxpool_3d_default"}  # seconds each, in Python
FOREIGN = (
    *("image_decoder", "loss", "momentum", "ada", "sequence", "optional", "string", "tfidf", "affinegrid", "dft", "stft", "bitshift"),
    *("flexattention", "linear_attention", "causal_conv", "loop", "scan", "rnn", "lstm", "gru", "bernoulli", "window", "tree", "label"),
)


def collect() -> list[TestCase]:
    """Every case but slow ones and those of operators that have no place in a network for pictures."""
    whole = base._Exporter.__init__

    def quick(cls: Any, name: str, bases: tuple[type[Any], ...], members: dict[str, Any]) -> None:
        for member in members:
            if member.startswith("export") and member not in SLOW:
                np.random.seed(seed=0)
                getattr(cls, member)()

    base._Exporter.__init__ = quick  # type: ignore[method-assign]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in pkgutil.iter_modules(nodes.__path__):
                if not module.ispkg and not any(part in module.name for part in FOREIGN):
                    importlib.import_module(f"{nodes.__name__}.{module.name}")
    finally:
        base._Exporter.__init__ = whole  # type: ignore[method-assign]
    found = [case for case in nodes._NodeTestCases if case.model is not None]
    return [case for case in found if not (case.name.startswith("test_attention") and "expanded" in case.name)]


def opset_of(model: onnx.ModelProto) -> int:
    return next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)


def raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph in a later operator set, where no operator of it has changed till then; else the model itself."""
    before = opset_of(model)
    kinds = {node.op_type for node in model.graph.node}
    if any(onnx.defs.get_schema(k, opset).since_version != onnx.defs.get_schema(k, before).since_version for k in kinds):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for one in copy.opset_import:
        if one.domain in ("", "ai.onnx"):
            one.version = opset
    return copy


def data_of(case: TestCase) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """(inputs by name, expected outputs), tensors as arrays."""
    for inputs, outputs in case.data_sets:
        names = [value.name for value in case.model.graph.input]
        yield dict(zip(names, map(_array, inputs), strict=False)), [_array(output) for output in outputs]


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
