"""A run's closing lines, from cases worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dkcam.rendered import Box
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.frame import Frame
from dkcam.runtime.geometry import Fit
from dkcam.runtime.result import Latency, Result
from dkcam.tools.run.compared import Compared
from dkcam.tools.summary import RunSummary

LABELS = ("no sign", "stop", "yield")
FIT = Fit(720, 1280, 192, 320)  # 6 x 10 cells of 120 x 128 pixels
SIGN = Box("stop", 600, 330, 680, 410)  # the cells' centres beside it lie at x 576 and 704, y 300 and 420
IN_CELLS = (2, 4)  # row and column of a centre within half a cell of the sign, not in it


def spot(row: int, column: int) -> np.ndarray:
    heat = np.zeros((6, 10), np.float32)
    heat[row, column] = 1
    return heat


def result(said: Explanation, sign: Box = SIGN) -> Result:
    return Result(Frame(np.zeros((720, 1280, 3), np.uint8), 0, "demo:", 0.0, (sign,)), said, Latency(0, 0, 7.0), 0.0, 0)


def compared(top: np.ndarray, runner_up: np.ndarray, winner: int = 1) -> Compared:
    scores = np.full(3, 0.1, np.float32)
    scores[winner] = 0.8
    # the class that was asked for is another one: its map says nothing about the top class
    return Compared(LABELS, scores, np.array([2]), spot(5, 9)[None], None, FIT, "cpu", top_heat=top, runner_up=runner_up)


def test_the_peak_of_the_top_class_is_told_beside_tolerance_runner_up_and_chance() -> None:
    summary = RunSummary()
    inside = Box("stop", 600, 290, 720, 410)  # holds the centre of cell (2, 5): x 704, y 300
    summary.add(result(compared(spot(2, 5), spot(0, 0)), inside))
    summary.add(result(compared(spot(*IN_CELLS), spot(*IN_CELLS))))
    summary.add(result(compared(spot(0, 0), spot(*IN_CELLS))))
    summary.add(result(compared(spot(0, 0), spot(0, 0))))
    summary.add(result(compared(spot(2, 5), spot(2, 5), winner=0)))  # not recognised: no peak counts
    text = "\n".join(summary.lines(5, 10.0, 0))
    assert "drawn scenes: sign of 80 to 120 pixels in 5 frames, recognised in 4 (80%)" in text
    rows = {line.strip().rsplit("  ", 3)[0].split("   ")[0]: line.split()[-3:] for line in text.splitlines()}
    # chance: the first box holds 1 of 60 centres, and 2 columns (576, 704) x 2 rows (300, 420) within half a cell; the other 0 and 4
    assert rows["strictly on the sign"] == ["25%", "0%", "0%"]
    assert rows["or within half a cell (64x60 pixels)"] == ["50%", "50%", "7%"]
    assert [each.chance for each in summary.hits] == [(1 / 60, 4 / 60), *[(0, 4 / 60)] * 3]
    assert all(len(line) <= 78 for line in text.splitlines()[1:])


def test_chance_leaves_out_what_is_not_the_picture() -> None:
    """Letterboxed, the lower and upper rows of the map show grey bars."""
    said = replace(compared(spot(2, 5), spot(2, 5)), fit=Fit(720, 1280, 320, 320, "letterbox"), top_heat=np.ones((10, 10), np.float32))
    summary = RunSummary()
    summary.add(result(replace(said, runner_up=said.top_heat)))
    inside, within = summary.hits[0].chance
    shown = summary.hits[0].top  # of all 100 cells; 6 of 10 rows have their centre in the picture
    assert within == shown[1] * 100 / 60 > 0 and inside == shown[0] * 100 / 60


def test_without_the_top_class_map_no_peak_is_claimed() -> None:
    plain = Explanation(LABELS, np.array([0.1, 0.8, 0.1], np.float32), np.array([2]), spot(2, 5)[None], None, FIT, "cpu")
    summary = RunSummary()
    summary.add(result(plain))
    assert summary.recognised == 1 and not summary.hits and "heat peak" not in "\n".join(summary.lines(1, 1.0, 0))
    own = Explanation(LABELS, np.array([0.1, 0.8, 0.1], np.float32), np.array([2, 1]), np.stack([spot(0, 0), spot(2, 5)]), None, FIT, "cpu")
    summary.add(result(own))
    assert summary.hits[0].top == (0, 1) and summary.hits[0].runner_up is None
    assert "runner-up" not in "\n".join(summary.lines(2, 1.0, 0))


def test_the_tolerance_is_half_a_cell_of_this_map() -> None:
    """A layer3 map, or a grid of windows, has smaller cells."""
    heat = np.zeros((12, 20), np.float32)
    heat[5, 10] = 1
    said = compared(heat, heat)
    summary = RunSummary()
    summary.add(result(said))
    assert summary.hits[0].tolerance == (32, 30) and "(32x30 pixels)" in "\n".join(summary.lines(1, 1.0, 0))
