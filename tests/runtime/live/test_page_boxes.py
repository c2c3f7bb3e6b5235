"""A detector on the live page: its boxes are listed, drawn, clicked and followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dkcam.runtime.focus import Focus
from tests.runtime.live import chromium
from tests.runtime.live.camera_server import wait_until
from tests.runtime.live.chromium import Chromium
from tests.runtime.live.feed import Feed
from tests.standins import balance, square_finder, squares

THREE = (("red", 1, 2), ("blue", 3, 7), ("red", 4, 4))


class Squares(Feed):
    """Three squares; places: what is filmed now."""

    places: tuple[tuple[str, int, int], ...] = THREE

    def picture(self) -> np.ndarray:
        return cv2.resize(squares(*self.places), (640, 384), interpolation=cv2.INTER_NEAREST)


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Squares]:
    (tmp_path / "m.onnx").write_bytes(square_finder())
    made = Squares(tmp_path / "m.onnx")
    yield made
    made.close()


def test_the_focus_is_a_setting(feed: Squares) -> None:
    chosen = {"camera": 0, "index": 1, "box": [0.7, 0.5, 0.8, 0.667]}
    status, state = feed.json("POST", "/control", {"focus": chosen})
    assert status == 200 and state["focus"] is True and state["task"] == "detect"
    assert feed.controls.settings.focus == Focus(0, 1, (0.7, 0.5, 0.8, 0.667))
    for bad in (
        3,
        {},
        {**chosen, "box": [1, 2]},
        {**chosen, "index": "1"},
        {**chosen, "box": [0, 0, 0, "1"]},
        [],
    ):
        status, answer = feed.json("POST", "/control", {"focus": bad})
        assert status == 400 and "expected null or camera, index and box" in answer["error"], answer
    assert feed.json("POST", "/control", {"focus": None})[1]["focus"] is False
    assert feed.json("POST", "/control", {"classes": ["blue", "red"]})[1]["classes"] == [1, 0]


def explained(feed: Squares, body: bytes) -> tuple[int, Any]:
    status, _, data = feed.ask("POST", "/explain", body)
    return status, json.loads(data)


def test_a_picture_that_is_sent_gets_its_boxes(feed: Squares) -> None:
    body = cv2.imencode(".png", squares(*THREE))[1].tobytes()
    status, _, data = feed.ask("POST", "/explain?overlay", body)
    assert status == 200 and cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (192, 320, 3)
    status, found = explained(feed, body)
    assert status == 200 and [each["label"] for each in found["detections"]] == ["red", "red", "blue"] and len(found["heatmap"]) == 3
    status, found = explained(feed, cv2.imencode(".png", squares())[1].tobytes())
    assert status == 200 and found["detections"] == found["heatmap"] == []


@pytest.mark.skipif(chromium.find() is None, reason="Chromium is not installed")
def test_a_click_on_a_box_shows_its_heat_alone(feed: Squares, tmp_path: Path) -> None:
    with Chromium(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{feed.page.port}/")
        page.until("received > 3 && state !== null")

        def brightness(row: int, column: int) -> list[int]:
            """Of the middle of a square, as it is shown."""
            x, y = 2 * (column * 32 + 16), 2 * (row * 32 + 16)
            return list(page.run(f"[...views.get(0).canvas.getContext('2d').getImageData({x}, {y}, 1, 1).data]"))

        def click(x: float, y: float) -> None:
            """With the mouse, at 0..1 of the first camera's picture."""
            place = page.run(
                "(() => { const r = views.get(0).canvas.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
            )
            at = {"x": place[0] + x * place[2], "y": place[1] + y * place[3], "button": "left", "clickCount": 1}
            page.send("Input.dispatchMouseEvent", type="mousePressed", **at)
            page.send("Input.dispatchMouseEvent", type="mouseReleased", **at)

        assert page.run("document.getElementById('top-title').innerText.toLowerCase()") == "boxes"
        assert page.run("document.getElementById('top').innerText").count("%") == 6  # of two cameras
        heated = brightness(1, 2)
        click(0.75, 0.58)  # the blue square
        page.until("views.get(0).header.focus === 2")
        wait_until(lambda: feed.controls.settings.focus is not None)
        page.until("!document.getElementById('unfocus').hidden")
        cold = brightness(1, 2)
        assert np.abs(np.subtract(cold, [250, 40, 40, 255])).max() < 30 < np.abs(np.subtract(heated, cold)).max()
        assert page.run("document.querySelectorAll('#top button[aria-pressed=true]').length") == 1
        feed.places = (("blue", 3, 7), ("red", 1, 2))
        page.until("views.get(0).header.detections.length === 2 && views.get(0).header.focus !== undefined")
        assert page.run("views.get(0).header.detections[views.get(0).header.focus].label") == "blue"
        feed.places = THREE
        page.until("views.get(0).header.detections.length === 3")
        page.screenshot(tmp_path / "page.png")
        click(0.05, 0.05)  # beside every box
        page.until("views.get(0).header.focus === undefined")
        rect = "(() => { const r = document.querySelector('#top button').getBoundingClientRect(); return [r.left + 5, r.top + 5]; })()"
        x, y = page.run(rect)
        page.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        page.until("views.get(0).header.focus === 0")
        page.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
        page.run("document.getElementById('unfocus').click()")
        page.until("views.get(0).header.focus === undefined")
        page.run("document.querySelector('#top button').focus()")
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13)
        page.until("views.get(0).header.focus === 0")
        feed.places = ()
        page.until("document.getElementById('top').innerText.includes('no boxes')")


@pytest.mark.skipif(chromium.find() is None, reason="Chromium is not installed")
def test_a_regressor_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(balance())
    feed = Squares(tmp_path / "m.onnx")
    try:
        with Chromium(tmp_path / "profile") as page:
            page.open(f"http://127.0.0.1:{feed.page.port}/")
            page.until("received > 3 && state !== null")
            assert "steering" in page.run("document.getElementById('top').innerText")
            page.run("(() => { const s = document.getElementById('classes'); s.value = '-1'; s.dispatchEvent(new Event('change')); })()")
            page.until("views.get(0).header.sides[0] === 'fall'")
            page.screenshot(tmp_path / "page.png")
    finally:
        feed.close()
