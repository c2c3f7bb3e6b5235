"""A camera's answer over HTTP, as a file for FFmpeg, which so opens no connection of its own.

Credentials in the address serve Basic and Digest authentication (``http_auth``). Redirects are not followed here.
"""

from __future__ import annotations

import fcntl
import ssl
import struct
import termios
import urllib.error
import urllib.request
from http.client import InvalidURL
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from dkcam.runtime.live.http_auth import authorization

PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
SAFE = "%/:=&?~#+!$,;'@()*[]"  # in paths and queries; what is encoded stays so
PEEK = 16  # first bytes, that say what it is


class Redirect(Exception):
    """The server names another address, ``uri``."""

    def __init__(self, uri: str) -> None:
        super().__init__("it names another address")
        self.uri = uri


class Body:
    """What the server sends after its headers. kind: its content type. head: the first bytes that were read.

    A server that is silent for ``timeout_s`` ends in TimeoutError. most: bytes that may come without a picture; whoever finds
    one sets ``unbroken`` to 0. Errors of opening: Redirect, OSError, http.client.HTTPException, ValueError.
    """

    def __init__(self, uri: str, timeout_s: float, most: int) -> None:
        parts = urlsplit(uri)
        place, path = parts.netloc.rpartition("@")[2], quote(parts.path or "/", SAFE)
        plain = urlunsplit((parts.scheme, place, path, quote(parts.query, SAFE), ""))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=any_certificate()), _Closed, _Stay)
        opener.addheaders = [("User-Agent", "dkcam"), ("Accept", "*/*")]
        try:
            self._response: Any = _opened(opener, urllib.request.Request(plain), parts, timeout_s)
        except urllib.error.HTTPError as error:
            elsewhere = error.headers.get("Location") if 300 <= error.code < 400 else None
            if elsewhere is not None:
                raise Redirect(urljoin(plain, elsewhere)) from None
            raise ValueError(f"its server answered {error.code} {str(error.reason)[:60]}") from None
        except urllib.error.URLError as error:
            raise (error.reason if isinstance(error.reason, OSError) else OSError(str(error.reason))) from None
        except InvalidURL:  # its words hold the address
            raise ValueError("its address is none") from None
        self.kind = str(self._response.headers.get_content_type())
        self.head = b""
        self.unbroken, self._most = 0, most

    def read(self, size: int) -> bytes:
        """What has arrived, ``size`` bytes at most; b"" at the end. Errors: OSError, ValueError for too much without a picture."""
        data = bytes(self._response.read1(size))
        self.unbroken += len(data)
        if self.unbroken > self._most:
            raise ValueError(f"it sent {self._most / 1e6:.0f} MB without a picture")
        if len(self.head) < PEEK:
            self.head += data[: PEEK - len(self.head)]
        return data

    def waiting(self) -> int:
        """Bytes that have arrived and that nobody has read."""
        if self._response.isclosed():
            return 0
        try:
            return int(struct.unpack("i", fcntl.ioctl(self._response.fileno(), termios.FIONREAD, bytes(4)))[0])
        except (OSError, ValueError):  # the connection is over
            return 0

    def close(self) -> None:
        self._response.close()


def _opened(opener: urllib.request.OpenerDirector, request: urllib.request.Request, parts: SplitResult, timeout_s: float) -> Any:
    """The answer; where it asks for a password and the address has one, the second answer."""
    try:
        return opener.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        asked = error.headers.get_all("WWW-Authenticate") or []
        if error.code != 401 or parts.username is None:
            raise
        user, password = unquote(parts.username), unquote(parts.password or "")
        answer = authorization(asked, user, password, "GET", request.selector)
        if answer is None:
            raise ValueError(f"it asks for a password in a way that is not known ({', '.join(asked)[:60]})") from None
        request.add_unredirected_header("Authorization", answer)
    return opener.open(request, timeout=timeout_s)


class _Closed(urllib.request.HTTPErrorProcessor):
    """An answer that is no stream is closed at once, also the one that asks for a password."""

    def http_response(self, request: Any, response: Any) -> Any:
        if not 200 <= response.status < 300:
            response.close()
        return super().http_response(request, response)

    https_response = http_response


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirect is followed."""

    def redirect_request(self, *asked: Any) -> None:
        return None


def any_certificate() -> ssl.SSLContext:
    """Cameras sign their certificates themselves: the line is encrypted, and nobody's name is checked."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
