"""The flight recorder's dumps say the same again."""

from __future__ import annotations

import json
import os
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dkcam
from dkcam.export.exporter import export
from dkcam.export.options import ExportOptions
from dkcam.runtime.controls import Style
from dkcam.runtime.delivery import Explained, result_of
from dkcam.runtime.frame import Frame
from dkcam.runtime.grid import grid_explainer
from dkcam.runtime.live import flight as flight_module
from dkcam.runtime.live.flight import FlightRecorder, difference
from dkcam.runtime.result import Alarm
from dkcam.tools.run_command import main
from tests.conftest import tiny_checkpoint
from tests.memory import command, one_line
from tests.runtime.live.camera_server import wait_until
from tests.standins import balance, square_finder, squares


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(flight_module.time, "monotonic", lambda: now[0])
    return now


def recorded(
    model: Path, folder: Path, clock: list[float], *, options: ExportOptions | None = None, grid: Any = None, picture: Any = None
) -> tuple[FlightRecorder, Callable[..., None]]:
    """A recorder of three seconds, and what adds a frame to it."""
    explainer = grid_explainer(dkcam.load(model, device="cpu"), grid, None)
    about = {"model": str(model), "resize": None, "grid": grid, "background": None, "seed": 0}
    recorder = FlightRecorder(folder, 3.0, lambda: explainer, about)
    rng = np.random.default_rng(0)

    def add(
        classes: tuple[int, ...] | None = None, alarms: tuple[Alarm, ...] = (), *, masks: bool = True, size: tuple[int, int] = (90, 160)
    ) -> None:
        image = rng.integers(0, 255, (*size, 3), dtype=np.uint8) if picture is None else picture
        said = explainer.infer(explainer.prepare(image), classes, masks=masks)
        done = Explained(Frame(image, 0, "camera", 0.0), said, 0.0, 0.0, 0.0, time.perf_counter(), masks)
        recorder.add(replace(result_of(done, style=Style(), watch=None, picture=False, fps=None, dropped=0), alarms=alarms))
        clock[0] += 0.5

    return recorder, add


def replayed(*words: object) -> Any:
    return CliRunner().invoke(main, ["--replay", *map(str, words)])


def test_a_dump_holds_the_last_seconds_and_replays_exactly(model_file: Path, tmp_path: Path, clock: list[float]) -> None:
    recorder, add = recorded(model_file, tmp_path / "flight", clock)
    for number in range(12):
        add((1, 2) if number % 2 else None, size=(90, 160) if number % 3 else (64, 64))
    path = recorder.dump("test")
    assert path is not None
    with zipfile.ZipFile(path) as archive:
        assert len(json.loads(archive.read("flight.json"))["frames"]) == 7
        assert len(archive.read("results.jsonl").splitlines()) == 7
    result = replayed(path, "--sink", tmp_path / "again.jsonl", "--sink", f"{tmp_path}/pictures/")
    assert result.exit_code == 0 and "7 frames on cpu; heatmaps differ by 0.0e+00 of their maximum" in result.output, result.output
    assert len((tmp_path / "again.jsonl").read_text().splitlines()) == len(list((tmp_path / "pictures").iterdir())) == 7


def test_masks_grids_and_other_inputs_replay_too(tmp_path: Path, clock: list[float]) -> None:
    for name, options, grid in (
        ("masks", ExportOptions(size=(64, 96), samples=4, mask_ratio=0.4), None),
        ("grid", ExportOptions(size=(64, 96), dynamic=("batch",), batch=(1, 4)), (2, 2)),
        ("tensor", ExportOptions(size=(64, 96), input="tensor"), None),
    ):
        model = tmp_path / f"{name}.onnx"
        model.write_bytes(export(tiny_checkpoint(), options, check=False).data)
        recorder, add = recorded(model, tmp_path / name, clock, grid=grid)
        add()
        add(masks=False)
        path = recorder.dump("test")
        result = replayed(path)
        assert result.exit_code == 0 and "2 frames" in result.output, result.output
        # without the masks' state, one of them would differ
        clock[0] += 10


def test_detectors_and_regressors_replay_too(tmp_path: Path, clock: list[float]) -> None:
    for name, data in (("detector", square_finder()), ("regressor", balance())):
        model = tmp_path / f"{name}.onnx"
        model.write_bytes(data)
        recorder, add = recorded(model, tmp_path / name, clock, picture=squares(("red", 1, 2), ("red", 3, 2), ("blue", 4, 7)))
        add()
        add((0,))  # a detector shows more than one box of the class, in rows that ranks give
        add((-1,))
        path = recorder.dump("test")
        result = replayed(path, "--sink", tmp_path / f"{name}.jsonl")
        assert result.exit_code == 0 and "3 frames on cpu; heatmaps differ by 0.0e+00" in result.output, result.output
        assert "scores by 0.0e+00" in result.output
        clock[0] += 10


