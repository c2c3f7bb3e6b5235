from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from dkcam.errors import ParityError
from dkcam.export.exporter import export, make_spec
from dkcam.export.graph import write_graph
from dkcam.export.options import ExportOptions
from dkcam.export.pictures import rendered_pictures
from dkcam.export.verify import verify
from tests.conftest import tiny_checkpoint


def test_a_good_export_passes_and_says_so_in_the_file() -> None:
    exported = export(tiny_checkpoint(), ExportOptions(size=(64, 96), layer="layer3"))
    assert exported.spec.verified and set(exported.spec.parity) == set(exported.spec.outputs)
    assert max(exported.spec.parity.values()) <= 1e-4
    assert exported.parity is not None and exported.parity.input_dependence > 0.01
    assert {row.pictures for row in exported.parity.rows} == {"random", "rendered"}


def test_a_changed_weight_is_caught() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96)))
    model = onnx.load_from_string(write_graph(checkpoint, spec))
    tensor = next(t for t in model.graph.initializer if t.name == "layer2.1.conv1.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    with pytest.raises(ParityError, match="differs from autograd by"):
        verify(model.SerializeToString(), checkpoint, spec).check()


def test_a_frozen_heatmap_is_caught() -> None:
    checkpoint = tiny_checkpoint()
    spec = make_spec(checkpoint, ExportOptions(size=(64, 96), explain=1, outputs=("logits", "heatmap")))
    model = onnx.load_from_string(write_graph(checkpoint, spec))
    for node in model.graph.node:
        if "heatmap" in node.output:
            node.input[0] = "frozen"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 2, 3), np.float32), "frozen"))
    parity = verify(model.SerializeToString(), checkpoint, spec)
    assert parity.input_dependence == 0
    with pytest.raises(ParityError, match="heatmap differs from autograd by"):
        parity.check()
    with pytest.raises(ParityError, match="gradient is frozen"):  # also where autograd's map on these pictures were the same
        replace(parity, rows=()).check()


def test_a_heatmap_of_zeros_is_caught_though_autograd_agrees() -> None:
    checkpoint = tiny_checkpoint()
    weights = {name: torch.zeros_like(value) if name.startswith("fc.") else value for name, value in checkpoint.weights.items()}
    dead = replace(checkpoint, weights=weights)
    parity = verify(write_graph(dead, spec := make_spec(dead, ExportOptions(size=(64, 96)))), dead, spec)
    assert all(row.passed for row in parity.rows) and parity.input_dependence == 0
    with pytest.raises(ParityError, match="zero everywhere"):
        parity.check()


def test_calibration_pictures_are_used() -> None:
    exported = export(tiny_checkpoint(), ExportOptions(size=(64, 96)), calibration=rendered_pictures(64, 96, 3, seed=5))
    assert exported.parity is not None
    assert {row.pictures for row in exported.parity.rows} == {"random", "calibration"}


def test_the_same_checkpoint_and_options_give_the_same_bytes() -> None:
    options = ExportOptions(size=(64, 96), layer="layer3", samples=2)
    assert export(tiny_checkpoint(), options).data == export(tiny_checkpoint(), options).data
