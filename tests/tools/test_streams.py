"""Closed, broken and unread stdin, stdout and stderr."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dkcam.tools import streams
from tests.runtime.live.camera_server import wait_until


def started(command: str, *given: object, closed: str = "", **how: object) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own, some of its streams closed, as a shell's 2>&- does it."""
    name, entry = ("run_command", "entry") if command == "run" else (f"{command}_command", "main")
    words = [sys.executable, "-c", f"from dkcam.tools.{name} import {entry}; {entry}()", *map(str, given)]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], timeout=120, **how)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_dk_run_with_closed_streams(model_file: Path, tmp_path: Path, closed: str) -> None:
    given = ["--model", model_file, "--source", "demo:frames=3", "--headless", "--sink", tmp_path / "e.jsonl"]
    done = started("run", *given, closed=closed)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert (tmp_path / "e.jsonl").read_text().count("\n") == 3
    assert (b"3 frames" in done.stdout) is (" >&-" not in f" {closed}")


@pytest.mark.parametrize(
    ("command", "given", "code"),
    [
        ("export", ["model.pt", "--no-verify"], 0),
        ("check", ["picture.png", "--against", "model.onnx", "--model", "model.onnx", "--report", "out"], 0),
        ("train", ["nothing", "-o", "trained.pt"], 1),
        ("paper", ["-o", "paper", "--data", "nothing"], 1),
        ("bench", ["--model", "nothing.onnx"], 1),
        ("run", ["--source", "nothing.mp4", "--headless"], 1),
    ],
)
def test_every_command_with_all_three_closed(
    model_file: Path, checkpoint_file: Path, tmp_path: Path, command: str, given: list[str], code: int
) -> None:
    if command == "check":
        (tmp_path / "model.onnx").symlink_to(model_file)
    cv2.imwrite(str(tmp_path / "picture.png"), np.full((64, 96, 3), 90, np.uint8))
    done = started(command, *given, closed="<&- >&- 2>&-", cwd=tmp_path)
    assert done.returncode == code
    assert command != "export" or (tmp_path / "model.onnx").stat().st_size > 1000
    assert command != "check" or (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_reader_that_has_gone_costs_the_words_alone(model_file: Path, tmp_path: Path, command: str) -> None:
    given = {
        "run": ["--model", model_file, "--source", "demo:frames=3", "--headless", "--sink", "e.jsonl"],
        "check": ["p.png", "--model", model_file, "--against", model_file, "--report", "out"],
    }[command]
    cv2.imwrite(str(tmp_path / "p.png"), np.full((64, 96, 3), 90, np.uint8))
    ours, theirs = os.pipe()
    os.close(ours)
    done = started(command, *given, cwd=tmp_path, stdout=theirs)
    os.close(theirs)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and b"Broken pipe" not in done.stderr
    assert (tmp_path / {"run": "e.jsonl", "check": "out/report.html"}[command]).stat().st_size > 100


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ours, theirs = os.pipe()
    yield ours, theirs
    os.close(ours)


def lost(count: int) -> str:
    return f"{count} lost\n"


def fill(descriptor: int) -> int:
    """Write zeros until a pipe takes no more; how many it took."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    size = 0
    try:
        while True:
            size += os.write(descriptor, bytes(4096))
    except BlockingIOError:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
        return size


def read(descriptor: int, whole: Callable[[bytes], bool]) -> bytes:
    data = b""
    while not whole(data):
        data += os.read(descriptor, 1 << 16)
    return data


def test_what_nobody_reads_is_dropped_counted_and_told_where_it_is_missing(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    size = fill(theirs)
    stream = streams.Unwaiting(theirs, "utf-8", lost)
    line = "x" * 999 + "\n"
    for _ in range(1000):  # none of them waits, although nobody reads
        print(line, end="", file=stream)
    data = read(ours, lambda data: b"lost\n" in data)[size:]
    print("äfter", file=stream)
    data += read(ours, lambda data: data.endswith("äfter\n".encode()))
    *kept, told, after = data.decode().splitlines()
    assert set(kept) == {line.strip()} and len(kept) in (streams.MOST // 1000, streams.MOST // 1000 + 1)
    assert told == f"{1000 - len(kept)} lost" and after == "äfter"


def test_the_end_waits_half_a_second_for_a_reader_and_no_longer(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pipe
    monkeypatch.setattr(streams.Unwaiting, "_patience", 0.5)
    one = streams.Unwaiting(theirs, "utf-8", lost)
    one.write("in time")
    one.drain()
    assert os.read(ours, 100) == b"in time" and streams.Unwaiting._patience > 0
    fill(theirs)
    one.write("late")
    for _ in range(3):
        one.drain()
    assert streams.Unwaiting._patience == 0.0
    monkeypatch.setattr(streams.Unwaiting, "_patience", 30.0)
    one.drain()  # who has taken nothing for half a second is not waited for again
    assert streams.Unwaiting._patience > 20


def test_a_signals_handler_may_write_while_its_thread_does(pipe: tuple[int, int]) -> None:
    ours, theirs = pipe
    stream = streams.Unwaiting(theirs, "utf-8", lost)
    before = signal.signal(signal.SIGALRM, lambda number, frame: print("from the handler", file=stream))
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(read(ours, lambda data: data.endswith(b"last\n"))), daemon=True)
    reader.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
        for _ in range(20000):
            stream.write("a line\n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: stream._size == 0)
    stream.write("last\n")
    reader.join(10)
    assert got and b"from the handler\n" in got[0]


def test_native_libraries_do_not_wait_either() -> None:
    code = """
import os, sys
from dkcam.tools import logs, streams
streams.settle()
logs.configure()
for _ in range(100):
    try:
        os.write(2, bytes(4096))  # as C code does
    except BlockingIOError:
        pass
print("done")
streams.finish()
"""
    run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None and run.stderr is not None
    try:
        assert run.wait(20) == 0 and run.stdout.read() == b"done\n"
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
        run.stderr.close()
