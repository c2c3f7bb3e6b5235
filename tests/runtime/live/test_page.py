"""The live page: who may see it, what it shows, what it changes, and what it survives."""

from __future__ import annotations

import json
import logging
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import dkcam
from dkcam.errors import InputError, SinkError
from dkcam.runtime.controls import Style
from dkcam.runtime.delivery import Explained, result_of
from dkcam.runtime.frame import Frame
from dkcam.runtime.live.page import PageSink, places
from dkcam.runtime.live.page import app as app_module
from dkcam.runtime.live.page import server as server_module
from dkcam.runtime.live.page.app import changes
from dkcam.runtime.live.page.hub import _Published
from dkcam.runtime.result import Live
from dkcam.spec import ExplanationSpec
from dkcam.tools.run_command import main
from tests.runtime.live import chromium
from tests.runtime.live.camera_server import wait_until
from tests.runtime.live.chromium import Chromium
from tests.runtime.live.feed import Feed
from tests.specs import model_spec

TOKEN = "correct horse Batterie für Stapel"


@pytest.fixture(scope="module")
def feed(model_file: Path) -> Iterator[Feed]:
    made = Feed(model_file)
    yield made
    made.close()


@pytest.fixture(scope="module")
def guarded(model_file: Path) -> Iterator[Feed]:
    made = Feed(model_file, token=TOKEN)
    yield made
    made.close()


