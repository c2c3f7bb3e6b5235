"""Who may talk to the page. Wraps the application; what is refused never reaches it.

Host    must name this server: else a foreign site could reach it under a name of its own (DNS rebinding)
Origin  where a browser sends one, must be this server's
token   where one is set: "Authorization: Bearer …", or the cookie that the login page gives. Who gives wrong ones waits longer and
        longer; who has the cookie does not, whatever others try from his address
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dkcam.runtime.live.page.places import place_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

WITHOUT_TOKEN = ("/healthz", "/page.css")
BODY_S = 10.0  # for a request's body to arrive
KNOWN = "dkcam.known"  # in the scope of a request that may see everything
FREE_GUESSES = 10  # wrong tokens of an address before it has to wait: 1 s, 2 s, 4 s, …
LONGEST_WAIT_S = 60.0
FORGOTTEN_S = 600.0  # after the last wrong one
MOST_GUESSERS = 1024
LOGIN = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>dkcam</title>
<link rel="stylesheet" href="/page.css"><main class="login"><h1>dkcam</h1><p>This page needs the token that dk-run was started with.</p>
<form method="post" action="/login"><input type="password" name="token" autofocus required aria-label="token">
<button>Open</button></form></main>
"""


class Guesses:
    """Wrong tokens, by the address they came from. now: of time.monotonic. Of too many addresses the one that was wrong longest ago
    is forgotten.
    """

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str, now: float) -> float:
        """Until the address may try again; 0 for now."""
        count, at = self._wrong.get(address, (0, now))
        if count < FREE_GUESSES or now - at > FORGOTTEN_S:
            return 0.0
        return max(0.0, at + min(2.0 ** min(count - FREE_GUESSES, 30), LONGEST_WAIT_S) - now)

    def wrong(self, address: str, now: float) -> None:
        count, at = self._wrong.pop(address, (0, now))
        self._wrong[address] = (1 if now - at > FORGOTTEN_S else count + 1), now
        if len(self._wrong) > MOST_GUESSERS:
            self._wrong.popitem(last=False)


class Access:
    """app: what is guarded. port: it is served at. hosts: names it is reached by besides addresses, localhost and this
    machine's name.
    """

    def __init__(self, app: App, *, token: str | None, port: int = 0, hosts: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._token = token.encode() if token is not None else None
        self._cookie = f"dkcam-{port}"  # browsers keep one set for all ports of a host
        self._session = secrets.token_urlsafe(32)
        own = socket.gethostname().lower()
        self._hosts = hosts | {"localhost", own, f"{own}.local"}
        self._guesses = Guesses()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._foreign(headers)
        if refusal is not None:
            await _refuse(scope, receive, send, 403, refusal)
            return
        if self._token is None or self._has_cookie(headers):
            scope[KNOWN] = True
        elif scope["path"] not in WITHOUT_TOKEN:
            if scope["type"] == "http" and scope["path"] == "/login" and scope["method"] == "POST":
                await self._login(scope, receive, send)
                return
            page = scope["type"] == "http" and "text/html" in headers.get("accept", "")
            words = LOGIN if page else "a token is needed: send it as Authorization: Bearer …, or open / in a browser\n"
            if "authorization" not in headers:
                await _refuse(scope, receive, send, 401, words, html=page)
                return
            if not await self._guess(scope, receive, send, _bearer(headers["authorization"]), words, html=page):
                return
            scope[KNOWN] = True
        await self._app(scope, receive, send)

    async def _guess(self, scope: Message, receive: Receive, send: Send, given: bytes, words: str, *, html: bool) -> bool:
        """Whether it is the token; where not, the request is answered. Nobody's connection waits for that."""
        address, now = place_of((scope.get("client") or ("",))[0]), time.monotonic()
        wait = self._guesses.wait_s(address, now)
        if wait:
            told = f"too many wrong tokens came from this address; try again in {wait:.0f} s\n"
            await _refuse(scope, receive, send, 429, told, (b"retry-after", b"%d" % math.ceil(wait)))
            return False
        if self._token is not None and secrets.compare_digest(given, self._token):
            return True
        self._guesses.wrong(address, now)
        await _refuse(scope, receive, send, 401, words, html=html)
        return False

    def _foreign(self, headers: dict[str, str]) -> str | None:
        """Why a request does not come from this server's own page, or None."""
        host = headers.get("host", "")
        if not self._own(host):
            return "the Host header names another server; use this machine's address or name\n"
        origin = headers.get("origin")
        if origin is not None and _place(origin) != host.lower():
            return "the Origin header names another site\n"
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "another site's page asks for this\n"  # browsers say so where they send no Origin, as for pictures
        return None

    def _own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
            return True  # no name, so nobody else can have given it
        except ValueError:
            return name.rstrip(".") in self._hosts

    def _has_cookie(self, headers: dict[str, str]) -> bool:
        held = [part.strip().partition("=") for part in headers.get("cookie", "")[:8192].split(";")]
        return any(
            name == self._cookie and secrets.compare_digest(value.encode("latin-1"), self._session.encode()) for name, _, value in held
        )

    async def _login(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await read_body(receive, 4096)
        fields = parse_qs(body.decode("utf-8", "replace")) if body is not None else {}
        given = fields.get("token", [""])[0].encode("utf-8", "replace")
        if not await self._guess(scope, receive, send, given, LOGIN, html=True):
            return
        cookie = f"{self._cookie}={self._session}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


def _bearer(header: str) -> bytes:
    """The token in an Authorization header; empty, which no token is, where there is none."""
    scheme, _, given = header.partition(" ")
    return given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def read_body(receive: Receive, most: int) -> bytes | None:
    """A request's body; None where it is longer than ``most`` bytes, breaks off, or takes longer than ``BODY_S``."""
    try:
        return await asyncio.wait_for(_body(receive, most), BODY_S)
    except asyncio.TimeoutError:
        return None


async def _body(receive: Receive, most: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _refuse(
    scope: Message, receive: Receive, send: Send, status: int, words: str, *more: tuple[bytes, bytes], html: bool = False
) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    kind = b"text/html; charset=utf-8" if html else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
