"""Recordings of cameras: whole at every moment, in parts, on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import dkcam
from dkcam.errors import SinkError
from dkcam.runtime import recording
from dkcam.runtime.delivery import Explained, result_of
from dkcam.runtime.frame import Frame
from dkcam.runtime.recording import JsonLines, Rotation, Video, fitted
from dkcam.runtime.result import Result
from dkcam.runtime.sinks import open_sink


@pytest.fixture(scope="module")
def result(model_file: Path) -> Result:
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    said = dkcam.load(model_file, device="cpu")(image)
    done = Explained(Frame(image, 0, "camera", 0.0), said, 0.0, 0.0, 0.0, time.perf_counter())
    from dkcam.runtime.controls import Style

    return result_of(done, style=Style(), watch=None, picture=True, fps=None, dropped=0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """time.monotonic, as ``recording`` sees it."""
    now = [100.0]
    monkeypatch.setattr(recording.time, "monotonic", lambda: now[0])
    yield now


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0.0) for frame in container.decode(video=0)]


def test_an_unfinished_video_plays_to_within_two_seconds(result: Result, tmp_path: Path, clock: list[float]) -> None:
    sink = Video(tmp_path / "o.mp4", 25.0, live=True)
    for _ in range(50):
        sink.write(result)
        clock[0] += 0.1
    found = times(tmp_path / "o.mp4")  # not closed: as after kill -9
    assert found[-1] > 5.0 - 2.0 and found == sorted(found)
    sink.close()
    assert times(tmp_path / "o.mp4")[-1] == pytest.approx(4.9, abs=0.02)


def test_frames_last_as_long_as_they_were_shown(result: Result, tmp_path: Path, clock: list[float]) -> None:
    sink = Video(tmp_path / "o.mp4", 25.0, live=True)
    steps = [0.02, 0.5, 0.04, 2.0, 0.0, 0.1]
    for step in steps:
        sink.write(result)
        clock[0] += step
    sink.close()
    np.testing.assert_allclose(np.diff(times(tmp_path / "o.mp4")), [0.02, 0.5, 0.04, 2.0, 0.0], atol=2e-3)


def test_an_older_recording_is_kept(result: Result, tmp_path: Path) -> None:
    for name in ("o.mp4", "e.jsonl"):
        (tmp_path / name).write_text("first")
        (tmp_path / name.replace(".", ".1.")).write_text("older")
    for sink in (Video(tmp_path / "o.mp4", 25.0, live=True), JsonLines(tmp_path / "e.jsonl", live=True)):
        sink.write(result)
        sink.close()
    assert (tmp_path / "o.2.mp4").read_text() == (tmp_path / "e.2.jsonl").read_text() == "first"
    assert (tmp_path / "o.1.mp4").read_text() == "older" and len(times(tmp_path / "o.mp4")) == 1


def test_a_run_without_frames_leaves_nothing(tmp_path: Path) -> None:
    for sink in (Video(tmp_path / "o.mp4", 25.0, live=True), JsonLines(tmp_path / "e.jsonl", live=True)):
        assert sink.close() is None
    assert not list(tmp_path.iterdir())


def test_two_frames_are_something_already(result: Result, tmp_path: Path, clock: list[float]) -> None:
    sink = Video(tmp_path / "o.mp4", 25.0, live=True)
    assert not (tmp_path / "o.mp4").exists()  # no empty file that does not play
    for _ in range(3):
        sink.write(result)
        clock[0] += 0.04
    assert len(times(tmp_path / "o.mp4")) >= 1
    sink.close()
    assert len(times(tmp_path / "o.mp4")) == 3


def test_numbers_that_json_has_not_are_null(result: Result) -> None:
    said = result.explanation
    broken = replace(said, probabilities=said.probabilities * np.nan, heatmap=said.heatmap * np.nan)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} in a JSON line")

    line = json.loads(replace(result, explanation=broken).to_json(), parse_constant=refuse)
    assert line["top"][0]["probability"] is None and line["peak"] is None


def test_lines_are_there_at_once(result: Result, tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "e.jsonl", live=True)
    for count in (1, 2, 3):
        sink.write(result)
        assert len([json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]) == count
    sink.close()


def test_rotation_by_time_and_by_size(result: Result, tmp_path: Path, clock: list[float]) -> None:
    video, events = (
        Video(tmp_path / "o.mp4", 25.0, live=True, rotation=Rotation(seconds=2.0)),
        JsonLines(tmp_path / "e.jsonl", live=True, rotation=Rotation(size=2000)),
    )
    for _ in range(60):
        video.write(result)
        events.write(result)
        clock[0] += 0.1
    video.close()
    events.close()
    videos, lines = sorted(tmp_path.glob("o-*.mp4")), sorted(tmp_path.glob("e-*.jsonl"))
    assert len(videos) == 3 and sum(len(times(path)) for path in videos) == 60
    assert len(lines) > 3 and sum(len(path.read_text().splitlines()) for path in lines) == 60
    assert all(path.stat().st_size < 2000 + len(result.to_json()) + 1 for path in lines)


def test_a_picture_of_another_size_is_fitted(result: Result, tmp_path: Path) -> None:
    sink = Video(tmp_path / "o.mp4", 25.0, live=True)
    for shape in ((90, 160), (160, 90), (31, 47)):
        sink.write(replace(result, picture=np.full((*shape, 3), 200, np.uint8)))
    sink.close()
    with av.open(str(tmp_path / "o.mp4")) as container:
        pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert {picture.shape for picture in pictures} == {(90, 160, 3)}
    assert pictures[1][45, 80].min() > 180 and pictures[1][45, 5].max() < 30  # proportions kept, black beside it
    assert fitted(np.full((10, 20, 3), 9, np.uint8), 40, 40)[20].min() == 9


def test_files_are_still_replaced_whole(result: Result, tmp_path: Path) -> None:
    (tmp_path / "o.mp4").write_text("older")
    sink = Video(tmp_path / "o.mp4", 25.0)
    for _ in range(30):
        sink.write(result)
    assert (tmp_path / "o.mp4").read_text() == "older"
    sink.close()
    assert len(times(tmp_path / "o.mp4")) == 30 and not list(tmp_path.glob(".*"))
    data = (tmp_path / "o.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat") and b"moof" not in data  # players can seek at once


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("name", ["o.mp4", "e.jsonl", "p"])
def test_a_place_has_one_writer_until_it_is_closed(result: Result, tmp_path: Path, clock: list[float], live: bool, name: str) -> None:
    rotation = Rotation(seconds=5) if live and name != "p" else None
    first = open_sink(str(tmp_path / name), 25.0, live=live, rotation=rotation)
    for _ in range(3):  # it begins new files on the way
        first.write(result)
        clock[0] += 6
        with pytest.raises(SinkError, match=f"{name} is being written by another run"):
            open_sink(str(tmp_path / name), 25.0, live=live, rotation=rotation)
    first.close()
    again = open_sink(str(tmp_path / name), 25.0, live=live, rotation=rotation)
    again.write(result)
    again.close()
    with pytest.raises(SinkError, match=r"cannot be (written|made)"):  # and what cannot be opened claims nothing
        open_sink(str(tmp_path / "none" / name if name != "p" else Path("/proc/p")), 25.0, live=live)
    assert not list(tmp_path.rglob(".*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_error_and_what_was_written_stays(result: Result, small_disk: Path) -> None:
    for sink in (JsonLines(small_disk / "e.jsonl", live=True), Video(small_disk / "o.mp4", 25.0, live=True)):
        with pytest.raises(SinkError, match=r"cannot be written: No space left on device"):
            for _ in range(5000):
                sink.write(result)
        with suppress(SinkError):
            sink.close(complete=False)
    assert all(json.loads(line) for line in (small_disk / "e.jsonl").read_text().splitlines())
    (small_disk / "e.jsonl").unlink()
    sink = Video(small_disk / "p.mp4", 25.0, live=True)
    sink.write(result)
    sink.close()
    assert len(times(small_disk / "p.mp4")) == 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_what_a_camera_records_is_the_users_alone_whatever_the_umask(result: Result, tmp_path: Path, umask: int) -> None:
    """Outputs of files can be made again, and are as the user's other files."""
    for live in (True, False):
        folder = tmp_path / str(live)
        folder.mkdir()
        before = os.umask(umask if live else umask & 0o022)
        try:
            for name in ("a.mp4", "a.jsonl", "pictures/"):
                sink = open_sink(f"{folder}/{name}", 10.0, live=live)
                sink.write(result)
                sink.close()
        finally:
            os.umask(before)
        modes = {path.name: path.stat().st_mode & 0o777 for path in sorted(folder.rglob("*"))}
        file, inner = (0o600, 0o700) if live else (0o666 & ~(umask & 0o022), 0o777 & ~(umask & 0o022))
        assert modes == {"a.mp4": file, "a.jsonl": file, "pictures": inner, "000000.png": file}


def test_a_wall_clock_that_jumps_overwrites_nothing(
    result: Result, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still, goes back to a second that had a file, and on again: every line is in one of the files, ages hold."""
    stamps = iter(["20260101T000002Z", "20260101T000002Z", "20260101T000001Z", "20260101T000002Z", "20250101T000000Z"])
    monkeypatch.setattr(recording.time, "strftime", lambda *words: next(stamps))
    sink = JsonLines(tmp_path / "o.jsonl", live=True, rotation=Rotation(seconds=1.0))
    for number in range(5):
        sink.write(replace(result, frame=replace(result.frame, index=number)))
        clock[0] += 1.0
    sink.close()
    found = {path.name: [json.loads(line)["frame"] for line in path.read_text().splitlines()] for path in tmp_path.glob("o*")}
    assert found == {
        "o-20260101T000002Z.1.jsonl": [0],
        "o-20260101T000002Z.2.jsonl": [1],
        "o-20260101T000001Z.jsonl": [2],
        "o-20260101T000002Z.jsonl": [3],
        "o-20250101T000000Z.jsonl": [4],
    }
