"""Ranges by value name, from the float32 network in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dkcam.errors import ExportError
from dkcam.export.precision import calibrate as module
from dkcam.export.precision.calibrate import best_range, calibrate, extremes
from tests.export.passes.networks import image, network, run

PICTURES = [{"image": image(seed)} for seed in range(4)]


def names_of(model: ir.Model) -> list[str]:
    return ["image", *(value.name or "" for node in model.graph for value in node.outputs if node.op_type in ("Conv", "Relu"))]


def values_of(name: str) -> np.ndarray:
    """All values of the network on the pictures."""
    model = network("residual")
    found = [value for node in model.graph for value in node.outputs if value.name == name]
    model.graph.outputs.extend(found)
    return np.concatenate([feed["image"] if not found else run(model, feed["image"])[name] for feed in PICTURES])


def test_extremes_are_those_of_all_pictures_and_zero() -> None:
    model = network("residual")
    names = names_of(model)
    found = extremes(model, names, PICTURES)
    assert list(found) == names
    for name in names[:4]:
        values = values_of(name)
        assert found[name] == pytest.approx((min(0.0, float(values.min())), max(0.0, float(values.max()))), rel=1e-5)
    assert found[next(name for name in names if "Relu" in name)][0] == 0


def test_ranges_are_the_best_of_the_histogram() -> None:
    model = network("residual")
    names = names_of(model)
    found = calibrate(model, names, PICTURES)
    for name in names[:4]:
        values = values_of(name)
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        counts, _ = np.histogram(values, module.BINS, (low, high))
        assert found[name] == pytest.approx(best_range(counts, low, high), rel=0.02)


def test_values_that_do_not_fit_into_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("residual")
    names = names_of(model)
    expected = calibrate(model, names, PICTURES)
    monkeypatch.setattr(module, "MOST_HELD", 40_000)
    assert len(module._groups([value for node in model.graph for value in node.outputs])) > 3
    found = calibrate(model, names, PICTURES)
    assert all(found[name] == pytest.approx(expected[name], rel=1e-4) for name in names)


def test_the_network_stays_as_it_is() -> None:
    model = network("residual")
    before = [node.name for node in model.graph], [output.name for output in model.graph.outputs]
    calibrate(model, names_of(model), PICTURES)
    assert before == ([node.name for node in model.graph], [output.name for output in model.graph.outputs])


def test_inputs_that_the_values_do_not_need_are_not_asked_for() -> None:
    model = network("residual")
    mask = ir.Value(name="key_mask", shape=ir.Shape([1, 5]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(mask)
    scores = model.graph.outputs[0]
    node = ir.node("Mul", [scores, mask], num_outputs=1)
    node.outputs[0].name = "masked"
    model.graph.append(node)
    model.graph.outputs[0] = node.outputs[0]
    assert extremes(model, names_of(model)[:2], PICTURES)


def test_a_value_that_is_not_finite_is_named() -> None:
    model = network("residual")
    conv = next(node for node in model.graph if node.op_type == "Conv")
    weight = conv.inputs[1]
    assert weight is not None and weight.const_value is not None
    spoilt = weight.const_value.numpy().copy()
    spoilt[0, 0, 0, 0] = np.nan
    weight.const_value = ir.tensor(spoilt, name=weight.name)
    with pytest.raises(ExportError, match="Conv_output_0 is not finite"):
        calibrate(model, ["/0/0.0/Conv_output_0"], PICTURES)
