"""docs/models.py: makes a network, measures it, writes it up; the page is what its figures say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.marks import slow

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "models.json"


@pytest.fixture(scope="module", autouse=True)
def docs() -> Any:
    sys.path.insert(0, str(ROOT / "docs"))
    yield
    sys.path.remove(str(ROOT / "docs"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "docs" / "models.py"), *words], capture_output=True, text=True)


@slow
def test_a_network_is_made_and_measured_and_a_second_run_asks_nothing_again(tmp_path: Path) -> None:
    results = tmp_path / "models.json"
    words = ("--only", "sign_cnn", "--zoo", str(tmp_path), "--results", str(results), "--stages", "about,found,default,levels")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    row = json.loads(results.read_text())["networks"]["sign_cnn"]
    assert {stage: figures.get("failed") for stage, figures in row.items()} == dict.fromkeys(("about", "found", "default", "levels"))
    assert row["about"]["kinds"]["Conv"] == 4 and row["found"]["map"] == "4x4"
    assert row["default"]["task"] == "classify" and 0 < row["default"]["parity"]["heatmap"]["error"] < 1e-4
    assert max(one["error"] for one in row["default"]["unchanged"].values()) < 1e-4 and row["levels"]["default"] < 1e-4
    before = results.read_bytes()
    assert run(*words).stdout == "" and results.read_bytes() == before


def test_what_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    results = tmp_path / "models.json"
    done = run("--only", "sign_cnn", "--zoo", str(tmp_path), "--results", str(results), "--stages", "about,found", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(results.read_text())["networks"]["sign_cnn"]["about"]["failed"].startswith("took longer than 1 s")


def test_an_unknown_name_is_refused() -> None:
    done = run("--only", "resnet19")
    assert done.returncode == 2 and "--only resnet19: expected one of" in done.stderr


def test_names_are_different_and_families_many() -> None:
    from zoo.table import NETWORKS

    names = [one.name for one in NETWORKS]
    assert len(set(names)) == len(names) > 100 and len({one.family for one in NETWORKS}) > 50
    assert {one.expected for one in NETWORKS} == {"classify", "detect", "dense", "regress", "sequence"}


def test_a_failure_stays_on_the_page_with_its_reason(tmp_path: Path) -> None:
    from zoo.page import write
    from zoo.table import NETWORKS

    figures = {"about": {"nodes": 3, "kinds": {"Conv": 3}}, "default": {"failed": "Foo (node bar) has no rule"}}
    write(NETWORKS, {"networks": {"pilotnet": figures}}, tmp_path / "models.md")
    text = (tmp_path / "models.md").read_text()
    assert "- **pilotnet**, export: Foo (node bar) has no rule" in text and "of 1 networks of 1 families" in text
    assert "| pilotnet | PilotNet |" in text and "0 are explained" in text


def test_the_page_is_what_its_figures_say(tmp_path: Path) -> None:
    from zoo.page import write
    from zoo.table import NETWORKS

    write(NETWORKS, json.loads(RESULTS.read_text()), tmp_path / "models.md")
    assert (tmp_path / "models.md").read_text() == (ROOT / "docs" / "models.md").read_text()


def test_the_interval_of_a_median_holds_it_and_narrows() -> None:
    from zoo.timing import middle

    few, many = middle([1.0, 1.2, 0.9, 1.1, 5.0, 1.0, 1.05, 0.95, 1.3]), middle([1 + (n * 37 % 100) / 1000 for n in range(400)])
    assert few.median == 1.05 and few.low == 0.95 and few.high == 1.3
    assert many.low < many.median < many.high and many.high - many.low < 0.015


def test_random_weights_tell_pictures_apart() -> None:
    """After ``sound`` values keep their size from the first layer to the last, and the top class is not always the same."""
    import torch
    from zoo import make, statistics
    from zoo.own import ShuffleNet

    module = make.own_module(ShuffleNet, (64, 64), "classify", {"classes": 30})
    with torch.no_grad():
        images = statistics.pictures((64, 64), 24, plain=True, seed=9)
        scores = module(images)
        spread = module.features(images).std()
        untold = torch.nn.Linear(1024, 30)(module.features(images).mean((2, 3)))
    assert 0.1 < spread < 10 and len(set(scores.argmax(1).tolist())) >= 4
    leads = [float(torch.diff(values.topk(2).values).abs().mean()) for values in (scores, untold)]
    assert leads[0] > 3 * leads[1]
