"""Between FFmpeg and an RTSP camera: a relay on loopback that lets through what RTSP allows, and no way to another place.

    FFmpeg ── rtsp://127.0.0.1:port/… ──► Relay ── TCP, or TLS for rtsps:// ──► the camera

FFmpeg follows every redirect, and sends packets to whatever host an answer names. Here each answer is read and written anew: a redirect
ends the connection with ``Redirect``, hosts in ``Transport`` become the camera's own, headers and bodies have limits. Media in the same
connection ("$", channel, length: RFC 2326, 10.12) pass as they are.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from dkcam.runtime.live.http import PORTS, Redirect, any_certificate

LONGEST_LINE, MOST_HEADERS, LONGEST_BODY = 8 << 10, 100, 1 << 20  # bytes, headers, bytes
MOST_JUNK = 64 << 10  # bytes between messages, which some cameras send
CHUNK = 64 << 10
SHORTEST_MEDIA = 8  # bytes of a packet; the content of shorter ones FFmpeg reads as what follows them
ACCEPT_S = 5.0  # for FFmpeg, in this process, to connect

_ANSWER = re.compile(rb"RTSP/\d\.\d +(\d{3})( [^\0]*)?")
_REQUEST = re.compile(rb"[A-Z_]{3,20} [\x21-\x7e]+ RTSP/\d\.\d")
_HEADER = re.compile(rb"([A-Za-z0-9_-]+)[ \t]*:[ \t]*([^\0\r]*)")
_PROTOCOL = re.compile(rb"[\w/-]+")
_TRANSPORT = re.compile(rb"(unicast|multicast)|(interleaved|client_port|server_port|port|ttl|ssrc|mode)=[\w\"-]+", re.IGNORECASE)


class Refused(Exception):
    """What the camera sent that RTSP does not allow."""


class Relay:
    """uri: what FFmpeg opens, instead of the camera's address. failure: why the relay ended, where it was the camera's doing.

    Errors of opening: OSError, ValueError.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        parts = urlsplit(uri)
        host = parts.hostname or ""
        self._base = _without_credentials(parts)
        self._camera: socket.socket = socket.create_connection((host, parts.port or PORTS[parts.scheme.lower()]), timeout_s)
        self._camera.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = str(self._camera.getpeername()[0]).encode()
        if parts.scheme.lower() == "rtsps":
            self._camera = any_certificate().wrap_socket(self._camera, server_hostname=host)
        self._camera.settimeout(None)  # silence is FFmpeg's to notice
        here, family = ("::1", socket.AF_INET6) if self._camera.family == socket.AF_INET6 else ("127.0.0.1", socket.AF_INET)
        self._listener = socket.create_server((here, 0), family=family, backlog=1)  # FFmpeg takes UDP's family from it
        self._player: socket.socket | None = None
        self.failure: Exception | None = None
        at = parts.netloc.rpartition("@")
        self._place = f"{f'[{here}]' if ':' in here else here}:{self._listener.getsockname()[1]}"
        self._camera_place = at[2]
        place = f"{at[0]}{at[1]}{self._place}"
        self.uri = urlunsplit(("rtsp", place, parts.path, parts.query, ""))
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        for end in (self._listener, self._camera, self._player):
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _run(self) -> None:
        try:
            self._player = self._accepted()
            threading.Thread(target=self._requests, args=(self._player,), daemon=True).start()
            self._answers(self._player)
        except (Refused, Redirect) as error:
            self.failure = error
        except (OSError, ssl.SSLError):  # FFmpeg sees that it is over
            pass
        self.close()

    def _accepted(self) -> socket.socket:
        """FFmpeg's own connection: others on this machine may find the port, too."""
        self._listener.settimeout(ACCEPT_S)
        while True:
            player, peer = self._listener.accept()
            if not Path("/proc/self/fd").is_dir() or peer[:2] in _own_sockets():
                player.settimeout(None)
                player.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._listener.close()
                return player
            player.close()

    def _requests(self, player: socket.socket) -> None:
        with suppress(OSError):
            ours, theirs = (b"rtsp://" + one.encode() for one in (self._place, self._camera_place))
            while data := player.recv(CHUNK):
                if data[:1] != b"$" and b"Authorization: Digest" not in data:  # whose answer holds the address
                    method, space, rest = data.partition(b" ")
                    data = method + space + (theirs + rest.removeprefix(ours) if rest.startswith(ours) else rest)
                self._camera.sendall(data)
        self.close()

    def _answers(self, player: socket.socket) -> None:
        reader = Reader(self._camera)
        for message in reader.messages():
            player.sendall(message if message[:1] == b"$" else checked(message, self._host, self._base))


