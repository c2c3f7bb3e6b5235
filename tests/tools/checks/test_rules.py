"""Rules from YAML: what they become, and every complaint with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dkcam.errors import DataError
from dkcam.tools.checks.rules import filled, read_rules

GOOD = """\
map:
  Speed_Limit 30: speed limit
background: no sign
regions:
  bonnet: [[0, 0.5], [1, 0.5], [1, 1], [0, 1]]
rules:
  - measure: pointing
    min: 0.8
    class: stop
  - name: not the bonnet
    measure: region
    region: bonnet
    max: 0.2
    severity: warn
    frames: 5
  - measure: corrupted_confidence
    corruption: noise 0.05
    min: 0.5
"""


def test_rules_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD)
    found = read_rules(path)
    assert found.labels == {"speed limit 30": "speed limit"} and found.background == "no sign"
    first, second, third = found.rules
    assert (first.name, first.key, first.label, first.least, first.severity, first.line) == (
        "pointing (stop)",
        "pointing",
        "stop",
        0.8,
        "fail",
        7,
    )
    assert (second.key, second.most, second.severity, second.frames) == ("region:bonnet", 0.2, "warn", 5)
    assert third.key == "corrupted_confidence:noise 0.05"
    assert first.holds(0.8) and not first.holds(0.79) and second.holds(0.2) and not second.holds(0.21)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("measure: pointing", "measure: pointer", "line 7: measure is 'pointer', expected one of pointing, energy"),
        ("    min: 0.8\n", "", "line 7: the pointing rule has neither min nor max"),
        ("min: 0.8", "min: eight", "line 8: min is 'eight', expected a number, 0 to 1"),
        ("min: 0.8", "min: nan", "line 8: min is 'nan', expected a number"),
        ("min: 0.8", "mim: 0.8", "line 8: 'mim' is not known in a rule; expected name, measure"),
        ("min: 0.8", "min: 0.8\n    max: 0.1", "line 8: min 0.8 is above max 0.1"),
        ("region: bonnet", "region: roof", "line 12: region is 'roof', expected one of bonnet"),
        ("    region: bonnet\n", "", "line 10: the region rule needs region:"),
        ("    class: stop", "    region: bonnet", "line 7: the pointing rule takes no region:"),
        ("[[0, 0.5], [1, 0.5], [1, 1], [0, 1]]", "[[0, 0.5], [1, 0.5]]", "line 5: region bonnet has 2 corners, expected 3 or more"),
        (
            "[[0, 0.5], [1, 0.5], [1, 1], [0, 1]]",
            "[[0, 500], [1, 1], [1, 1]]",
            "line 5: region bonnet: a corner is '500', expected a number, 0 to 1",
        ),
        ("[[0, 0.5], [1, 0.5], [1, 1], [0, 1]]", "[[0], [1, 1], [1, 1]]", "line 5: region bonnet: a corner has 1 numbers"),
        ("severity: warn", "severity: maybe", "line 14: severity is 'maybe', expected one of fail, warn"),
        ("noise 0.05", "fog 1", "line 17: corruption is 'fog 1', expected one of noise"),
        ("noise 0.05", "noise -1", "line 17: corruption is 'noise -1', expected noise 0 to 10"),
        ("background: no sign", "background: [a]", "line 3: background is empty or no text"),
        ("background: no sign", "backgrund: no sign", "line 3: 'backgrund' is not known in the file; expected map, background"),
        ("rules:\n", "rules: 3\nx:\n", "line 7: 'x' is not known"),
        ("map:\n", "map: [\n", "line "),
        ("frames: 5", "frames: 0", "line 15: frames is '0', expected a number, 1 to 10000"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "rules.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        read_rules(path)
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "[" * 5000, "rules: []", "rules: 3", "- a", "\x00", "a: *b"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(DataError):
        read_rules(path)


def test_polygons_are_filled() -> None:
    mask = filled(np.array([[2.0, 3.0], [7.0, 3.0], [7.0, 5.0], [2.0, 5.0]]), 8, 10)
    assert mask[3:5, 2:7].all() and mask.sum() <= 6 * 3