def altered(path: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    out = path.with_name("altered.zip")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            target.writestr(entry, change(data) if entry == name else data)
    return out


def packed(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_other_maps_are_noticed(model_file: Path, tmp_path: Path, clock: list[float]) -> None:
    recorder, add = recorded(model_file, tmp_path, clock)
    add()
    path = recorder.dump("test")
    assert path is not None

    def bent(data: bytes) -> bytes:
        heat = np.load(BytesIO(data))
        heat.flat[heat.argmax()] *= 0.99
        return packed(heat)

    result = replayed(altered(path, "000000.heatmap.npy", bent))
    assert result.exit_code == 3 and "not those that were recorded" in result.output


def test_what_cannot_be_replayed(model_file: Path, tmp_path: Path, clock: list[float]) -> None:
    recorder, add = recorded(model_file, tmp_path, clock)
    add()
    path = recorder.dump("test")
    assert path is not None
    other = tmp_path / "other.onnx"
    other.write_bytes(export(tiny_checkpoint(seed=1), ExportOptions(size=(64, 96)), check=False).data)
    (tmp_path / "half.zip").write_bytes(path.read_bytes()[:500])
    (tmp_path / "text.zip").write_text("hello")
    cases: list[tuple[list[object], str]] = [
        ([path, "--model", other], "was recorded with another model"),
        ([path, "--source", "demo:"], "--replay is a source of its own"),
        ([tmp_path / "none.zip"], "does not exist"),
        ([tmp_path / "half.zip"], "not a whole dump"),
        ([tmp_path / "text.zip"], "not a whole dump"),
        ([model_file], "not a whole dump"),
    ]
    for name, change, words in (
        ("flight.json", lambda data: data.replace(b'"format": 1', b'"format": 9'), "has format 9"),
        ("flight.json", lambda data: b"{}", "not a whole dump"),
        ("flight.json", lambda data: b"[]", "not a whole dump"),
        ("flight.json", lambda data: b"[" * 100_000, "nested too deeply"),
        ("flight.json", lambda data: data.replace(b'"grid": null', b'"grid": [64, 64]'), "its grid is [64, 64]"),
        (
            "flight.json",
            lambda data: re.sub(rb'"explained": \[[^]]*\]', b'"explained": [1' + b"0" * 400 + b"]", data),
            "a frame's classes are",
        ),
        ("flight.json", lambda data: re.sub(rb'"size": \[[^]]*\]', b'"size": [90, 1000000000]', data), "a frame's size is"),
        ("flight.json", lambda data: re.sub(rb'"camera": 0', b'"camera": [[]]', data), "a frame's camera or masks"),
        ("000000.input.npy", lambda data: lying(data, (1, 10**6, 10**6, 3)), "input.npy says it has 2861023 MiB, 18432 bytes at most"),
        ("000000.heatmap.npy", lambda data: lying(data, (1, 10**9, 10**9)), "heatmap.npy says it has"),
        ("000000.heatmap.npy", lambda data: lying(data, (1, 2, 10**4000)), "damaged at frame 0"),
        ("000000.scores.npy", lambda data: lying(data, (10**15,)), "scores.npy is float32 (10000000000000"),
        ("000000.heatmap.npy", lambda data: lying(data, (1, 2, 2)), "its header says 16"),
        ("flight.json", lambda data: data.replace(b'"grid": null', b'"grid": "2x2"'), "its grid is '2x2'"),
        ("flight.json", lambda data: data.replace(b'"background": null', b'"background": 7'), "is no text"),
        ("000000.scores.npy", lambda data: packed(np.zeros(3, np.float32)), "scores.npy is float32 (3,)"),
        ("000000.heatmap.npy", lambda data: packed(np.zeros(3, np.float32)), "heatmap.npy is float32 (3,)"),
        ("000000.jpg", lambda data: data[:100], "is damaged"),
        ("000000.input.npy", lambda data: data[:100], "is damaged"),
        ("000000.heatmap.npy", lambda data: b"", "is damaged"),
    ):
        bad = altered(path, name, change)
        cases.append(([bad.rename(tmp_path / f"bad{len(cases)}.zip")], words))
    flipped = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("000000.input.npy")
    start = entry.header_offset + 30 + len(entry.filename)
    for at in range(start + 10, start + 200):
        flipped[at] ^= 0xFF
    (tmp_path / "flipped.zip").write_bytes(bytes(flipped))
    cases.append(([tmp_path / "flipped.zip"], "is damaged"))
    for given, words in cases:
        result = replayed(*given)
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.exit_code == 1 and len(errors) == 1 and words in errors[0], (given, result.output)


def lying(data: bytes, shape: tuple[int, ...]) -> bytes:
    """The header says another shape than there is."""
    array = np.load(BytesIO(data))
    head = BytesIO()
    np.lib.format.write_array_header_2_0(head, {"descr": array.dtype.str, "fortran_order": False, "shape": shape})
    return head.getvalue() + array.tobytes()


@pytest.mark.parametrize("part", ["flight.json", "000000.jpg", "000000.heatmap.npy"])
def test_a_dump_that_unfolds_to_gigabytes_is_one_line(model_file: Path, tmp_path: Path, clock: list[float], part: str) -> None:
    """3 MB that were 4.3 GB; here 1 GB, in a process that gets 600 MB."""
    recorder, add = recorded(model_file, tmp_path, clock)
    add()
    path = recorder.dump("test")
    assert path is not None
    bomb, zeros = tmp_path / "bomb.zip", bytes(16 << 20)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name in old.namelist():
            with new.open(name, "w") as file:
                file.write(old.read(name))
                for _ in range(64 if name == part else 0):
                    file.write(zeros)
    assert bomb.stat().st_size < 10 << 20
    done = command("run", "--replay", bomb, "--model", model_file, "--device", "cpu", mib=600)
    assert one_line(done, "bomb.zip", "whole dump" if part == "flight.json" else "damaged at frame 0", part), done.stderr[-2000:]


def test_dumps_are_the_users_alone_and_what_a_kill_left_is_swept_up(model_file: Path, tmp_path: Path, clock: list[float]) -> None:
    folder = tmp_path / "a" / "flight"
    before = os.umask(0)
    try:
        recorder, add = recorded(model_file, folder, clock)
        add()
        path = recorder.dump("test")
    finally:
        os.umask(before)
    assert path is not None and path.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    left = folder / ".flight-20260101T000000Z.zip.0123abcd.part"
    left.write_bytes(b"half")
    mine = folder / "notes.part"
    mine.write_text("mine")
    recorded(model_file, folder, clock)
    assert sorted(folder.iterdir()) == sorted([path, mine])


def test_runs_that_share_a_folder_and_a_second_overwrite_nothing(
    model_file: Path, tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock stands still, goes back, and four recorders dump at once."""
    monkeypatch.setattr(flight_module.time, "strftime", lambda *words: "20260101T000000Z")
    several = [recorded(model_file, tmp_path / "flight", clock) for _ in range(4)]
    for _, add in several:
        add()
    for _ in range(3):
        for recorder, _ in several:
            recorder.dump_soon("test")
    for recorder, _ in several:
        recorder.finish(20.0)
    names = {path.name for path in (tmp_path / "flight").iterdir()}
    assert names == {f"flight-20260101T000000Z{f'-{k}' if k else ''}.zip" for k in range(12)}


def test_an_alarm_writes_a_dump_once(model_file: Path, tmp_path: Path, clock: list[float]) -> None:
    recorder, add = recorded(model_file, tmp_path, clock)
    alarm = (Alarm("sky", "fail", 0.5, "at most 0.1"),)
    for alarms in ((), (), alarm, alarm, (), alarm, alarm):
        add(alarms=alarms)
    wait_until(lambda: list(tmp_path.glob("flight-*.zip")))
    assert len(list(tmp_path.glob("flight-*.zip"))) == 1  # the second alarm came within three seconds
    for alarms in ((), (), (), alarm):
        add(alarms=alarms)
    wait_until(lambda: len(list(tmp_path.glob("flight-*.zip"))) == 2)
    recorder.finish()
    with zipfile.ZipFile(min(tmp_path.glob("flight-*.zip"), key=lambda p: p.stat().st_mtime)) as archive:
        assert json.loads(archive.read("flight.json"))["cause"] == "rule sky"


def test_a_dump_that_cannot_be_written_is_a_warning(
    model_file: Path, tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    logging.getLogger("dkcam").propagate = True
    recorder, add = recorded(model_file, tmp_path / "flight", clock)
    assert recorder.dump("nothing yet") is None
    add()
    (tmp_path / "flight").rmdir()
    (tmp_path / "flight").write_text("in the way")
    assert recorder.dump("test") is None and "could not be written" in caplog.text


def test_difference_is_a_share_of_each_class_maximum() -> None:
    one = np.array([[[1.0, 0.0]], [[100.0, 50.0]]], np.float32)
    two = np.array([[[1.0, 0.1]], [[100.0, 51.0]]], np.float32)
    assert difference(one, two) == pytest.approx(0.1)
    assert difference(one, one[:1]) == float("inf")
    assert difference(np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32)) == 0