def test_the_page_is_whole_and_asks_nobody_else(feed: Feed) -> None:
    for path, kind in (("/", "text/html"), ("/page.js", "javascript"), ("/page.css", "text/css")):
        status, headers, body = feed.ask("GET", path)
        assert status == 200 and kind in headers["content-type"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"http://" not in body and b"https://" not in body


def test_state_control_and_their_limits(feed: Feed) -> None:
    status, state = feed.json("GET", "/state")
    assert status == 200 and [camera["name"] for camera in state["cameras"]] == ["front", "rear"] and state["device"] == "cpu"
    status, state = feed.json("POST", "/control", {"alpha": 0.25, "colormap": "magma", "classes": ["stop", "-2"]})
    assert status == 200 and (state["alpha"], state["colormap"], state["classes"]) == (0.25, "magma", [1, -2])
    before = feed.controls.settings
    for bad, words in (
        ({"alpha": 2}, "alpha is 2.0, expected 0"),
        ({"alpha": True}, "is no setting"),
        ({"alpha": "1"}, "is no setting"),
        ({"colormap": "rainbow"}, "expected one of turbo"),
        ({"classes": ["stip"]}, "expected one of: stop"),
        ({"classes": ["stop"] * 9}, "expected 8 at most"),
        ({"classes": [{}]}, "is not a label"),
        ({"alpha": 10**400}, "is no setting"),
        ({"\ud800": 1}, "? : 1 is no setting".replace(" :", ":")),
        ({"wheels": 4}, "wheels: 4 is no setting"),
        ([], "expected an object"),
        ({}, "expected an object"),
    ):
        status, answer = feed.json("POST", "/control", bad)
        assert status == 400 and words in answer["error"], answer
    assert feed.controls.settings == before
    for body, expected in ((b"[" * 5000, 400), (b"\xff", 400), (b"x" * 20000, 413), (b'{"alpha": NaN}', 400)):
        assert feed.ask("POST", "/control", body)[0] == expected
    assert feed.json("POST", "/control", {"classes": [], "alpha": 0.6, "colormap": "turbo"})[1]["classes"] is None


def test_settings_of_models_that_explain_a_fixed_number(feed: Feed) -> None:
    class Fixed:
        spec = model_spec(feed.explainer.spec.labels, explanation=ExplanationSpec(layers=("layer4",), count=2))

    with pytest.raises(InputError, match="explains exactly 2 classes, 1 were asked for"):
        changes({"classes": ["stop"]}, Fixed())  # type: ignore[arg-type]


def receive(socket_: Any) -> tuple[dict[str, Any], np.ndarray]:
    data = socket_.recv(timeout=5)
    length = int.from_bytes(data[:4], "big")
    picture = cv2.imdecode(np.frombuffer(data, np.uint8, offset=4 + length), cv2.IMREAD_COLOR)
    return json.loads(data[4 : 4 + length]), picture


def test_pictures_by_websocket_one_camera_or_all(feed: Feed) -> None:
    from websockets.sync.client import connect

    for camera, expected in (("all", {0, 1}), ("1", {1})):
        seen, frames = set(), []
        with connect(f"ws://127.0.0.1:{feed.page.port}/live?camera={camera}", proxy=None) as client:
            for _ in range(8):
                header, picture = receive(client)
                client.send("seen")
                assert picture.shape[0] == 90
                assert {"top", "age_ms", "latency_ms", "fps", "camera"} <= set(header)
                seen.add(header["camera"])
                frames.append((header["camera"], header["frame"]))
        assert seen == expected and len(set(frames)) == 8
    wait_until(lambda: feed.context.hub.viewers == 0, 5)
    assert not feed.page.pictures  # nothing is drawn for nobody


def test_a_client_that_sees_nothing_is_sent_nothing_more(feed: Feed) -> None:
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{feed.page.port}/live?camera=0", proxy=None) as client:
        first = [receive(client)[0]["frame"] for _ in range(app_module.UNSEEN)]
        time.sleep(0.5)
        with pytest.raises(TimeoutError):
            client.recv(timeout=0.1)
        client.send("seen")
        newest, _ = receive(client)
        assert newest["frame"] >= first[-1]
        client.send("seen")
        client.send("seen")
        assert receive(client)[0]["frame"] > first[-1] + 5  # and then the newest, not the oldest


def test_mjpeg_for_players_and_browsers_without_scripts(feed: Feed) -> None:
    capture = cv2.VideoCapture(f"http://127.0.0.1:{feed.page.port}/stream.mjpg?camera=1", cv2.CAP_FFMPEG)
    for _ in range(5):
        more, picture = capture.read()
        assert more and picture.shape == (90, 160, 3)
    capture.release()
    wait_until(lambda: feed.context.hub.viewers == 0, 5)
    assert feed.ask("GET", "/stream.mjpg?camera=7")[0] == 404


def test_too_many_viewers_are_turned_away(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "MOST_VIEWERS", 0)
    status, _, body = feed.ask("GET", "/stream.mjpg")
    assert status == 503 and b"viewers are here already" in body


def test_a_snapshot_is_the_whole_picture(feed: Feed) -> None:
    status, headers, body = feed.ask("GET", "/snapshot.png?camera=0")
    assert status == 200 and "attachment" in headers["content-disposition"]
    assert cv2.imdecode(np.frombuffer(body, np.uint8), 1).shape == (90, 160, 3)
    for camera in ("2", "-1", "x", "9" * 5000, "²"):
        assert feed.ask("GET", f"/snapshot.png?{urlencode({'camera': camera})}")[0] == 404


def test_health_and_metrics(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert feed.json("GET", "/healthz") == (200, {"status": "ok", "lost": [], "engine": "ok", "stuck": []})
    feed.live[1] = False
    assert feed.json("GET", "/healthz") == (503, {"status": "degraded", "lost": [1], "engine": "ok", "stuck": []})
    feed.live[1] = True
    monkeypatch.setattr(app_module, "SILENT_S", -1.0)
    assert feed.json("GET", "/healthz") == (503, {"status": "degraded", "lost": [], "engine": "stuck", "stuck": []})
    from prometheus_client.parser import text_string_to_metric_families

    found = {family.name: family for family in text_string_to_metric_families(feed.ask("GET", "/metrics")[2].decode())}
    assert found["dkcam_frames"].samples[0].value > 1
    assert {"dkcam_age_seconds", "dkcam_stage_seconds", "dkcam_camera_up", "dkcam_camera_dropped"} <= set(found)


def picture(height: int = 90, width: int = 160) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def png() -> bytes:
    return cv2.imencode(".png", picture())[1].tobytes()


def test_explain_says_what_the_explainer_says(feed: Feed) -> None:
    status, headers, body = feed.ask("POST", "/explain?classes=stop,yield", png())
    said = feed.explainer.infer(feed.explainer.prepare(picture()), (1, 2))
    answer = json.loads(body)
    assert status == 200 and answer["explained"] == ["stop", "yield"] and len(answer["peaks"]) == 2
    np.testing.assert_allclose(answer["heatmap"], said.heatmap, atol=1e-5)
    status, headers, body = feed.ask("POST", "/explain?overlay", png())
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(body, np.uint8), 1).shape == (90, 160, 3)


def bomb(side: int) -> bytes:
    """A small PNG that says it is side x side pixels, and is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = b"\0" + bytes(side // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_pictures_that_are_none_or_too_much_are_refused(feed: Feed) -> None:
    big = bomb(40_000)
    assert len(big) < 1 << 20
    for body, status, words in (
        (b"", 400, b"empty"),
        (b"hello", 400, b"no picture"),
        (png()[:200], 400, b"damaged"),
        (bomb(10_000), 400, b"24 megapixels at most"),
        (big, 400, b"24 megapixels at most"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, b"no picture"),
    ):
        answer = feed.ask("POST", "/explain", body)
        assert answer[0] == status and words in answer[2], answer
    assert feed.ask("POST", "/explain?classes=nothing", png())[0] == 400


def test_a_flood_of_what_is_no_picture_waits(feed: Feed) -> None:
    start = time.perf_counter()
    for _ in range(5):
        assert feed.ask("POST", "/explain", b"hello")[0] == 400
    assert time.perf_counter() - start > 5 * app_module.REFUSED_S
    assert feed.ask("POST", "/explain", png())[0] == 200


def test_a_body_of_50_mb_is_refused_before_it_is_read(feed: Feed) -> None:
    for head in (b"Content-Length: 52428800\r\n", b"Transfer-Encoding: chunked\r\n"):
        with socket.create_connection(("127.0.0.1", feed.page.port), timeout=10) as client:
            client.sendall(b"POST /explain HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
            if b"chunked" in head:
                block = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
                try:
                    for _ in range(50):
                        client.sendall(block)
                except OSError:
                    pass
            with suppress(ConnectionResetError):  # it may hang up while we are still sending
                assert client.recv(64).startswith(b"HTTP/1.1 4")
    assert feed.ask("GET", "/healthz")[0] == 200


def test_foreign_hosts_and_origins_are_refused(feed: Feed) -> None:
    port = feed.page.port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost.evil", "[::1"):
        assert feed.ask("GET", "/state", Host=host)[0] == 403, host
    for host in (f"127.0.0.1:{port}", "localhost", f"LOCALHOST:{port}", "[::1]:80", socket.gethostname()):
        assert feed.ask("GET", "/state", Host=host)[0] == 200, host
    own = f"127.0.0.1:{port}"
    for origin, status in (
        (f"http://{own}", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        (f"http://localhost:{port}", 403),
    ):
        assert feed.ask("POST", "/control", b'{"alpha": 0.6}', Host=own, Origin=origin)[0] == status, origin
    for site, mode, status in (
        ("cross-site", "no-cors", 403),
        ("cross-site", "navigate", 200),
        ("same-origin", "cors", 200),
        ("none", "navigate", 200),
    ):
        assert feed.ask("GET", "/state", Sec_Fetch_Site=site, Sec_Fetch_Mode=mode)[0] == status
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    with pytest.raises(WebSocketException), connect(f"ws://{own}/live", origin="http://evil.example", proxy=None):  # type: ignore[arg-type]
        pass


def bearer(token: str) -> str:
    """As curl sends it: UTF-8 bytes."""
    return "Bearer " + token.encode().decode("latin-1")


def test_without_the_token_nothing_is_shown(guarded: Feed, caplog: pytest.LogCaptureFixture) -> None:
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    logging.getLogger("dkcam").propagate = True
    caplog.set_level(logging.DEBUG)
    for method, path in (
        ("GET", "/"),
        ("GET", "/state"),
        ("GET", "/metrics"),
        ("GET", "/stream.mjpg"),
        ("POST", "/explain"),
        ("POST", "/control"),
    ):
        status, _, body = guarded.ask(method, path)
        assert status == 401 and b"labels" not in body, path
        assert guarded.ask(method, f"{path}?{urlencode({'token': TOKEN})}")[0] == 401  # an address is no place for it
    with pytest.raises(WebSocketException), connect(f"ws://127.0.0.1:{guarded.page.port}/live", proxy=None):
        pass
    assert guarded.ask("GET", "/healthz")[0] == 200
    for wrong in (bearer(TOKEN + "x"), bearer(TOKEN).replace("Bearer", "Basic"), "Bearer", "Bearer \xe9"):
        assert guarded.ask("GET", "/state", Authorization=wrong)[0] == 401
    assert guarded.ask("GET", "/state", Authorization=bearer(TOKEN))[0] == 200
    assert guarded.ask("GET", "/state", Cookie="dkcam=" + bearer(TOKEN)[7:])[0] == 401  # the cookie is not the token
    assert TOKEN not in caplog.text


def test_logging_in_gives_a_cookie_that_works(guarded: Feed) -> None:
    from websockets.sync.client import connect

    status, _, body = guarded.ask("GET", "/", Accept="text/html")
    assert status == 401 and b"<form" in body
    for wrong in (b"token=no", b"", b"\xff\xfe", b"x" * 5000):
        status, headers, _ = guarded.ask("POST", "/login", wrong)
        assert status == 401 and "set-cookie" not in headers
    status, headers, _ = guarded.ask("POST", "/login", urlencode({"token": TOKEN}).encode())
    cookie = headers["set-cookie"]
    assert status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    held = cookie.split(";")[0]
    assert guarded.ask("GET", "/", Cookie=held)[0] == 200
    with connect(f"ws://127.0.0.1:{guarded.page.port}/live", additional_headers={"Cookie": held}, proxy=None) as client:
        assert receive(client)[0]["camera"] in (0, 1)


@pytest.mark.parametrize(
    ("uri", "token", "words"),
    [
        ("http://0.0.0.0:0", None, "needs --token"),
        ("http://[::]:0", None, "needs --token"),
        ("http://192.0.2.1:0", TOKEN, "cannot be served"),
        ("http://no-such-host.invalid:0", TOKEN, "is no address of this machine"),
        ("https://127.0.0.1:0", None, "expected an address of this machine"),
        ("http://127.0.0.1:99999", None, "expected an address of this machine"),
        ("http://127.0.0.1:0/page", None, "expected an address of this machine"),
        ("http://me:pw@127.0.0.1:0", None, "expected an address of this machine"),
        ("http://[bad", None, "expected an address of this machine"),
        ("http://:8080", None, "expected an address of this machine"),
    ],
)
def test_addresses_that_cannot_be_served(feed: Feed, uri: str, token: str | None, words: str) -> None:
    with pytest.raises(SinkError, match=words):
        PageSink(uri, feed.context, token=token)


@pytest.mark.parametrize("name", ["starlette", "uvicorn", "prometheus_client", "PIL"])
def test_a_library_that_is_missing_is_named(model_file: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith((f"{name}.", "dkcam.runtime.live.page"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    result = CliRunner().invoke(
        main, ["--model", str(model_file), "--source", "demo:frames=2", "--headless", "--sink", "http://127.0.0.1:0"]
    )
    assert result.exit_code == 1 and f"needs {name}; pip install '.[page]' in the folder of dkcam" in result.stderr, result.output


def test_a_port_that_is_taken(feed: Feed) -> None:
    with pytest.raises(SinkError, match="address already in use; choose another port"):
        PageSink(f"http://127.0.0.1:{feed.page.port}", feed.context, token=None)


def test_noise_on_the_wire_kills_nothing(feed: Feed) -> None:
    rng = np.random.default_rng(0)
    paths = [
        "/",
        "/live",
        "/state",
        "/control",
        "/explain",
        "/snapshot.png",
        "/stream.mjpg",
        "/healthz",
        "/metrics",
        "/dump",
        "/%2e%2e/etc",
        "/\x00",
    ]
    methods = ["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "BREW"]
    for number in range(250):
        kind = number % 4
        path = paths[int(rng.integers(len(paths)))] + ("?camera=" + rng.bytes(4).hex() if number % 3 else "")
        head = f"{methods[int(rng.integers(len(methods)))]} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
        body = rng.bytes(int(rng.integers(0, 2000)))
        data = {
            0: rng.bytes(int(rng.integers(1, 3000))),
            1: head + b"\r\n" + body,
            2: head + b"Content-Length: %d\r\n\r\n" % int(rng.integers(0, 4000)) + body,
            3: head + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AA==\r\n\r\n" + body,
        }[kind]
        with socket.create_connection(("127.0.0.1", feed.page.port), timeout=5) as client:
            client.settimeout(0.02)
            try:
                client.sendall(data)
                client.recv(1000)
            except OSError:
                pass
    before = feed.sent
    wait_until(lambda: feed.sent > before + 3)
    assert feed.ask("GET", "/healthz")[0] == 200
    assert feed.json("GET", "/state")[0] == 200
    wait_until(lambda: feed.context.hub.viewers == 0, 15)


def test_a_request_that_never_ends_is_let_go(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S", 0.4)
    monkeypatch.setattr(server_module, "HEADERS_S", 0.4)
    feed = Feed(model_file)
    try:
        begun = b"GET /state HTTP/1.1\r\nHost: localhost\r\n"
        for head in (b"", begun, begun + b"\r\n" + begun):
            with socket.create_connection(("127.0.0.1", feed.page.port), timeout=5) as client:
                client.sendall(head)
                while client.recv(4096):
                    pass  # until the server closes
        from websockets.sync.client import connect

        with connect(f"ws://127.0.0.1:{feed.page.port}/live", proxy=None) as client_:
            end = time.perf_counter() + 1.2
            while time.perf_counter() < end:  # a WebSocket stays
                receive(client_)
                client_.send("seen")
    finally:
        feed.close()


def test_more_connections_than_there_is_room_for(feed: Feed) -> None:
    held = [socket.create_connection(("127.0.0.1", feed.page.port), timeout=5) for _ in range(places.MOST_OF_OWN + 20)]
    time.sleep(0.3)
    cut = 0
    for client in held:
        client.settimeout(0.01)
        try:
            cut += client.recv(1) == b""
        except ConnectionResetError:
            cut += 1
        except TimeoutError:
            pass
    assert cut >= 20
    for client in held:
        client.close()
    wait_until(lambda: feed.ask("GET", "/healthz")[0] == 200, 5)


def test_old_pictures_are_not_handed_out(model_file: Path) -> None:
    """As after an hour without viewers: what a camera sent then is not what it shows now."""
    explainer = dkcam.load(model_file, device="cpu")
    picture = np.zeros((90, 160, 3), np.uint8)
    done = Explained(Frame(picture, 0, "front", 0.0), explainer(picture), 0.0, 0.0, 1.0, time.perf_counter())
    fresh = replace(result_of(done, style=Style(), watch=None, picture=True, fps=None, dropped=0), live=Live(0, 1, 0))
    now = time.monotonic()
    for result, since, fit in ((fresh, 0.1, True), (fresh, 1.2, False), (replace(fresh, stale=True, age_ms=9e3), 0.1, True),
                               (replace(fresh, stale=True), 1.0, False), (replace(fresh, picture=None), 0.1, False),
                               (replace(fresh, live=None), 3600.0, True)):  # fmt: skip
        assert _Published(1, result, Style(), None, now - since).is_fit(1.0) is fit


def test_a_client_that_stops_reading_does_not_hold_the_others(feed: Feed) -> None:
    with socket.create_connection(("127.0.0.1", feed.page.port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
        before, start = feed.sent, time.perf_counter()
        wait_until(lambda: feed.sent >= before + 15)
        assert feed.ask("GET", "/snapshot.png?camera=0")[0] == 200
        assert time.perf_counter() - start < 5


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[[], Chromium]]:
    if chromium.find() is None:
        pytest.skip("Chromium is not installed")
    with Chromium(tmp_path / "profile") as opened:
        yield lambda: opened


def test_a_browser_sees_moving_pictures_and_changes_the_class(feed: Feed, browser: Callable[[], Chromium], tmp_path: Path) -> None:
    page = browser()
    page.open(f"http://127.0.0.1:{feed.page.port}/")
    page.until("received > 10")

    def pixels() -> list[int]:
        script = "(() => { const c = views.get(0).canvas; return [...c.getContext('2d').getImageData(0, 45, c.width, 1).data]; })()"
        return list(page.run(script))

    first = pixels()
    page.until(f"views.get(0).header.frame > {feed.sent + 3}")
    assert pixels() != first  # the white circle has moved
    assert page.run("document.querySelectorAll('#pictures figure').length") == 2
    assert page.run("document.getElementById('top').innerText").count("%") == 6
    page.run("(() => { const s = document.getElementById('classes'); s.value = '3'; s.dispatchEvent(new Event('change')); })()")
    assert page.until("views.get(0).header.explained[0] === 'warning'") < 1.0
    assert cv2.imread(str(page.screenshot(tmp_path / "page.png"))).std() > 10
    page.run("document.getElementById('paused').click()")
    wait_until(lambda: feed.controls.settings.paused, 2)
    feed.controls.change(paused=False, classes=None)


def test_a_browser_without_websocket_gets_mjpeg(feed: Feed, browser: Callable[[], Chromium]) -> None:
    page = browser()
    page.send(
        "Page.addScriptToEvaluateOnNewDocument",
        source="window.WebSocket = class { constructor() { setTimeout(() => this.onclose(), 50); } close() {} };",
    )
    page.open(f"http://127.0.0.1:{feed.page.port}/")
    page.until("[...document.querySelectorAll('#pictures img')].filter((image) => image.naturalWidth === 160).length === 2", 15)


def test_a_browser_logs_in(guarded: Feed, browser: Callable[[], Chromium]) -> None:
    page = browser()
    page.open(f"http://127.0.0.1:{guarded.page.port}/")
    page.until("document.querySelector('.login input') !== null")
    page.run(f"document.querySelector('.login input').value = {TOKEN!r}")
    page.run("document.querySelector('.login form').requestSubmit()")
    page.until("typeof received !== 'undefined' && received > 3")
