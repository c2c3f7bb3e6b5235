"""Answers to what HTTP servers ask for before they send: Basic (RFC 7617) and Digest (RFC 7616; qop auth or none).

urllib's own handlers take one challenge in one header, and no MD5-sess; cameras send several, and all kinds.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence

HASHES: dict[str, Callable[[bytes], str]] = {
    "MD5": lambda data: hashlib.md5(data, usedforsecurity=False).hexdigest(),
    "SHA-256": lambda data: hashlib.sha256(data).hexdigest(),
}
_SCHEME = re.compile(r"(?:^|,)\s*([A-Za-z][\w-]*)(?=\s+[\w-]+\s*=|\s*(?:,|$))(?!\s*=)")
_FIELD = re.compile(r'([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')


def authorization(headers: Sequence[str], user: str, password: str, method: str, target: str) -> str | None:
    """The Authorization header for the strongest challenge that can be answered; None where there is none.

    headers: every WWW-Authenticate. target: of the request line.
    """
    challenges = [challenge for header in headers for challenge in challenges_of(header)]
    for name in ("SHA-256", "MD5"):
        for scheme, fields in challenges:
            if scheme == "digest" and fields.get("algorithm", "MD5").upper().removesuffix("-SESS") == name and "nonce" in fields:
                return _digest(HASHES[name], fields, user, password, method, target)
    if any(scheme == "basic" for scheme, _ in challenges):
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return None


def challenges_of(header: str) -> list[tuple[str, dict[str, str]]]:
    """Scheme, in small letters, and its fields, names in small letters."""
    found = [one for one in _SCHEME.finditer(header) if header[: one.start(1)].count('"') % 2 == 0]  # not within a quoted word
    ends = [*(one.start() for one in found), len(header)][1:]
    return [(one[1].lower(), _fields(header[one.end() : end])) for one, end in zip(found, ends, strict=True)]


def _fields(text: str) -> dict[str, str]:
    return {name.lower(): re.sub(r"\\(.)", r"\1", quoted) or plain for name, quoted, plain in _FIELD.findall(text)}


def _digest(digest: Callable[[bytes], str], fields: dict[str, str], user: str, password: str, method: str, target: str) -> str:
    def hashed(*parts: str) -> str:
        return digest(":".join(parts).encode())

    realm, nonce, client = fields.get("realm", ""), fields["nonce"], secrets.token_hex(8)
    secret = hashed(user, realm, password)
    if fields.get("algorithm", "").upper().endswith("-SESS"):
        secret = hashed(secret, nonce, client)
    asked = hashed(method, target)
    given = {"username": user, "realm": realm, "nonce": nonce, "uri": target}
    if "auth" in [word.strip() for word in fields.get("qop", "").split(",")]:
        given["response"] = hashed(secret, nonce, "00000001", client, "auth", asked)
        bare = {"qop": "auth", "nc": "00000001"}
        given["cnonce"] = client
    else:
        given["response"] = hashed(secret, nonce, asked)
        bare = {}
    if "opaque" in fields:
        given["opaque"] = fields["opaque"]
    if "algorithm" in fields:
        bare["algorithm"] = fields["algorithm"]
    quoted = [f'{name}="{value}"' for name, value in ((n, v.replace("\\", "\\\\").replace('"', '\\"')) for n, v in given.items())]
    return "Digest " + ", ".join([*quoted, *(f"{name}={value}" for name, value in bare.items())])