def checked(message: bytes, host: bytes, base: str) -> bytes:
    """An answer or a request of the camera's, without what leads elsewhere.

    host: the camera's own, put in place of those that it names. base: its address, for relative ones. Errors: Redirect, Refused.
    """
    head, _, body = message.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    named = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in headers)]
    answer = _ANSWER.fullmatch(first)
    if (answer is not None and answer[1].startswith(b"3")) or first.startswith(b"REDIRECT "):
        place = next((value.decode("utf-8", "replace") for name, value in named if name == b"location"), "")
        try:
            raise Redirect(urljoin(base, place))
        except ValueError:
            raise Refused(f"it redirects to what is no address ({place[:40]!r})") from None
    for at, (name, value) in enumerate(named):
        if name == b"transport":
            protocol, *words = (word.strip() for word in value.split(b",")[0].split(b";"))
            if not _PROTOCOL.fullmatch(protocol):
                raise Refused(f"it names a transport that is none ({protocol[:20]!r})")
            kept = [word for word in words if _TRANSPORT.fullmatch(word)]  # neither source nor destination
            source = [] if b"/TCP" in protocol.upper() else [b"source=" + host]
            headers[at] = b"Transport: " + b";".join([protocol, *kept, *source])
    return b"\r\n".join([first, *headers]) + b"\r\n\r\n" + body


class Reader:
    """What a camera sends, cut into messages: "$" and its data (several in one piece), or a head and its body."""

    def __init__(self, camera: socket.socket) -> None:
        self._camera, self._held = camera, b""
        self._junk = 0

    def messages(self) -> Iterator[bytes]:
        """Errors: Refused, OSError."""
        while True:
            media = self._media()
            if media is not None:
                self._junk = 0
                if media:
                    yield media
            elif self._held[:1] == b"$" or not self._held:
                if not self._more():
                    return
            else:
                line = self._line()
                if line is None:
                    return
                if _ANSWER.fullmatch(line) or _REQUEST.fullmatch(line):
                    self._junk = 0
                    message = self._message(line)
                    if message is None:
                        return
                    yield message
                    continue
                self._junk += len(line) + 2
                if self._junk > MOST_JUNK:
                    raise Refused(f"it sends no RTSP ({line[:20]!r})")

    def _more(self) -> bool:
        data = self._camera.recv(CHUNK)
        self._held += data
        return bool(data)

    def _media(self) -> bytes | None:
        """The whole packets at the beginning of what was received, without the shortest; None where there are none."""
        at, held, whole = 0, self._held, list[bytes]()
        while held[at : at + 1] == b"$" and at + 4 <= len(held):
            length = int.from_bytes(held[at + 2 : at + 4], "big")
            if at + 4 + length > len(held):
                break
            if length >= SHORTEST_MEDIA:
                whole.append(held[at : at + 4 + length])
            at += 4 + length
        self._held = held[at:]
        return b"".join(whole) if at else None

    def _line(self) -> bytes | None:
        """Up to its end, without it. None at the end of the connection."""
        while (at := self._held.find(b"\n")) < 0:
            if len(self._held) > LONGEST_LINE:
                raise Refused(f"it sent a line of more than {LONGEST_LINE >> 10} KiB")
            if not self._more():
                return None
        if at > LONGEST_LINE:
            raise Refused(f"it sent a line of more than {LONGEST_LINE >> 10} KiB")
        line, self._held = self._held[:at].rstrip(b"\r"), self._held[at + 1 :]
        return line

    def _message(self, first: bytes) -> bytes | None:
        """Written anew, so that nobody finds other borders in it. None at the end of the connection."""
        lines, length = [first], 0
        while line := self._line():
            if line[:1] == b"$":  # media to FFmpeg, also among headers
                raise Refused(f"it sent a header that is none ({line[:20]!r})")
            if line[:1] in (b" ", b"\t") and len(lines) > 1:  # folded
                lines[-1] += b" " + line.strip().replace(b"\0", b"")
                continue
            header = _HEADER.fullmatch(line)
            if header is None:  # nothing that anybody reads
                continue
            name, value = header[1], header[2].strip()
            if name.lower() == b"content-length":
                if not value.isdigit() or len(value) > 7 or int(value) > LONGEST_BODY:
                    raise Refused(f"it announced a body of {value[:20]!r} bytes; {LONGEST_BODY >> 20} MiB is the most")
                length = int(value)
                continue
            lines.append(name + b": " + value)
            if len(lines) > MOST_HEADERS:
                raise Refused(f"it sent more than {MOST_HEADERS} headers")
        while len(self._held) < length:
            if not self._more():
                return None
        if line is None:
            return None
        body, self._held = self._held[:length], self._held[length:]
        return b"\r\n".join([*lines, b"Content-Length: %d" % length]) + b"\r\n\r\n" + body


def _without_credentials(parts: SplitResult) -> str:
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def _own_sockets() -> set[tuple[str, int]]:
    """Local ends of this process's sockets."""
    ends: set[tuple[str, int]] = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # those that were closed meanwhile
            if str(link.readlink()).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as one:
                    if one.family in (socket.AF_INET, socket.AF_INET6):
                        ends.add(one.getsockname()[:2])
    return ends
