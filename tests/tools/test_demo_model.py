"""The committed demo model does what the README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dkcam
from dkcam.export.checkpoint import load_checkpoint
from dkcam.export.verify import verify
from dkcam.rendered import Drive
from dkcam.runtime.explainer import DEMO_MODEL
from dkcam.runtime.frame import Frame
from dkcam.runtime.result import Latency, Result
from dkcam.tools.run.compared import Compared, with_runner_up
from dkcam.tools.scenes import SignSize
from dkcam.tools.scenes.composed import ComposedScenes
from dkcam.tools.summary import RunSummary
from dkcam.tools.train.evaluate import score


def test_the_demo_files_are_small_and_belong_together() -> None:
    checkpoint = load_checkpoint(DEMO_MODEL.with_suffix(".pt"))
    explainer = dkcam.load()
    assert explainer.spec.provenance.sha256 == checkpoint.sha256 and explainer.spec.provenance.verified
    assert DEMO_MODEL.stat().st_size <= 4_000_000 and DEMO_MODEL.with_suffix(".pt").stat().st_size <= 4_000_000
    assert len(explainer.spec.labels) >= 9 and "no sign" in explainer.spec.labels
    # the committed graph itself, on pictures, against autograd of the committed weights
    parity = verify(DEMO_MODEL.read_bytes(), checkpoint, explainer.spec)
    parity.check()
    assert {"logits", "probabilities", "heatmap"} <= {row.output for row in parity.rows}


def test_the_demo_begins_with_a_sign_that_is_read_and_the_heat_beside_it() -> None:
    """The first second, since nobody watches longer."""
    summary = drive(frames=25)
    assert len(summary.heights) >= 22 and summary.recognised == len(summary.heights) and summary.labels["no sign"] <= 3
    assert np.mean([each.top[1] for each in summary.hits]) >= 0.9


def test_the_heat_falls_on_the_signs_of_the_rendered_drive() -> None:
    summary = drive(frames=160, step=8)
    assert len(summary.heights) >= 8
    assert summary.recognised >= 0.75 * len(summary.heights) and len(summary.hits) == summary.recognised
    top, runner_up, chance = (
        np.mean([list(getattr(each, name)) for each in summary.hits], axis=0) for name in ("top", "runner_up", "chance")
    )
    assert top[1] >= 0.8 and top[1] >= runner_up[1] > chance[1] > chance[0]
    assert top[0] > 5 * chance[0]  # strictly on the sign


def drive(frames: int, step: int = 1) -> RunSummary:
    single, summary = dkcam.load(), RunSummary()
    explainer = with_runner_up(single, [-1])
    for index, (image, boxes) in enumerate(Drive(frames=frames)):
        if index % step == 0:
            prepared = explainer.prepare(image)
            said, plain = explainer.infer(prepared), single.infer(prepared)
            np.testing.assert_allclose(said.heatmap, plain.heatmap, rtol=1e-3, atol=1e-6)  # what is drawn stays the same
            assert isinstance(said, Compared) and said.runner_up is not None and said.explained.tolist() == plain.explained.tolist()
            np.testing.assert_allclose(said.runner_up, single.infer(prepared, [-2]).heatmap[0], rtol=1e-3, atol=1e-6)
            summary.add(Result(Frame(image, index, "demo:", 0.0, tuple(boxes)), said, Latency(0, 0, 0), 0.0, 0))
    return summary


def test_the_demo_model_reads_real_frames_it_was_not_trained_on(data: Path) -> None:
    scenes, size = ComposedScenes(data), SignSize()
    signs = [(frame, box) for frame in scenes.frames["val"] for box in frame.boxes if box.label]
    model = load_checkpoint(DEMO_MODEL.with_suffix(".pt")).module()
    found = score(model, lambda n: scenes.sign_of(signs, np.random.default_rng((7, n)), n, 192, 320, size), len(signs))
    assert found.accuracy().low >= 0.8
    assert found.hits("on object").low >= 0.8 and found.hits("inside").low > 2 * found.hits("chance inside").high
    assert all(found.hits(control).high <= 0.4 for control in ("chance", "centred", "untrained"))
