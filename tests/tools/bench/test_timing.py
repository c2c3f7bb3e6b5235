from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from dkcam.tools.bench import peers, timing
from dkcam.tools.bench.timing import paired
from dkcam.tools.bench_command import main
from tests.marks import slow


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The clock of ``paired`` goes on by so many seconds, and not by itself."""
    now = [0.0]
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def test_ratios_are_taken_within_rounds(takes: Callable[[float], None]) -> None:
    """A machine that slows down in the middle changes the times, not the ratio."""
    slow = [1, 1, 1, 5, 5, 5, 1, 1]
    rows = paired({"one": lambda n: takes(0.004 * slow[n % 8]), "two": lambda n: takes(0.008 * slow[n % 8])}, "one", 16, warm=0)
    assert [row.name for row in rows] == ["one", "two"] and rows[0].ratio == 1
    assert rows[1].ratio == pytest.approx(2) and rows[1].rounds == 16


def test_warm_rounds_are_run_and_not_counted() -> None:
    calls: list[int] = []
    (row,) = paired({"one": calls.append}, "one", 3, warm=2)
    assert calls == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and row.rounds == 3


def test_nobody_pays_for_what_ran_before_it(takes: Callable[[float], None]) -> None:
    """A neighbour that slows the next run, as spinning threads do, leaves the times of the others as they are."""
    state = {"hot": False}

    def hot(number: int) -> None:
        state["hot"] = True

    def other(number: int) -> None:
        takes(0.02 if state["hot"] else 0.002)
        state["hot"] = False

    rows = {row.name: row for row in paired({"reference": other, "neighbour": hot, "third": other}, "reference", 12)}
    assert rows["reference"].p99_ms == pytest.approx(2) and rows["third"].p99_ms == pytest.approx(2)


def test_the_order_changes_from_round_to_round() -> None:
    order: list[str] = []
    paired({name: lambda n, name=name: order.append(name) for name in "abc"}, "a", 12, warm=0)  # type: ignore[misc]
    followed = {(first, second) for first, second in pairwise(order) if first != second}
    assert followed == {(a, b) for a in "abc" for b in "abc" if a != b}


@slow
def test_the_command_measures_a_checkpoint_and_writes_json(checkpoint_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "b.json"
    result = CliRunner().invoke(main, ["--model", str(checkpoint_file), "--rounds", "3", "--json", str(target)])
    assert result.exit_code == 0, result.output
    found = json.loads(target.read_text())
    groups = {group["title"]: {row["name"]: row for row in group["rows"]} for group in found["groups"]}
    assert found["model"]["device"] == "cpu" and found["first_frame"]["seconds"] > 0 and found["first_frame"]["peak_memory_mb"] > 30
    assert {"heatmap in the graph", "classification alone", "5 classes", "32 masks", "128 masks"} == set(groups["Inference"])
    assert set(groups["Precision"]) == {"fp32", "fp16", "int8"}
    stages = groups["Stages at 1280x720"]
    assert stages["all"]["ms"] > stages["infer"]["ms"] > 0
    assert groups["Frame to overlay at 1280x720"]["dkcam"]["ratio"] == 1


@slow
def test_an_onnx_file_says_what_it_cannot_compare(model_file: Path) -> None:
    result = CliRunner().invoke(main, ["--model", str(model_file), "--rounds", "3", "--peers"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("skipped") >= 7 and "needs a checkpoint" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "none.onnx"], "none.onnx does not exist"),
        (["--model", "m.pt", "--random-width", "1"], "contradict each other"),
        (["--json", "/nowhere/b.json"], "/nowhere is not a folder"),
    ],
)
def test_bad_words_are_one_line(words: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1 and expected in result.stderr and "Traceback" not in result.output


def test_the_opencv_form_covers_the_frame() -> None:
    frame = np.full((60, 80, 3), 100, np.uint8)
    drawn = peers.opencv_overlay(frame, np.eye(4, dtype=np.float32))
    assert drawn.shape == frame.shape and not np.array_equal(drawn, frame)
