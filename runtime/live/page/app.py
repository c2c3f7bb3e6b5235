"""The page's addresses.

GET  /                 the page                          GET  /healthz     200 while frames come and are explained
GET  /live             WebSocket: pictures               GET  /metrics     for Prometheus
GET  /stream.mjpg      the same as MJPEG                 GET  /state       cameras, settings, choices
GET  /snapshot.png     the newest picture, whole         POST /control     change settings
POST /explain          a picture → JSON or overlay       POST /dump        write the flight recorder's memory
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from dkcam.errors import DkcamError, EngineError, InputError
from dkcam.runtime.controls import Controls
from dkcam.runtime.explainer import Explains, class_number
from dkcam.runtime.focus import Focus
from dkcam.runtime.health import Health
from dkcam.runtime.live.decoder import PictureDecoder
from dkcam.runtime.live.page.access import Message, Receive, Send, read_body
from dkcam.runtime.live.page.hub import Closing, Hub, encode
from dkcam.runtime.live.page.metrics import Metrics
from dkcam.runtime.overlay import COLORMAPS, LAYOUTS
from dkcam.runtime.result import scores_json

HERE = Path(__file__).parent
MOST_BODY = 20 << 20  # bytes of a picture to explain
MOST_PIXELS = 50_000_000  # of an overlay
MOST_SIDE = 60_000  # of an overlay, as JPEG has it
MOST_VIEWERS = 8
MOST_WAITING = 4  # pictures to explain
MOST_CLASSES = 8
REFUSED_S = 0.1  # an answer to what is no picture takes this long
SEND_S = 10.0  # a client that takes nothing for so long is let go
SILENT_S = 10.0  # without an explanation, where cameras send
UNSEEN = 2  # pictures on their way to a client
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; form-action 'self'"
POLICY += "; base-uri 'none'; frame-ancestors 'none'"


@dataclass
class Context:
    """What the page shows and changes. cameras: state of each, as JSON. explainer: the one that runs now.

    dump: writes the flight recorder's memory and names the file, or None. health: of the run. pictures: decodes what clients send.
    """

    model: str
    controls: Controls
    explainer: Callable[[], Explains]
    metrics: Metrics
    cameras: Callable[[], list[dict[str, Any]]]
    dump: Callable[[str], Path | None] | None = None
    hub: Hub = field(default_factory=Hub)
    pictures: PictureDecoder = field(default_factory=PictureDecoder)
    health: Health = field(default_factory=Health)

    def state(self) -> dict[str, Any]:
        explainer, settings = self.explainer(), self.controls.settings
        return {
            "model": self.model,
            "device": explainer.device,
            "task": explainer.spec.task,
            "labels": list(explainer.spec.labels),
            "colormaps": list(COLORMAPS),
            "layouts": list(LAYOUTS),
            "cameras": self.cameras(),
            "can": {"masks": explainer.spec.masks is not None, "dump": self.dump is not None},
            "classes": None if settings.classes is None else list(settings.classes),
            "count": explainer.spec.explanation.count,
            "alpha": settings.style.alpha,
            "colormap": settings.style.colormap,
            "layout": settings.style.layout,
            "masks": settings.masks,
            "focus": settings.focus is not None,
            "paused": settings.paused,
        }


class Page:
    """The Starlette application over a context."""

    def __init__(self, context: Context) -> None:
        self._context, self._hub = context, context.hub
        self._waiting = 0
        self._dumping = False
        self._turn = asyncio.Lock()
        self.app = Starlette(
            routes=[
                Route("/", self._file("page.html")),
                Route("/page.js", self._file("page.js")),
                Route("/page.css", self._file("page.css")),
                Route("/state", self._state),
                Route("/control", self._control, methods=["POST"]),
                Route("/snapshot.png", self._snapshot),
                Route("/stream.mjpg", self._stream),
                Route("/explain", self._explain, methods=["POST"]),
                Route("/dump", self._dump, methods=["POST"]),
                Route("/healthz", self._health),
                Route("/metrics", self._metrics),
                WebSocketRoute("/live", self._live),
            ],
            exception_handlers={DkcamError: _said},
        )

    def _file(self, name: str) -> Callable[[Request], Response]:
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
        return lambda request: FileResponse(HERE / name, headers=headers)

    async def _state(self, request: Request) -> Response:
        return JSONResponse(self._context.state(), headers={"cache-control": "no-store"})

    async def _control(self, request: Request) -> Response:
        body = await read_body(request.receive, 1 << 14)
        if body is None:
            return _refused(413, "the settings are too long")
        try:
            wanted = json.loads(body)
        except (ValueError, RecursionError):
            return _refused(400, 'expected JSON, such as {"alpha": 0.5}')
        self._context.controls.change(**changes(wanted, self._context.explainer()))
        return JSONResponse(self._context.state())

    async def _snapshot(self, request: Request) -> Response:
        camera = self._camera(request.query_params.get("camera", "0"))
        if camera is None:
            return _refused(404, "no such camera")
        with self._hub.watching():
            try:
                picture = await asyncio.wait_for(self._hub.picture(camera), SEND_S)
            except (asyncio.TimeoutError, Closing):
                return _refused(503, "the camera has sent no picture yet")
        data = await asyncio.to_thread(encode, picture, ".png")
        return Response(data, media_type="image/png", headers={"content-disposition": f'attachment; filename="dkcam-{camera}.png"'})

    def _camera(self, text: str) -> int | None:
        known = len(text) <= 3 and text.isascii() and text.isdigit() and int(text) < len(self._context.cameras())
        return int(text) if known else None

    async def _stream(self, request: Request) -> Response:
        camera = self._camera(request.query_params.get("camera", "0"))
        if camera is None:
            return _refused(404, "no such camera")
        if self._hub.viewers >= MOST_VIEWERS:
            return _refused(503, f"{MOST_VIEWERS} viewers are here already")
        return _Mjpeg(self._hub, camera)

    async def _live(self, socket: WebSocket) -> None:
        wanted = socket.query_params.get("camera", "all")
        camera = None if wanted == "all" else self._camera(wanted)
        if (camera is None and wanted != "all") or self._hub.viewers >= MOST_VIEWERS:
            await socket.close(1013 if wanted == "all" else 1008)
            return
        await socket.accept()
        room = asyncio.BoundedSemaphore(UNSEEN)
        with self._hub.watching():
            sending = asyncio.create_task(self._send(socket, camera, room))
            seeing = asyncio.create_task(_acknowledged(socket, room))
            await _until_one_ends(sending, seeing)

    async def _send(self, socket: WebSocket, camera: int | None, room: asyncio.BoundedSemaphore) -> None:
        """A picture at a time; the client says when it has seen one, so that none grows old in a buffer on the way."""
        seen: dict[int, int] = {}
        while True:
            for packet in await self._hub.after(seen, camera):
                await asyncio.wait_for(room.acquire(), 3 * SEND_S)
                seen[packet.camera] = packet.version
                data = len(packet.header).to_bytes(4, "big") + packet.header + packet.jpeg
                await asyncio.wait_for(socket.send_bytes(data), SEND_S)

    async def _explain(self, request: Request) -> Response:
        try:
            return await self._answered(request)
        except InputError:
            await asyncio.sleep(REFUSED_S)  # a flood of what is no picture waits in its sender
            raise

    async def _answered(self, request: Request) -> Response:
        if self._waiting >= MOST_WAITING:
            return _refused(503, "busy with other pictures; try again")
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BODY:
            return _refused(413, f"the picture is over {MOST_BODY >> 20} MiB")
        self._waiting += 1
        try:
            body = await read_body(request.receive, MOST_BODY)
            if body is None:
                return _refused(413, f"the picture is over {MOST_BODY >> 20} MiB, or did not arrive whole")
            explainer = self._context.explainer()
            classes = chosen(request.query_params.get("classes", "").split(","), explainer)
            async with self._turn:
                return await asyncio.to_thread(self._explained, body, explainer, classes, "overlay" in request.query_params)
        finally:
            self._waiting -= 1

    def _explained(self, body: bytes, explainer: Explains, classes: tuple[int, ...] | None, overlay: bool) -> Response:
        image = self._context.pictures.decode(body)
        said = explainer.infer(explainer.prepare(image), classes)
        if overlay:
            height, width = image.shape[0], image.shape[1] * (1 if said.task == "detect" else len(said.explained))
            if height * width > MOST_PIXELS or max(height, width) > MOST_SIDE:
                raise InputError(f"the overlay would be {width}x{height} pixels, too large; send a smaller picture or name fewer classes")
            style = self._context.controls.settings.style
            shown = said.overlay(image, alpha=style.alpha, colormap=style.colormap, layout=style.layout)
            return Response(encode(shown, ".jpg"), media_type="image/jpeg")
        if not np.isfinite(said.heatmap).all():
            raise EngineError("the model's heatmap is not finite: it overflows on this picture")
        rows = [found.row for found in said.detections] if said.task == "detect" else range(len(said.heatmap))
        maps = [np.round(said.heatmap[row].astype(float), 6).tolist() for row in rows]
        return JSONResponse(scores_json(said) | {"heatmap": maps, "device": said.device})

    async def _dump(self, request: Request) -> Response:
        if self._context.dump is None:
            return _refused(404, "there is no flight recorder; start dk-run with --flight-recorder DIR")
        if self._dumping:
            return _refused(409, "the flight recorder is being written already")
        self._dumping = True
        try:
            path = await asyncio.to_thread(self._context.dump, "page")
        finally:
            self._dumping = False
        return JSONResponse({"file": path.name if path else None})

    async def _health(self, request: Request) -> Response:
        cameras = self._context.cameras()
        lost = [camera["camera"] for camera in cameras if not camera["live"]]
        stuck = list(self._context.health.stuck())
        engine = "stuck" if "engine" in stuck or self._nothing_explained(cameras) else "ok"
        status = "degraded" if lost or stuck or engine != "ok" else "ok"
        return JSONResponse({"status": status, "lost": lost, "engine": engine, "stuck": stuck}, 200 if status == "ok" else 503)

    def _nothing_explained(self, cameras: Sequence[dict[str, Any]]) -> bool:
        """Pictures come, and for long nothing has been made of them, whatever the reason."""
        controls = self._context.controls
        since = time.monotonic() - max(self._hub.published_at, controls.changed_at)
        if since <= SILENT_S or controls.settings.paused or any(camera.get("file", {}).get("ended") for camera in cameras):
            return False
        return any(camera["live"] and (camera.get("age_s") or 0.0) < since for camera in cameras)

    async def _metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._context.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def changes(wanted: Any, explainer: Explains) -> dict[str, Any]:
    """What a client asks for, as arguments of ``Controls.change``. Errors: InputError for anything else."""
    if not isinstance(wanted, dict) or not wanted:
        raise InputError("expected an object with one of alpha, colormap, layout, classes, masks, paused, focus")
    style: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, value in wanted.items():
        if name == "alpha" and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9:
            style[name] = float(value)
        elif name in ("colormap", "layout") and isinstance(value, str):
            style[name] = value
        elif name in ("masks", "paused") and isinstance(value, bool):
            values[name] = value
        elif name == "classes" and isinstance(value, list):
            values[name] = chosen([str(one) for one in value], explainer)
        elif name == "focus":
            values[name] = None if value is None else _focus(value)
        else:
            raise InputError(f"{name}: {str(value)[:60]} is no setting; expected alpha, colormap, layout, classes, masks, paused or focus")
    return {"style": style, **values}


def chosen(names: Sequence[str], explainer: Explains) -> tuple[int, ...] | None:
    """Class names or numbers; None for none of them. Errors: InputError."""
    classes = tuple(class_number(explainer.spec, name.strip()) for name in names if name.strip())
    if len(classes) > MOST_CLASSES:
        raise InputError(f"{len(classes)} classes at once, expected {MOST_CLASSES} at most")
    count = explainer.spec.explanation.count
    if classes and count is not None and (len(classes) > count if explainer.spec.task == "detect" else len(classes) != count):
        raise InputError(f"this model explains exactly {count} classes, {len(classes)} were asked for")
    return classes or None


def _focus(value: Any) -> Focus:
    """The box that was clicked. Errors: InputError."""
    try:
        return msgspec.convert(value, Focus)
    except msgspec.ValidationError as error:
        raise InputError(f"focus: {error}; expected null or camera, index and box [x1, y1, x2, y2], 0..1 of the frame") from None


class _Mjpeg(Response):
    """Pictures as parts of one answer; a client that is slow gets fewer."""

    def __init__(self, hub: Hub, camera: int) -> None:
        super().__init__(headers={"content-type": "multipart/x-mixed-replace; boundary=frame", "cache-control": "no-store"})
        self._hub, self._camera = hub, camera
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        sending, leaving = asyncio.create_task(self._send(send)), asyncio.create_task(_gone(receive))
        with self._hub.watching():
            ends = await _until_one_ends(sending, leaving)
        if any(isinstance(end, Closing) for end in ends):
            await send({"type": "http.response.body", "body": b"--frame--\r\n"})

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        seen: dict[int, int] = {}
        while True:
            for packet in await self._hub.after(seen, self._camera):
                seen[packet.camera] = packet.version
                part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(packet.jpeg) + packet.jpeg + b"\r\n"
                await asyncio.wait_for(send({"type": "http.response.body", "body": part, "more_body": True}), SEND_S)


async def _until_one_ends(*tasks: asyncio.Task[None]) -> list[BaseException | None]:
    """Then the others are cancelled. How each of them ended."""
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _acknowledged(socket: WebSocket, room: asyncio.BoundedSemaphore) -> None:
    """A message from the client for every picture that it has shown."""
    try:
        while True:
            await socket.receive_text()
            with suppress(ValueError):  # more of them than pictures were sent
                room.release()
    except (WebSocketDisconnect, RuntimeError, KeyError):
        return


def _refused(status: int, words: str) -> Response:
    return JSONResponse({"error": words.encode("utf-8", "replace").decode()}, status)


def _said(request: Request, error: Exception) -> Response:
    return _refused(400, " ".join(str(error).split()))
