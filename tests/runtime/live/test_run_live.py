"""dk-run over cameras, as a process: what breaks, signals, recordings, configuration, messages."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner

from dkcam.tools.run_command import main
from tests.runtime.live.camera_server import CameraServer, free_port, wait_until
from tests.runtime.live.relay import Relay

DEBIAN_PYTHON = "/usr/bin/python3"


@pytest.fixture
def server() -> Iterator[CameraServer]:
    made = CameraServer(30)
    yield made
    made.kill()


class Run:
    """dk-run in a process of its own."""

    def __init__(self, model: Path, folder: Path, *words: object, patch: str = "") -> None:
        command = [sys.executable, "-c", f"{patch}\nfrom dkcam.tools.run_command import entry; entry()", "--model", model, *words]
        self.said = folder / "stderr.txt"
        self._stderr = self.said.open("w")
        given = [str(word) for word in command]
        self.process = subprocess.Popen(given, cwd=folder, stderr=self._stderr, stdout=subprocess.PIPE, text=True, start_new_session=True)

    def wait_for(self, path: Path, lines: int = 5, seconds: float = 30) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.said.read_text()
            return path.exists() and path.read_text().count("\n") >= lines

        wait_until(there, seconds)

    def decoders(self) -> list[int]:
        """Numbers of the processes it started."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for task in tasks for word in task.read_text().split()]

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float, str]:
        """Exit code, seconds it took, what it printed."""
        start = time.perf_counter()
        if how == signal.SIGINT:
            os.killpg(self.process.pid, how)  # as a terminal does: everything it started hears it, too
        else:
            self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=20)
        self._stderr.close()
        return self.process.returncode, time.perf_counter() - start, out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("how", "state", "count"), [(signal.SIGINT, "silent", 1), (signal.SIGTERM, "half", 3), (signal.SIGTERM, "mute", 1)]
)
def test_signals_finish_files_whatever_the_cameras_do(
    model_file: Path, server: CameraServer, tmp_path: Path, how: signal.Signals, state: str, count: int
) -> None:
    """The decoders hang in a read, in mid-picture, or in a connection that is being made, while they are told to stop."""
    relays = [Relay(server.port) for _ in range(count)]
    sources = [word for relay in relays for word in ("--source", f"http://127.0.0.1:{relay.port}/video")]
    run = Run(model_file, tmp_path, *sources, "--sink", "o.mp4", "--sink", "e.jsonl", "--sink", "http://127.0.0.1:0")
    run.wait_for(tmp_path / "e.jsonl")
    for relay in relays:
        relay.how = state
        if state == "mute":
            relay.cut()
    if state == "mute":
        wait_until(lambda: "trying again" in run.said.read_text())
        time.sleep(0.6)  # the first delay is over
    children = run.decoders()
    assert {os.getsid(pid) for pid in children} == set(children)  # Ctrl-C in a terminal does not reach them
    code, seconds, out = run.end(how)
    assert code == 0 and seconds < 2.5, run.said.read_text()
    assert "its decoder" not in run.said.read_text()
    assert "wrote o.mp4" in out and "wrote e.jsonl" in out and "frames/s" in out
    assert len(children) == count and not any(Path(f"/proc/{pid}").exists() for pid in children)
    assert all(set(line) >= {"frame", "reopened", "stale"} for line in lines(tmp_path / "e.jsonl"))
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 5
    for relay in relays:
        relay.close()


def test_a_signal_before_the_first_frame_ends_the_run_well(model_file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        run = Run(model_file, tmp_path, "--source", f"http://127.0.0.1:{mute.getsockname()[1]}/", "--sink", "e.jsonl")
        client, _ = mute.accept()
        code, seconds, _ = run.end()
        client.close()
        assert code == 0 and seconds < 2.5 and "stopped by SIGTERM before the first frame" in run.said.read_text()
        assert not list(tmp_path.glob("*.jsonl"))


HUNG_ENGINE = """
from dkcam.runtime.explainer import Explainer
said, before = [], Explainer.infer_many
def infer_many(self, *given, **more):
    said.append(1)
    time.sleep(30 if len(said) > 12 else 0)
    return before(self, *given, **more)
Explainer.infer_many = infer_many
"""
HUNG_SINK = """
import ctypes
from dkcam.runtime.recording import Video
written, before = [], Video.write
lock, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
def write(self, result):
    written.append(1)
    if len(written) > 8:
        for _ in range(2):
            libc.pthread_mutex_lock(lock)  # the second time for ever, and no signal ends it
    return before(self, result)
Video.write = write
"""


@pytest.mark.parametrize(("patch", "code", "words"), [(HUNG_ENGINE, 0, "stopped by SIGTERM"), (HUNG_SINK, 1, "o.mp4 did not answer")])
def test_an_engine_or_an_output_that_hangs_is_left_behind(
    model_file: Path, server: CameraServer, tmp_path: Path, patch: str, code: int, words: str
) -> None:
    run = Run(model_file, tmp_path, "--source", server.uri, "--sink", "e.jsonl", "--sink", "o.mp4", patch="import time" + patch)
    run.wait_for(tmp_path / "e.jsonl")
    time.sleep(1.0)  # it hangs by now
    children = run.decoders()
    ended, seconds, out = run.end()
    assert ended == code and seconds < 2.5 and words in run.said.read_text(), run.said.read_text()
    assert "wrote e.jsonl" in out
    assert all(line["frame"] >= 0 for line in lines(tmp_path / "e.jsonl"))
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 2)


