"""Rules on running frames: when they break, what they write, how a run ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import Fit
from dkcam.tools.checks.live import LiveRules
from dkcam.tools.checks.rules import Rule, Rules
from dkcam.tools.run_command import main

BONNET = np.array([[0, 0.5], [1, 0.5], [1, 1], [0, 1]])


def said(row: int, column: int = 0, probability: float = 0.9, label: int = 0, spread: float | None = None) -> Explanation:
    """All heat in one cell of 4 × 6."""
    heat = np.zeros((1, 4, 6), np.float32)
    heat[0, row, column] = 1
    probabilities = np.array([0.0, 0.0], np.float32)
    probabilities[label], probabilities[1 - label] = probability, 1 - probability
    std = None if spread is None else heat * spread
    return Explanation(("stop", "yield"), probabilities, np.array([label]), heat, std, Fit(120, 180, 64, 96), "cpu")


def watch(*rules: Rule, samples: bool = False) -> LiveRules:
    return LiveRules(Rules(rules=rules, regions={"bonnet": BONNET}), samples=samples)


def test_a_rule_breaks_when_the_last_frames_do() -> None:
    rule = Rule("bonnet", "region", 1, most=0.5, region="bonnet", frames=4)
    live = watch(rule)
    assert [bool(live.see(said(row))) for row in (0, 0, 3, 3, 3, 3, 0, 0, 0)] == [False] * 4 + [True, True, True, False, False]
    assert live.failed and live.lines() == ["fail  bonnet: broken in 3 frames, expected at most 0.5"]


def test_jitter_is_of_steps() -> None:
    live = watch(Rule("steady", "jitter", 1, most=0.1, frames=2, severity="warn"))
    assert [len(live.see(said(0, column))) for column in (0, 0, 0, 3, 3, 3, 3)] == [0, 0, 0, 1, 1, 0, 0]
    assert not live.failed  # a warning


def test_a_class_has_its_own_rule() -> None:
    live = watch(Rule("sure of yield", "confidence", 1, least=0.8, label="Yield", frames=1))
    assert not live.see(said(0, probability=0.5)) and live.see(said(0, probability=0.6, label=1))


def test_stability_needs_masks() -> None:
    rule = Rule("stable", "stability", 1, least=0.9, frames=1)
    assert watch(rule).skipped == (rule,) and not watch(rule, samples=True).skipped
    live = watch(rule, samples=True)
    assert not live.see(said(0, spread=0.05)) and live.see(said(0, spread=0.2))


def test_rules_about_boxes_are_left_to_dk_check() -> None:
    rules = [Rule(name, name, 1, least=0.5, region="") for name in ("pointing", "energy_ratio", "accuracy", "entropy")]
    assert [rule.name for rule in watch(*rules).skipped] == ["pointing", "energy_ratio", "accuracy"]


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output


def test_a_run_writes_alarms_marks_pictures_and_exits_3(clip: Callable[..., Path], model_file: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - name: sure\n    measure: confidence\n    min: 1\n    frames: 3\n  - measure: pointing\n    min: 0.1\n")
    events, pictures = tmp_path / "e.jsonl", tmp_path / "p"
    source = clip(frames=5, height=240, width=320)
    code, output = run(
        "--model", model_file, "--source", source, "--headless", "--sink", events, "--sink", f"{pictures}/", "--rules", rules
    )
    assert code == 3 and "fail  sure: broken in 3 frames, expected at least 1" in output
    assert "note: not judged live, dk-check does: pointing" in output
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    assert [len(line["alarms"]) for line in lines] == [0, 0, 1, 1, 1]
    assert lines[2]["alarms"][0]["rule"] == "sure" and lines[2]["alarms"][0]["severity"] == "fail"
    shown = [cv2.imread(str(path)) for path in sorted(pictures.iterdir())]
    rims = [float(np.abs(picture[2, 100:200].astype(int) - (40, 40, 255)).mean()) for picture in shown]
    assert min(rims[:2]) > 20 > max(rims[2:])


def test_a_run_that_holds_its_rules_exits_0(clip: Callable[..., Path], model_file: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules:\n  - measure: confidence\n    min: 0\n")
    code, output = run("--model", model_file, "--source", clip(), "--headless", "--rules", rules)
    assert code == 0, output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules:\n  - measure: pointing\n    min: 0.1\n", "has no rule that can be judged live"),
        ("rules: [", "expected YAML"),
        ("rules:\n  - measure: confidence\n    class: stopp\n    min: 0.1\n", "line 2: class is 'stopp', which is no class of the model"),
    ],
)
def test_rules_that_cannot_serve_are_one_line(clip: Callable[..., Path], model_file: Path, tmp_path: Path, text: str, words: str) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(text)
    code, output = run("--model", model_file, "--source", clip(), "--headless", "--rules", rules, "--sink", tmp_path / "e.jsonl")
    assert code == 1 and words in output and not (tmp_path / "e.jsonl").exists()


def test_a_run_that_judged_nothing_exits_3(clip: Callable[..., Path], model_file: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("map:\n  tram: of another model\nrules:\n  - measure: confidence\n    min: 0\n")  # the map is dk-check's
    code, output = run("--model", model_file, "--source", clip(frames=9), "--headless", "--rules", rules)
    assert code == 3 and "nothing was checked" in output, output  # over ten frames, and nine came
    code, output = run("--model", model_file, "--source", clip(frames=10), "--headless", "--rules", rules)
    assert code == 0 and "nothing was checked" not in output, output
    rules.write_text("rules:\n  - measure: confidence\n    class: stop\n    min: 0\n")
    code, output = run("--model", model_file, "--source", clip(frames=12), "--headless", "--rules", rules, "--explain", "yield")
    assert code == 3, output


def test_masks_show_stability(clip: Callable[..., Path], tmp_path: Path) -> None:
    from dkcam.export.exporter import export
    from dkcam.export.options import ExportOptions
    from tests.conftest import tiny_checkpoint

    model = tmp_path / "masked.onnx"
    model.write_bytes(export(tiny_checkpoint(), ExportOptions(size=(64, 96), samples=8), check=False).data)
    events = []
    for number in range(2):
        path = tmp_path / f"{number}.jsonl"
        code, output = run("--model", model, "--source", clip(), "--headless", "--sink", path, "--sink", tmp_path / f"o{number}.mp4")
        assert code == 0, output
        events.append([json.loads(line)["stability"] for line in path.read_text().splitlines()])
    assert events[0] == events[1]  # the same masks in every run, so video does not flicker
    assert all(0 <= value <= 1 for value in events[0]) and len(set(events[0])) > 1
