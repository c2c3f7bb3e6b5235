"""Detectors and regressors at run time, on networks whose answer is known: squares of a colour, and the side they are on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace as changed

from dkcam.engines import open_bytes
from dkcam.errors import InputError, ModelFileError
from dkcam.rendered import Box
from dkcam.runtime.explainer import Explainer
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.focus import Focus, Follower
from dkcam.runtime.frame import Frame
from dkcam.runtime.geometry import Fit, overlap
from dkcam.runtime.grid import GridExplainer
from dkcam.runtime.result import Latency, Result
from dkcam.tools.checks.live import LiveRules
from dkcam.tools.checks.rules import Rule, Rules
from dkcam.tools.run_command import main as dk_run
from dkcam.tools.summary import RunSummary
from tests.standins import balance, box_of, described, square_finder, squares

THREE = (("red", 1, 2), ("blue", 3, 7), ("red", 4, 4))


def detector(**options: Any) -> Explainer:
    explain = options.pop("explain", None)
    return Explainer(open_bytes(square_finder(**options), "the stand-in"), explain=explain)


def places(said: Explanation, frame: np.ndarray) -> list[tuple[str, list[int]]]:
    """(label, box in pixels) in order of their place."""
    sides = (frame.shape[1], frame.shape[0]) * 2
    return sorted((found.label, [round(v * side) for v, side in zip(found.box, sides, strict=True)]) for found in said.detections)


@pytest.mark.parametrize(
    ("mode", "size", "squares_of_frame", "seen"),
    [
        ("stretch", (192, 320), [("red", 1, 2), ("blue", 3, 7)], [("blue", [224, 96, 256, 128]), ("red", [64, 32, 96, 64])]),
        ("letterbox", (128, 320), [("red", 0, 2), ("blue", 3, 9)], [("blue", [288, 96, 320, 128]), ("red", [64, 0, 96, 32])]),
        ("letterbox", (192, 256), [("red", 1, 0), ("blue", 5, 7)], [("blue", [224, 160, 256, 192]), ("red", [0, 32, 32, 64])]),
        ("crop", (192, 384), [("red", 1, 1), ("blue", 3, 10), ("red", 2, 0)], [("blue", [320, 96, 352, 128]), ("red", [32, 32, 64, 64])]),
        ("crop", (256, 320), [("red", 1, 1), ("blue", 6, 9), ("red", 7, 3)], [("blue", [288, 192, 320, 224]), ("red", [32, 32, 64, 64])]),
    ],
)
@pytest.mark.parametrize("factor", [1, 3])
def test_boxes_find_their_way_back(
    mode: str, size: tuple[int, int], squares_of_frame: list[Any], seen: list[tuple[str, list[int]]], factor: int
) -> None:
    frame = squares(*squares_of_frame, size=size)
    frame = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    said = detector(resize=mode)(frame)
    assert places(said, frame) == [(label, [factor * value for value in box]) for label, box in seen]
    for found in said.detections:  # the heat lies where the box does
        x, y = said.peak(found.row) or (0.0, 0.0)
        assert found.box[0] < x < found.box[2] and found.box[1] < y < found.box[3]


def test_a_box_is_cut_at_the_frames_edges() -> None:
    crop, bars = Fit(192, 384, 192, 320, "crop"), Fit(128, 320, 192, 320, "letterbox")
    assert crop.box((-0.5, -0.5, 1.5, 0.5)) == (0.0, 0.0, 1.0, 0.5)
    assert bars.box((0.0, 0.0, 0.5, 0.5)) == pytest.approx((0, 0, 0.5, 0.5))  # from the upper bar to the middle
    assert bars.box((0.0, 0.0, 0.5, 0.15)) is None and bars.box((0, 0, 0, 0)) is None


def test_what_was_found_comes_best_first_with_its_row() -> None:
    said = detector()(squares(*THREE))
    assert [found.label for found in said.detections] == ["red", "red", "blue"] and said.top(2) == said.detections[:2]
    assert [found.probability for found in said.detections] == sorted((f.probability for f in said.detections), reverse=True)
    assert said.probabilities.tolist() == pytest.approx([0.7, 205 / 300], abs=1e-5)
    assert said.asked == tuple(range(-1, -11, -1)) and len(said.heatmap) == 10 and not said.heatmap[3:].any()
    best = said.detections[0]
    assert best.box == pytest.approx(box_of(1, 2)) and best.words == "red 70%"


def test_a_named_class_shows_its_boxes_alone_and_its_best_for_sure() -> None:
    reds = [("red", row, column) for row in (0, 2) for column in range(0, 10, 2)]
    frame = squares(*reds, ("red", 4, 0), ("red", 4, 2), ("blue", 5, 9))  # twelve red squares, all stronger
    everything = detector()
    assert {found.label for found in everything(frame).detections} == {"red"}
    assert places(detector(explain=["blue"])(frame), frame) == [("blue", [288, 160, 320, 192])]
    again = everything.infer(everything.prepare(frame), ["red"])
    boxes = [box for _, box in places(again, frame)]
    assert len(boxes) == 9 and len({tuple(box) for box in boxes}) == 9  # ten were asked for, one of them twice
    assert len(everything.infer(everything.prepare(frame), [-1, -2]).detections) == 2


@pytest.mark.parametrize("options", [{"count": 4}, {"count": 4, "per_image": True}, {"per_image": True}, {}])
def test_fixed_numbers_and_lists_for_each_picture(options: dict[str, Any]) -> None:
    explainer = detector(**options)
    frames = [squares(*THREE), squares(), squares(("blue", 0, 0))]
    said = explainer.infer_many([explainer.prepare(frame) for frame in frames])
    assert [len(each.detections) for each in said] == [3, 0, 1] and len(said[0].heatmap) == options.get("count", 10)
    named = explainer.infer_many([explainer.prepare(frame) for frame in frames], ["blue"])
    assert [[found.label for found in each.detections] for each in named] == [["blue"], [], ["blue"]]


def line(said: Explanation, frame: np.ndarray) -> dict[str, Any]:
    result = Result(Frame(frame, 0, "squares", 0.0), said, Latency(0, 0, 0), 0.0, 0)
    found: dict[str, Any] = json.loads(result.to_json())
    return found


def test_the_json_line_lists_detections() -> None:
    frame = squares(*THREE)
    found = line(detector()(frame), frame)
    assert found["detections"][2] == {
        "label": "blue",
        "index": 1,
        "score": pytest.approx(205 / 300, abs=1e-5),
        "box": [0.7, 0.5, 0.8, 0.66667],
        "peak": found["detections"][2]["peak"],
    }
    assert found["explained"] == ["red", "red", "blue"] and found["peak"] == found["detections"][0]["peak"] and "focus" not in found
    empty = line(detector()(squares()), squares())
    assert (empty["detections"], empty["top"], empty["explained"], empty["peak"]) == ([], [], [], None)


def test_drawn_boxes_and_heat() -> None:
    frame = squares(*THREE)
    said = detector()(frame)
    for layout in ("side", "tint"):
        picture = said.overlay(frame, layout=layout)
        assert picture.shape == frame.shape
        for _, row, column in THREE:
            middle = slice(row * 32 + 12, row * 32 + 20), slice(column * 32 + 12, column * 32 + 20)
            assert (picture[middle] != frame[middle]).any()  # heat; the first tint is nearly the red square's own colour
            edge = picture[row * 32, column * 32 + 4 : column * 32 + 28]
            assert (edge == edge[0]).all() and tuple(edge[0]) != tuple(frame[row * 32, column * 32])
        assert np.array_equal(picture[:, 300:], frame[:, 300:])
    plain = squares()
    assert np.array_equal(detector()(plain).overlay(plain), plain)


def test_the_chosen_box_alone_has_heat() -> None:
    frame = squares(*THREE)
    said = detector()(frame)
    blue = said.detections[2]
    chosen = replace(said, focus=blue.row)
    assert [found.label for found in chosen.shown] == ["blue"] and len(chosen.detections) == 3
    picture = chosen.overlay(frame)
    for colour, row, column in THREE:
        middle = slice(row * 32 + 12, row * 32 + 20), slice(column * 32 + 12, column * 32 + 20)
        assert np.array_equal(picture[middle], frame[middle]) is (colour == "red")
    assert line(chosen, frame)["focus"] == 2


def test_a_chosen_box_is_followed() -> None:
    explainer, follower = detector(), Follower()

    def seen(*places: tuple[str, int, int], camera: int = 0, focus: Focus | None = None, shift: int = 0) -> Any:
        frame = np.roll(squares(*places), shift, axis=1)
        said = follower.follow(focus, camera, explainer(frame))
        return None if said.focus is None else next(found.box for found in said.detections if found.row == said.focus)

    chosen = Focus(0, 0, box_of(1, 2))
    assert seen(("red", 1, 2), ("red", 1, 3), focus=None) is None
    assert seen(("red", 1, 2), ("red", 1, 3), focus=chosen) == pytest.approx(box_of(1, 2))
    assert seen(("red", 1, 2), ("red", 1, 3), focus=chosen, camera=1) is None
    assert seen(("red", 1, 3), focus=chosen) is None and seen(("blue", 1, 2), focus=chosen) is None
    assert seen(("red", 1, 2), focus=chosen) == pytest.approx(box_of(1, 2))  # it is back
    for step in range(1, 5):  # boxes that move by a little: stand-ins for what a finer detector gives
        moved = tuple(value + 0.05 * step * (k % 2 == 0) for k, value in enumerate(box_of(1, 2)))
        said = explainer(squares(("red", 1, 2)))
        boxes = said.boxes
        assert boxes is not None
        boxes[0] = moved
        after = follower.follow(chosen, 0, said)
        assert after.focus == 0, step
    assert seen(("red", 1, 2), focus=Focus(0, 0, (float("nan"),) * 4)) is None
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7) and overlap((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert overlap((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_rules_live_are_about_the_best_box_of_their_class() -> None:
    rules = Rules(
        rules=(
            Rule("reds are sure", "confidence", 0, label="red", least=0.69, frames=1),
            Rule("blues are sure", "confidence", 0, label="blue", least=0.69, frames=1),
        )
    )
    watch, explainer = LiveRules(rules, samples=False), detector()
    assert watch.see(explainer(squares())) == () and watch.nothing_judged
    assert [alarm.rule for alarm in watch.see(explainer(squares(*THREE)))] == ["blues are sure"]
    assert watch.see(explainer(squares(("red", 0, 0)))) == ()


def test_a_detector_takes_no_grid_and_says_what_it_lacks() -> None:
    with pytest.raises(ModelFileError, match="a grid puts windows' classes together, this model's task is detect; leave --grid out"):
        GridExplainer(detector(), 2, 2)

    def without_boxes(spec: Any) -> Any:
        return changed(spec, explanation=changed(spec.explanation, outputs=("scores", "explained", "heatmap")))

    with pytest.raises(ModelFileError, match="exported without boxes; leave --outputs out"):
        Explainer(open_bytes(described(square_finder(), without_boxes), "m"))
    with pytest.raises(ModelFileError, match=r"m lacks boxes, which its dkcam\.spec names"):
        open_bytes(described(balance(), lambda spec: changed(spec, explanation=changed(spec.explanation, outputs=("boxes",)))), "m")
    with pytest.raises(ModelFileError, match=r"classes has shape \[4\], its dkcam.spec says \[5\]"):
        fixed = described(square_finder(count=4), lambda spec: changed(spec, explanation=changed(spec.explanation, count=5)))
        open_bytes(fixed, "m")
    with pytest.raises(InputError, match="class -1001 is out of range, expected -1000 to 1"):
        detector(explain=[-1001])


def test_a_regressor_shows_what_raises_and_what_lowers() -> None:
    explainer = Explainer(open_bytes(balance(), "the stand-in"))
    frame = squares(("red", 2, 8), ("red", 2, 1), ("red", 4, 1))
    said = explainer(frame)
    (steering,) = said.top(3)
    assert steering.label == "steering" and steering.value == pytest.approx(-0.7 * 16, abs=1e-3) and np.isnan(steering.probability)
    assert (said.peak() or (0, 0))[0] > 0.5 and said.rises(0)
    both = explainer.infer(explainer.prepare(frame), ["steering", "-steering"])
    assert both.asked == (0, -1) and [both.rises(k) for k in (0, 1)] == [True, False]
    right, left = (both.peak(k) or (0.0, 0.0) for k in (0, 1))
    assert right[0] > 0.5 > left[0]
    found = line(both, frame)
    assert found["top"] == [{"label": "steering", "index": 0, "value": pytest.approx(-11.2, abs=1e-3)}]
    assert found["sides"] == ["rise", "fall"] and found["explained"] == ["steering", "steering"] and len(found["peaks"]) == 2
    assert both.overlay(frame).shape == (192, 640, 3)
    with pytest.raises(InputError, match="'throttle' is not a label"):
        explainer.infer(explainer.prepare(frame), ["-throttle"])
    with pytest.raises(ModelFileError, match="task is regress"):
        GridExplainer(explainer, 2, 2)


def test_what_a_run_says_at_its_end() -> None:
    def told(explainer: Explainer, *frames: np.ndarray) -> str:
        summary = RunSummary()
        for number, frame in enumerate(frames):
            boxes = (Box("stop", 10, 10, 60, 60),)  # drawn scenes know their signs
            summary.add(Result(Frame(frame, number, "s", 0.0, boxes=boxes), explainer(frame), Latency(0, 0, 1), 0.0, 0))
        return "\n".join(summary.lines(len(frames), 10.0, 0))

    assert "detections: red 2, blue 1, nothing 1" in told(detector(), squares(*THREE), squares())
    regressor = Explainer(open_bytes(balance(), "m"))
    assert "outputs: steering -11.2 to 11.2" in told(regressor, squares(("red", 1, 1)), squares(("red", 1, 8)))


@pytest.mark.parametrize(("words", "expected"), [([], ["blue", "red", "red"]), (["--explain", "blue"], ["blue"])])
def test_dk_run_over_pictures(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "m.onnx").write_bytes(square_finder())
    cv2.imwrite(str(tmp_path / "in/a.png"), cv2.resize(squares(*THREE), (960, 576), interpolation=cv2.INTER_NEAREST))
    cv2.imwrite(str(tmp_path / "in/b.png"), squares())
    sinks = ["--sink", str(tmp_path / "o.jsonl"), "--sink", f"{tmp_path / 'out'}/", "--headless"]
    result = CliRunner().invoke(dk_run, ["--model", str(tmp_path / "m.onnx"), "--source", str(tmp_path / "in"), *sinks, *words])
    assert result.exit_code == 0, result.output
    first, second = (json.loads(text) for text in (tmp_path / "o.jsonl").read_text().splitlines())
    assert sorted(found["label"] for found in first["detections"]) == expected and second["detections"] == []
    assert cv2.imread(str(tmp_path / "out/a.png")).shape == (576, 960, 3)


def test_dk_run_over_the_drawn_drive_with_a_detector(tmp_path: Path) -> None:
    """Its control, the runner-up's map, is a classifier's."""
    (tmp_path / "m.onnx").write_bytes(square_finder(resize="letterbox"))
    words = ["--model", str(tmp_path / "m.onnx"), "--source", "demo:", "--headless", "--max-frames", "5"]
    result = CliRunner().invoke(dk_run, words)
    assert result.exit_code == 0 and "detections: " in result.output, result.output
