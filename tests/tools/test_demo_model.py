"""The committed demo model does what the README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dkcam
from dkcam.export.checkpoint import load_checkpoint
from dkcam.export.exporter import make_spec
from dkcam.export.graph import write_graph
from dkcam.export.options import ExportOptions
from dkcam.rendered import Drive
from dkcam.runtime.explainer import DEMO_MODEL
from dkcam.runtime.result import Latency, Result
from dkcam.tools.scenes import SignSize
from dkcam.tools.scenes.composed import ComposedScenes
from dkcam.tools.summary import RunSummary
from dkcam.tools.train.evaluate import score


def test_the_demo_files_are_small_and_belong_together() -> None:
    checkpoint = load_checkpoint(DEMO_MODEL.with_suffix(".pt"))
    explainer = dkcam.load()
    assert explainer.spec.checkpoint_sha256 == checkpoint.sha256 and explainer.spec.verified
    assert DEMO_MODEL.stat().st_size <= 4_000_000 and DEMO_MODEL.with_suffix(".pt").stat().st_size <= 4_000_000
    assert len(explainer.spec.labels) >= 9 and "no sign" in explainer.spec.labels
    fresh = write_graph(checkpoint, make_spec(checkpoint, ExportOptions()))
    assert abs(len(fresh) - DEMO_MODEL.stat().st_size) < 2000


def test_the_heat_falls_on_the_signs_of_the_rendered_drive() -> None:
    explainer, summary = dkcam.load(), RunSummary()
    from dkcam.runtime.frame import Frame

    for index, (image, boxes) in enumerate(Drive(frames=160)):
        if index % 8 == 0:
            said = explainer(image)
            summary.add(Result(Frame(image, index, "demo:", 0.0, tuple(boxes)), said, Latency(0, 0, 0), 0.0, 0))
    assert summary.with_sign >= 8
    assert summary.recognised >= 0.75 * summary.with_sign
    assert summary.on_sign >= 0.8 * summary.recognised


def test_the_demo_model_reads_real_frames_it_was_not_trained_on(data: Path) -> None:
    scenes, size = ComposedScenes(data), SignSize()
    signs = [(frame, box) for frame in scenes.frames["val"] for box in frame.boxes if box.label]
    model = load_checkpoint(DEMO_MODEL.with_suffix(".pt")).module()
    found = score(model, lambda n: scenes.sign_of(signs, np.random.default_rng((7, n)), n, 192, 320, size), len(signs))
    assert found.accuracy().low >= 0.8
    assert found.hits("on object").low >= 0.8 and found.hits("inside").low > 2 * found.hits("chance inside").high
    assert all(found.hits(control).high <= 0.4 for control in ("chance", "centred", "untrained"))
