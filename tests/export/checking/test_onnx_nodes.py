"""The interpreter against the onnx package's own tests of single operators and of functions written out in operators."""

from __future__ import annotations

import re

import numpy as np

from dkcam.errors import ExportError
from dkcam.export.checking.interpreter import OLDEST, evaluate
from dkcam.export.checking.operators import OPERATORS
from tests.export.checking.onnx_nodes import collect, data_of, opset_of, raised

# why a case may be refused; anything else is a failure
REFUSED = (
    r"type U?(INT|FLOAT)[248]\w* is not known",
    r"holds no real numbers",
    r"operator set \d+; the interpreter knows",
    r"not implemented for 'UInt(16|32|64)'",
    r"training",
    r"storage_order = 1",
    r"Expected reduction dim",  # the largest of none
    r"cannot compute Attention .*(inputs, at most 4|outputs, at most 1|qk_matmul_output_mode|window_size)",
)
# numbers printed with four digits in the test itself; ONNX Runtime has the spec's whole length_resized there, the test a broken one
COARSE = {"test_averagepool_2d_ceil_last_window_starts_on_pad", "test_gridsample_bicubic"}
ELSEWHERE = {"test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners"}


def test_nodes_of_onnx() -> None:
    compared, failures, covered = 0, [], set[str]()
    for case in collect():
        model = raised(case.model, OLDEST) if opset_of(case.model) < OLDEST else case.model
        kinds = {node.op_type for node in model.graph.node}
        if not kinds <= set(OPERATORS) or case.name in ELSEWHERE:
            continue
        for feed, expected in data_of(case):
            try:
                found = evaluate(model, feed, [value.name for value in model.graph.output]).values()
            except ExportError as error:
                if not any(re.search(why, str(error)) for why in REFUSED):
                    failures.append(f"{case.name}: {error}")
                continue
            covered |= kinds
            for one, other in zip(found, expected, strict=True):
                compared += 1
                half = other.dtype.name in ("float16", "bfloat16")
                relative, absolute = (1e-2, 1e-2) if half else (1e-3, 1e-7) if case.name in COARSE else (1e-5, 1e-6)
                mine, theirs = one.numpy().astype(np.float64), other.astype(np.float64)
                if mine.shape != theirs.shape or not np.allclose(mine, theirs, relative, absolute, equal_nan=True):
                    failures.append(f"{case.name}: {mine.shape} {theirs.shape} {mine.ravel()[:4]} {theirs.ravel()[:4]}")
    assert not failures, "\n".join(failures)
    assert compared > 1200
    assert len(covered) > 130, sorted(set(OPERATORS) - covered)
