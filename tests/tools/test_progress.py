"""What a command says while it works for minutes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dkcam.tools import cli
from tests.marks import slow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_stage_and_one_every_half_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with cli.progress_line() as report:
        report("reading pictures", 0, 0)
        clock[0] += 12
        for step in range(60):
            report("looking for the layers that hurt the heatmap", step, 60)
            clock[0] += 5
        report("judging", 0, 0)
        report("reading pictures", 0, 0)  # once more: it is known
    out, said = capsys.readouterr()
    lines = said.splitlines()
    assert out == "" and lines[0] == "   0.0 s  reading pictures" and lines[-1] == " 312.0 s  judging"
    assert lines[1] == "  12.0 s  looking for the layers that hurt the heatmap 1/60"
    assert lines[2] == "  42.0 s  looking for the layers that hurt the heatmap 7/60, about 4 min left"  # 54 steps of 5 s: 270 s
    assert lines[-2] == " 282.0 s  looking for the layers that hurt the heatmap 55/60, about 30 s left" and len(lines) == 12


@slow
def test_an_export_into_a_log_names_its_stages(checkpoint_file: Path) -> None:
    words = [sys.executable, "-c", "from dkcam.tools.export_command import main; main()", checkpoint_file, "--precision", "fp16"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages = re.findall(r"^ +\d+\.\d s  (\w.*)$", done.stderr, re.MULTILINE)
    assert len(stages) > 2 and len(set(stages)) == len(stages) and stages[-1].startswith("comparing with autograd")
    assert " s  " not in done.stdout


def test_a_terminal_shows_step_time_and_estimate() -> None:
    code = "import time\nfrom dkcam.tools.cli import progress_line\nwith progress_line() as report:\n"
    code += "    for step in range(4):\n        report('searching', step, 4)\n        time.sleep(0.3)\n"
    ours, theirs = pty.openpty()
    terminal = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, stdout=subprocess.DEVNULL, env=terminal)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # its end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert done.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert "searching 4/4 0:00:0" in shown and re.search(r"searching 3/4 0:00:0\d about \d s left", shown), shown
