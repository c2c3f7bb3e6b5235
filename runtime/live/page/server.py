"""uvicorn in a thread of its own, and the sink that feeds the page."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dkcam.errors import SinkError, install
from dkcam.runtime.health import Health
from dkcam.runtime.live.page.access import KNOWN, Access
from dkcam.runtime.live.page.places import Places, place_of
from dkcam.runtime.result import Result

if TYPE_CHECKING:
    from dkcam.runtime.live.page.app import Context

log = logging.getLogger("dkcam")

SEND_BUFFER = 256 << 10  # bytes the system may hold for a client: more would only be older pictures
WORKERS = 2  # threads that encode, and explain
HEADERS_S = 5.0  # from a connection to the end of its first request's headers
REQUEST_S = 15.0  # on which nothing moves: until a next request is whole, until an answer is taken
BEAT_S = 0.5
LEAVE_S = 0.5  # that the end of a run waits for the page


def address(uri: str) -> tuple[str, int]:
    """Host and port of http://HOST:PORT. Errors: SinkError for anything else."""
    refusal = SinkError(f"{uri}: expected an address of this machine, such as http://127.0.0.1:8080")
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise refusal from error
    if parts.scheme != "http" or host is None or parts.path.strip("/") or parts.query or parts.username is not None:
        raise refusal
    return host, 8080 if port is None else port


def check_libraries(uri: str) -> None:
    """Errors: SinkError naming what the page lacks."""
    for name in ("starlette", "uvicorn", "websockets", "prometheus_client", "PIL"):
        try:
            import_module(name)
        except ImportError as error:
            raise SinkError(f"{uri}: the live page needs {name}; {install('page')}") from error


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class PageSink:
    """The live page as a sink. Errors: SinkError where the address cannot be had."""

    repeats = per_camera = True

    def __init__(self, uri: str, context: Context, *, token: str | None) -> None:
        import uvicorn

        from dkcam.runtime.live.page.app import Page

        host, port = address(uri)
        if token is None and not is_loopback(host):
            raise SinkError(f"{uri}: an address that others can reach needs --token (or --token-file); http://127.0.0.1:{port} does not")
        self._context = context
        self._socket = _bound(uri, host, port)
        self.port = int(self._socket.getsockname()[1])
        self.name = f"http://{'[' + host + ']' if ':' in host else host}:{self.port}"
        access = Access(Page(context).app, token=token, port=self.port, hosts=frozenset({host.lower()}))
        config = uvicorn.Config(
            access,
            log_config=None,
            http=_impatient(),
            access_log=False,  # addresses may hold what nobody should read
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=1 << 16,
            ws_per_message_deflate=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=1,
            server_header=False,
            proxy_headers=False,
        )
        self._server = _quiet(uvicorn.Server)(config)
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        async def serve() -> None:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS, "page worker"))
            self._context.hub.attach()
            beating = asyncio.create_task(_beat(self._context.health))
            await self._server.serve(sockets=[self._socket])
            beating.cancel()

        try:
            asyncio.run(serve())
        except BaseException:
            log.exception("the live page ended")

    @property
    def pictures(self) -> bool:
        return self._context.hub.viewers > 0

    def write(self, result: Result) -> bool:
        self._context.metrics.count(result)
        self._context.hub.publish(result, self._context.controls.settings.style)
        return True

    def close(self, complete: bool = True) -> None:
        self._context.hub.close()
        self._context.pictures.close()
        self._server.should_exit = True
        self._thread.join(LEAVE_S)
        self._socket.close()


async def _beat(health: Health) -> None:
    """The page's loop answers, and has a thread to encode pictures with."""
    while True:
        with health.busy("page"):
            await asyncio.to_thread(int)
            await asyncio.sleep(BEAT_S)


def _quiet(server: type) -> type:
    """Signals belong to the run."""

    class Server(server):  # type: ignore[misc]
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server


def _impatient() -> type[asyncio.Protocol]:
    """uvicorn's HTTP, which takes in everybody and waits for the end of a request for ever."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    places = Places()

    class Impatient(H11Protocol):
        """A guest, see ``places``; a connection on which nothing moves is cut."""

        address = ""
        _stuck_since: float | None = None
        _unsent = 0
        _shown = False
        _lost = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.address = place_of(self.client[0] if self.client else "")
            places.enter(self)
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self._lost = True
            super().connection_lost(exc)

        @property
        def gone(self) -> bool:
            return self._lost or self.transport.is_closing()

        @property
        def known(self) -> bool:
            scope = getattr(self.transport.get_protocol(), "scope", None) or {}  # of the WebSocket, where it is one by now
            self._shown = self._shown or bool(scope.get(KNOWN))
            return self._shown

        @property
        def idle(self) -> bool:
            if self.transport.get_protocol() is not self:
                return False
            return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

        def leave(self) -> None:
            self.transport.abort()

        def _look(self) -> None:
            """Now and then: a connection on which nothing moves is cut."""
            transport, now = self.transport, self.loop.time()
            if self._lost or getattr(transport.get_protocol(), "handshake_complete", False):  # gone, or a WebSocket by now
                return
            unsent, before = transport.get_write_buffer_size(), self._unsent
            self._unsent = unsent
            waits = self.cycle is None or self.cycle.response_complete or transport.is_closing() or transport.get_protocol() is not self
            if not waits and not (unsent and unsent >= before):
                self._stuck_since = None
            elif self._stuck_since is None:
                self._stuck_since = now
            elif now - self._stuck_since > (HEADERS_S if self.cycle is None else REQUEST_S):
                transport.abort()
                return
            self.loop.call_later(min(HEADERS_S, REQUEST_S) / 4, self._look)

    return Impatient


def _bound(uri: str, host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SinkError(f"{uri}: {host} is no address of this machine ({error.strerror or error})") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # the accepted connections inherit it
        bound.bind(place)
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise SinkError(f"{uri} cannot be served: {(error.strerror or str(error)).lower()}; choose another port") from error
    return bound
