"""What decoder processes give up, tried from inside; and the numbers of system calls against the system's headers."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dkcam.runtime.live.decoder import Decoder, PictureDecoder, confine
from tests.runtime.live.camera_server import CameraServer

MORE = ("signal by descriptor", "which signal", "mode by descriptor", "priority of others", "shared memory")
TRY = """
import errno, fcntl, json, mmap, os, socket, subprocess, sys, threading
sys.path[:] = json.loads(sys.argv[1])
from dkcam.runtime.live.decoder import confine
place = sys.argv[2]

def word(work):
    try:
        work()
    except MemoryError:
        return "no memory"
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def everything():
    return {
        "read": word(lambda: open(place).read()),
        "write": word(lambda: open(place, "a")),
        "create": word(lambda: open(place + ".new", "x")),
        "remove": word(lambda: os.unlink(place)),
        "rename": word(lambda: os.rename(place, place + ".new")),
        "program": word(lambda: subprocess.run(["true"])),
        "fork": word(os.fork),
        "signal others": word(lambda: os.kill(os.getppid(), 0)),
        "signal itself": word(lambda: os.kill(os.getpid(), 0)),
        "signal by descriptor": word(lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())),
        "which signal": word(lambda: fcntl.fcntl(0, 10, 9)),
        "flags": word(lambda: fcntl.fcntl(0, fcntl.F_GETFL)),
        "mode by descriptor": word(lambda: os.fchmod(os.open(place, os.O_RDONLY), 0o666)),
        "priority of others": word(lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)),
        "shared memory": word(lambda: mmap.mmap(-1, 1 << 20)),
        "thread": word(lambda: threading.Thread(target=lambda: None).start()),
        "connect": word(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
        "listen": word(lambda: socket.create_server(("127.0.0.1", 0))),
        "64 MB": word(lambda: bytearray(64 << 20)),
        "256 MB": word(lambda: bytearray(256 << 20)),
    }

results = []
confine.limit(128 << 20)
results.append(everything())
confine.leave_network()
results.append(everything())
thread = threading.Thread(target=lambda: results.append(everything()))
thread.start()
thread.join()
print(json.dumps(results))
"""


def test_what_is_given_up_is_gone_for_every_thread(tmp_path: Path) -> None:
    if platform.machine() not in confine.MACHINES or sys.platform != "linux":
        pytest.skip("no filter is known for this machine")
    place = tmp_path / "file"
    place.write_text("here")
    done = subprocess.run([sys.executable, "-c", TRY, json.dumps(sys.path), place], capture_output=True, text=True, timeout=60)
    connected, *left = json.loads(done.stdout)
    kept = {"flags": "done", "read": "done", "signal itself": "done", "thread": "done", "64 MB": "done"}
    refused = dict.fromkeys(("write", "create", "remove", "rename", "program", "fork", "signal others", *MORE), "EPERM") | {
        "256 MB": "no memory"
    }
    assert connected == {**kept, **refused, "connect": "ECONNREFUSED", "listen": "done"}
    assert left == [{**kept, **refused, "connect": "EPERM", "listen": "EPERM"}] * 2
    assert place.read_text() == "here" and list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_those_of_the_system(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not here (Debian's linux-libc-dev)")
    real = {one[1]: int(one[2]) for one in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())}
    calls = confine.MACHINES[machine].calls
    assert {name: real.get(name, number if number > max(real.values()) else None) for name, number in calls.items()} == calls  # newer ones


def filters(pid: int | None) -> int:
    """How many the kernel runs over that process's system calls."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("Seccomp_filters:")[2].split()[0])


def test_decoders_of_cameras_and_of_pictures_have_given_it_up(server: CameraServer) -> None:
    if platform.machine() not in confine.MACHINES or sys.platform != "linux":
        pytest.skip("no filter is known for this machine")
    own = filters(os.getpid())
    camera, pictures = Decoder(server.uri, 2.0), PictureDecoder()
    camera.open()
    with pytest.raises(Exception, match="no picture"):
        pictures.decode(b"x")
    for pid in (camera.pid, pictures.pid):
        assert filters(pid) == own + 2
        limits = Path(f"/proc/{pid}/limits").read_text()
        taken = {name: re.search(rf"{name} +(\S+)", limits)[1] for name in ("Max data size", "Max core file size", "Max file size")}  # type: ignore[index]
        assert taken["Max core file size"] == taken["Max file size"] == "0" and int(taken["Max data size"]) < 1 << 30
    camera.close()
    pictures.close()
