"""Detectors in low precision: heads written anew for windows see the rounded network that the file is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from dkcam.engines import open_bytes
from dkcam.export.assemble import Wanted
from dkcam.export.checking.interpreter import evaluate
from dkcam.export.network_export import describe, export_network
from dkcam.export.options import ExportOptions
from tests.export.explain.detect import networks
from tests.export.explain.detect.running import traced
from tests.export.explain.detect.test_detect import CASES, HEIGHT, LOCAL, WIDTH, compared, expected, picture
from tests.marks import some

OUTPUTS = ("explained", "boxes", "scores", "heatmap")
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp16": {"precision": "fp16"},
    "int8 cpu": {"precision": "int8", "target": "cpu"},
    "int8 gpu": {"precision": "int8", "target": "gpu"},
}
ASKED = np.array([-1, -2, -3, 0, 1, 2])


@pytest.mark.parametrize(
    ("kind", "precision"),
    some(
        [(kind, precision) for kind in LOCAL for precision in PRECISIONS],
        [("yolov8", "fp16"), ("yolov8", "int8 cpu"), ("yolov8 plain", "int8 gpu"), ("ssd", "fp16")],
    ),
)
def test_heat_is_that_of_the_rounded_network(kind: str, precision: str) -> None:
    """float16 against autograd. int8 against whole maps: rules look at rounded values, and autograd does not (test_gradient.py)."""
    case = CASES[kind]
    network = traced(networks.sound(case.make()), (HEIGHT, WIDTH), case.outputs, 1)
    labels = tuple(f"class {number}" for number in range(case.told.get("labels", 0)))
    options = ExportOptions(
        size=(HEIGHT, WIDTH), input="tensor", task="detect", decode=case.name, labels=labels, outputs=OUTPUTS, **PRECISIONS[precision]
    )
    exported = export_network(network, options, check=False)
    assert exported.low is not None
    rounded = describe(network.copy(), options)[0].lowered(exported.low.numerics)
    assert rounded.plan is not None and all(head.windows for head in rounded.plan.heads)
    feed = {"image": picture(1), "classes": ASKED}
    given = {name: value.numpy() for name, value in evaluate(onnx.load_from_string(exported.data), feed, list(OUTPUTS)).items()}
    if precision == "fp16":
        wanted = expected(rounded, rounded.plan, "gradcam", feed["image"], ASKED).values
    else:
        plan = replace(rounded.plan, heads=tuple(replace(head, windows=None) for head in rounded.plan.heads))
        model = replace(rounded, plan=plan).write(Wanted(rounded.layers, "gradcam", None, False, OUTPUTS, {}))
        wanted = {name: value.numpy() for name, value in evaluate(ir.to_proto(model), feed, list(OUTPUTS)).items()}
    there = wanted["scores"][0] > 0
    assert there[:2].all() and all(wanted["heatmap"][0, k].max() > 0 for k in np.flatnonzero(there))
    np.testing.assert_array_equal(given["explained"], wanted["explained"])
    compared("boxes", given["boxes"], wanted["boxes"], 1, 1e-6)
    compared("heatmap", given["heatmap"], wanted["heatmap"], float(wanted["heatmap"].max()), 1e-6)
    assert open_bytes(exported.data, "the file").run(feed["image"], ASKED)["heatmap"].max() > 0
