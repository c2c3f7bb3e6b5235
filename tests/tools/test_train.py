from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dkcam.errors import DataError
from dkcam.export.checkpoint import load_checkpoint
from dkcam.tools.scenes import open_examples
from dkcam.tools.train.loop import Progress, TrainingOptions, train
from dkcam.tools.train.schedule import Schedule
from dkcam.tools.train_command import main

OPTIONS = TrainingOptions(width=0.125, height=64, width_px=96, epochs=3, epoch=16, batch=8, rate=0.01, seed=4)


def test_the_canvas_grows_to_full_size_and_the_rate_falls_to_nothing() -> None:
    schedule = Schedule(6400, 64, 192, 320, 0.1)
    canvases = [schedule.canvas(step) for step in range(schedule.steps)]
    assert canvases[0] == (64, 96) and canvases[-1] == (192, 320) and canvases == sorted(canvases)
    rates = [schedule.rate(step) for step in range(schedule.steps)]
    assert max(rates) == pytest.approx(0.1) and rates[0] < 0.05 and rates[-1] < 1e-3


def test_small_canvases_stay_within_the_full_size() -> None:
    assert {Schedule(640, 64, 64, 64, 0.1).canvas(step) for step in range(10)} == {(64, 64)}


class Stopped(Exception):
    pass


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    examples = open_examples("rendered:")
    train(examples, tmp_path / "whole.pt", OPTIONS)

    def stop(progress: Progress) -> None:
        if progress.step == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(examples, tmp_path / "broken.pt", OPTIONS, report=stop)
    assert not (tmp_path / "broken.pt").exists()
    with pytest.raises(DataError, match="other options"):
        train(examples, tmp_path / "broken.pt", replace(OPTIONS, rate=0.02), resume=True)
    train(examples, tmp_path / "broken.pt", OPTIONS, resume=True)
    assert not (tmp_path / "broken.pt.state").exists()
    whole, broken = (load_checkpoint(tmp_path / f"{name}.pt") for name in ("whole", "broken"))
    assert whole.labels == examples.labels and whole.size == (64, 96)
    for name, value in whole.weights.items():
        assert torch.allclose(value.float(), broken.weights[name].float(), atol=2e-2), name


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses = []
    options = replace(OPTIONS, epochs=1, epoch=16 * 40, batch=16, rate=0.03, variant="plain")
    train(open_examples("rendered:"), tmp_path / "m.pt", options, report=lambda progress: losses.append(progress.loss))
    assert losses[-1] < losses[4]


def test_the_command_trains_and_says_how_well(tmp_path: Path) -> None:
    words = [
        "rendered:",
        "-o",
        str(tmp_path / "m.pt"),
        "--width",
        "0.125",
        "--size",
        "64x64",
        "--epochs",
        "1",
        "--epoch-pictures",
        "64",
        "--batch",
        "32",
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "validation accuracy" in result.output and (tmp_path / "m.pt").stat().st_size > 100_000


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rendered:", "-o", "m.pt", "--size", "100x100"], "multiples of 32"),
        (["nothing", "-o", "m.pt"], "nothing is not a folder"),
        (["rendered:", "-o", "no/such/m.pt"], "no/such/m.pt cannot be written"),
        (["rendered:", "-o", "m.pt", "--resume"], "nothing to resume"),
        (["rendered:", "-o", "m.pt", "--init", "none.pt"], "none.pt does not exist"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 1 and len(errors) == 1 and expected in errors[0]
