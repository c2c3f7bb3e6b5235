"""The files of examples/ do what the pages say of them; docs/shortcut.md goes on with training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from dkcam.tools.checks.formats import read_dataset
from dkcam.tools.checks.rules import filled, read_rules
from dkcam.tools.scenes.folder import FolderTree

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_rules_are_valid(path: Path) -> None:
    assert read_rules(path).rules


@pytest.mark.parametrize("honest", [False, True])
def test_the_stamp_gives_the_class_away_unless_honest(tmp_path: Path, honest: bool) -> None:
    words = [sys.executable, EXAMPLES / "shortcut.py", tmp_path, "--pictures", "8", *(["--honest"] if honest else [])]
    subprocess.run(words, check=True)
    assert FolderTree(tmp_path / "train").labels == ("stop", "yield")
    found = read_dataset(tmp_path / "check")
    assert not found.problems and len(found.pictures) == 2 and all(picture.boxes for picture in found.pictures)
    corners = read_rules(EXAMPLES / "shortcut.yaml").regions["time stamp"]
    stamp = filled(corners * (160, 96), 96, 160)
    light = {}
    for label in ("stop", "yield"):
        pictures = [cv2.imread(str(path)) for path in (tmp_path / "train" / label).iterdir()]
        light[label] = [float(picture[6:12, 4:56].mean()) for picture in pictures]
        assert stamp[6:12, 4:56].all()
    assert (max(light["stop"]) < min(light["yield"])) is not honest
    assert np.ptp(light["stop"]) < 80 or honest