def test_a_decoder_that_is_killed_costs_its_own_camera_a_reconnect(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    run = Run(model_file, tmp_path, "--source", server.uri, "--source", server.uri + "?2", "--sink", "{camera}.jsonl")
    run.wait_for(tmp_path / "1.jsonl")
    hit = min(run.decoders())  # the first that was started
    os.kill(hit, signal.SIGSEGV)
    wait_until(lambda: "is back" in run.said.read_text())
    run.wait_for(tmp_path / "1.jsonl", len(lines(tmp_path / "1.jsonl")) + 5)
    assert run.end()[0] == 0
    reopened = sorted(lines(tmp_path / f"{camera}.jsonl")[-1]["reopened"] for camera in (0, 1))
    assert reopened == [0, 1] and "its decoder was killed by SIGSEGV; trying again" in run.said.read_text()


def test_sigterm_with_someone_watching(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    run = Run(model_file, tmp_path, "--source", server.uri, "--sink", "e.jsonl", "--sink", "http://127.0.0.1:0")
    run.wait_for(tmp_path / "e.jsonl")
    assert run.process.stdout is not None
    address = run.process.stdout.readline().split()[-1]
    run.process.send_signal(signal.SIGUSR1)  # there is no flight recorder: a note, and the run goes on
    with urllib.request.urlopen(f"{address}/stream.mjpg", timeout=5) as stream:
        assert b"--frame" in stream.read(1000)
        code, seconds, _ = run.end()
    assert code == 0 and seconds < 2.5
    said = run.said.read_text()
    assert "Traceback" not in said and "SIGUSR1 writes the flight recorder, and there is none" in said


def test_messages_that_nobody_can_read_end_nothing(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from dkcam.tools.run_command import entry; entry()", "--model", model_file, "--source", server.uri]
    run = subprocess.Popen([*map(str, words), "--sink", "e.jsonl"], cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert run.stderr is not None and run.stdout is not None
    wait_until(lambda: (tmp_path / "e.jsonl").exists(), 30)
    run.stderr.close()
    server.faults.append("end")  # a warning that cannot be written
    wait_until(lambda: not server.faults)
    before = len(lines(tmp_path / "e.jsonl"))
    wait_until(lambda: len(lines(tmp_path / "e.jsonl")) > before + 5)
    run.terminate()
    assert run.wait(5) == 0
    run.stdout.close()


def test_a_server_that_is_killed_again_and_again(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    run = Run(model_file, tmp_path, "--source", server.uri, "--sink", "e.jsonl", "--log", "json")
    run.wait_for(tmp_path / "e.jsonl")
    rng = random.Random(0)
    for _ in range(3):
        server.kill()
        time.sleep(rng.uniform(0.05, 0.6))
        before = len(lines(tmp_path / "e.jsonl"))
        server.start()
        run.wait_for(tmp_path / "e.jsonl", before + 5, 4)
        time.sleep(rng.uniform(0, 0.3))
    code, _, out = run.end()
    messages = lines(run.said)
    assert all(set(message) == {"time", "level", "message"} for message in messages)
    back = sum("is back" in message["message"] for message in messages)
    assert code == 0 and back >= 3 and f"lost and back {back} times" in out
    assert lines(tmp_path / "e.jsonl")[-1]["reopened"] == back


def test_kill_9_leaves_what_was_there(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    rng = random.Random(1)
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Run(model_file, folder, "--source", server.uri, "--sink", "o.mp4", "--sink", "e.jsonl")
        run.wait_for(folder / "e.jsonl", 75)
        time.sleep(rng.uniform(0, 1))
        run.end(signal.SIGKILL)
        whole = (folder / "e.jsonl").read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        with av.open(str(folder / "o.mp4")) as container:
            shown = [float(frame.time or 0) for frame in container.decode(video=0)]
        assert found[-1]["time_s"] - found[0]["time_s"] - shown[-1] < 2.0


def test_a_camera_that_is_not_there_yet(model_file: Path, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}/video"
    refused = CliRunner().invoke(main, ["--model", str(model_file), "--source", uri, "--headless"])
    assert refused.exit_code == 1 and "connection refused; check the camera, or start with --wait" in refused.stderr
    run = Run(model_file, tmp_path, "--source", uri, "--sink", "e.jsonl", "--wait")
    time.sleep(1.0)
    server = CameraServer(30, port)
    run.wait_for(tmp_path / "e.jsonl")
    assert run.end()[0] == 0
    server.kill()


def test_two_cameras_a_sink_each_and_the_page(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    second = CameraServer(15)
    run = Run(
        model_file, tmp_path, "--source", server.uri, "--source", second.uri, "--sink", "{camera}.jsonl", "--sink", "all.mp4",
        "--sink", "pictures/", "--sink", "http://127.0.0.1:0",
    )  # fmt: skip
    run.wait_for(tmp_path / "1.jsonl")
    assert run.process.stdout is not None
    address = run.process.stdout.readline().split()[-1]
    second.kill()
    wait_until(lambda: b'"lost":[1]' in _body(f"{address}/healthz"))
    assert run.end()[0] == 0
    for camera in (0, 1):
        found = lines(tmp_path / f"{camera}.jsonl")
        assert {line["camera"] for line in found} == {camera}
        assert len(list((tmp_path / "pictures").glob(f"{camera}-*.png"))) >= len(found) - 1
    with av.open(str(tmp_path / "all.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (256, 96)


def _body(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return error.read()


def test_sigusr1_writes_the_flight_recorder_and_it_replays(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    run = Run(model_file, tmp_path, "--source", server.uri, "--sink", "e.jsonl", "--flight-recorder", "flight", "--flight-seconds", "1")
    run.wait_for(tmp_path / "e.jsonl", 45)
    run.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: list((tmp_path / "flight").glob("*.zip")))
    assert run.end()[0] == 0
    (dump,) = (tmp_path / "flight").glob("*.zip")
    again = CliRunner().invoke(main, ["--replay", str(dump)])
    assert again.exit_code == 0 and "(SIGUSR1)" in again.output and "differ by 0.0e+00" in again.output


def test_a_full_disk_ends_the_recording_and_not_the_run(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small tmpfs")
    try:
        (small / "earlier.txt").write_text("kept")
        run = Run(model_file, tmp_path, "--source", server.uri, "--sink", small / "o.mp4", "--sink", "e.jsonl")
        wait_until(lambda: "No space left" in run.said.read_text(), 40)
        run.wait_for(tmp_path / "e.jsonl", len(lines(tmp_path / "e.jsonl")) + 20)
        code, _, out = run.end()
        assert code == 0 and "wrote e.jsonl" in out
        assert run.said.read_text().count("No space left") == 1
        assert (small / "earlier.txt").read_text() == "kept"
        with av.open(str(small / "o.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) > 0
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_configuration_file_says_what_flags_say(model_file: Path, server: CameraServer, tmp_path: Path) -> None:
    config = tmp_path / "car.toml"
    config.write_text(
        f'model = "{model_file}"\nsource = ["{server.uri}"]\nsink = "{tmp_path}/e.jsonl"\nheadless = true\nmax-frames = 4\n'
        'explain = ["stop", "yield"]\nmax-age = 0.5\nrotate = "10min"\n[provider-option]\n'
    )
    result = CliRunner().invoke(main, ["--config", str(config), "--max-frames", "2"])
    assert result.exit_code == 0, result.output
    (written,) = tmp_path.glob("e-*.jsonl")
    found = lines(written)
    assert len(found) == 2 and found[0]["explained"] == ["stop", "yield"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sorce = 'x'", "sorce is no flag of this command; did you mean source?"),
        ("alpha = 'much'", "alpha: 'much' is not a valid float"),
        ("max-frames = 0", "max-frames: 0 is not in the range"),
        ("grid = '3'", "grid: '3' is not a size"),
        ("headless = 'yes'", "headless: 'yes' is neither true nor false"),
        ("layout = 'up'", "layout: 'up' is not one of"),
        ("alpha = ", "is not TOML"),
        ("alpha = " + "[" * 50000, "is not TOML"),
        ("config = 'x'", "config is no flag"),
        ("rotate = '10 parsecs'", "no time or size"),
        ("threads = " + "9" * 5000, "is not TOML"),
        ("source = [['a', 'b'], {c = 1}]", "source: expected a text, a number, true or false, or a list of them"),
        ("[provider-option]\na = ['b']", "provider-option: expected a text"),
        ('sink = "a\\u0000b/"', "sink: no text may hold a zero character"),
        ("alpha = 2020-01-01", "alpha: expected a text, a number"),
    ],
)
def test_a_configuration_file_with_a_mistake(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "c.toml")])
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 1 and len(errors) == 1 and words in errors[0] and "c.toml" in errors[0], result.output


def test_a_pipeline_of_a_file_that_others_can_change_is_refused(model_file: Path, tmp_path: Path) -> None:
    """It can write files. One that is the user's own goes to OpenCV as it stands, in one piece."""
    config = tmp_path / "c.toml"
    config.write_text('source = "videotestsrc ! video/x-raw,format=BGR ! appsink"\nheadless = true\n')
    for mode, words in (
        (0o664, f"{config} gives a GStreamer pipeline and can be changed by others (mode 664); chmod go-w {config}"),
        (0o644, "error: videotestsrc ! video/x-raw,format=BGR ! appsink: this OpenCV was built without GStreamer"),
    ):
        config.chmod(mode)
        result = CliRunner().invoke(main, ["--config", str(config), "--model", str(model_file)])
        assert result.exit_code == 1 and words in result.stderr, result.output


def test_a_token_file_that_others_can_read_is_refused(model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "token.txt"
    path.write_text("0123456789abcdef\n")
    for mode, code in ((0o644, 1), (0o640, 1), (0o600, 0), (0o400, 0)):
        path.chmod(mode)
        words = ["--model", str(model_file), "--source", "demo:frames=1", "--headless", "--token-file", str(path)]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == code and ("chmod 600" in result.stderr) == bool(code), result.output


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--source", "demo:", "--source", "rtsp://x/y"], "cameras never end"),
        (["--source", "http://x/y", "--source", "http://x/y"], "a camera is given twice"),
        (["--source", "demo:", "--rotate", "1h"], "--rotate is for cameras"),
        (["--source", "http://x/y", "--source", "http://x/z", "--sink", "{camera}.mp4", "--sink", "1.mp4"], "1.mp4 is given twice"),
        (["--source", "demo:", "--sink", "{camera}.mp4"], "{camera} in --sink is for cameras"),
        (["--source", "demo:", "--flight-recorder", "x"], "--flight-recorder is for cameras"),
        (["--source", "demo:", "--token", "a", "--token-file", "b"], "both given"),
        (["--source", "demo:", "--token-file", "nowhere"], "nowhere does not exist"),
        (["--source", "demo:", "--token", " "], "the token is empty"),
        (["--source", "demo:", "--token", "fifteen letters"], "the token has 15 characters, which can be guessed; expected 16 or more"),
        (["--source", "csi://0 ! filesink location=x ! appsink"], "is no camera of a Jetson; expected csi:// and its number"),
        (["--source", "csi://١"], "is no camera of a Jetson"),
        (["--source", "demo:frames=99999999999999999999"], "is not understood; expected demo:"),
        (["--source", f"demo:frames=2&seed={10**400}"], "is not understood; expected demo:"),
    ],
)
def test_flags_that_contradict_each_other(model_file: Path, given: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["--model", str(model_file), "--headless", *given])
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 1 and len(errors) == 1 and words in errors[0], result.output


def test_rtsp(model_file: Path, tmp_path: Path) -> None:
    """Debian's GStreamer serves; the server is killed and started again."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(DEBIAN_PYTHON).exists() or subprocess.run([DEBIAN_PYTHON, "-c", check], capture_output=True).returncode:
        pytest.skip("Debian's gir1.2-gst-rtsp-server-1.0 is not installed")
    port = free_port()

    def serve() -> subprocess.Popen[str]:
        script = Path(__file__).with_name("rtsp_server.py")
        server = subprocess.Popen([DEBIAN_PYTHON, str(script), str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        server.stdout.close()
        return server

    server = serve()
    run = Run(model_file, tmp_path, "--source", f"rtsp://me:secret@127.0.0.1:{port}/camera", "--sink", "e.jsonl", "-v")
    run.wait_for(tmp_path / "e.jsonl")
    server.kill()
    server.wait()
    server = serve()
    run.wait_for(tmp_path / "e.jsonl", len(lines(tmp_path / "e.jsonl")) + 10, 12)
    code, seconds, out = run.end()
    server.kill()
    server.wait()
    found = lines(tmp_path / "e.jsonl")
    assert code == 0 and seconds < 2.5 and found[-1]["reopened"] >= 1
    assert "secret" not in out + run.said.read_text() + (tmp_path / "e.jsonl").read_text()
