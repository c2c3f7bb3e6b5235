"""Where engines keep what is slow to compute. Every entry begins with the hash of its content and of what it was made for: what was
damaged, changed or put under another's name is deleted and made anew, with a word.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dkcam.errors import DkcamError, EngineError
from dkcam.files import make_folder, write_file

CACHE_VARIABLE = "DKCAM_CACHE"
MAGIC = b"dkcam-cache-1 "
KEPT = 32  # entries of a kind; the oldest go first
_HEAD = len(MAGIC) + 64 + 1  # bytes: the SHA-256 in hexadecimal, a line break

log = logging.getLogger("dkcam")


def cache_folder() -> Path | None:
    """$DKCAM_CACHE, else $XDG_CACHE_HOME/dkcam, else ~/.cache/dkcam; None for a user without a home folder."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "dkcam"
    except RuntimeError:
        return None


@dataclass(frozen=True)
class Entry:
    """One file of the cache. key: all that its content depends on; the content of another key is refused."""

    path: Path
    key: str

    def read(self) -> bytes | None:
        """The content, or None where there is none that can be used."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return None
        if data[:_HEAD] == self._head(data[_HEAD:]):
            return data[_HEAD:]
        self.drop("it is not what was written there for this model" if data.startswith(MAGIC) else "it is damaged")
        return None

    def drop(self, why: str) -> None:
        """Delete it, with a word."""
        log.warning("%s, an entry of the cache, is deleted and made anew: %s", self.path, why)
        with suppress(OSError):
            self.path.unlink()

    def write(self, content: bytes) -> None:
        """Keep it, for this user alone. What cannot be written (no space, read-only) is left out: it only saves time."""
        with suppress(OSError, DkcamError):
            make_folder(self.path.parent)
            write_file(self.path, self._head(content) + content, EngineError, private=True)
            self._trim()

    def _head(self, content: bytes) -> bytes:
        digest = hashlib.sha256(self.key.encode() + b"\0")
        digest.update(content)
        return MAGIC + digest.hexdigest().encode() + b"\n"

    def _trim(self) -> None:
        """Entries from the future were written before the clock was set back: nobody knows how old they are, so they go first."""
        now = time.time()
        others = [path for path in self.path.parent.glob(f"*{self.path.suffix}") if path != self.path]
        ages = {path: _written(path, now) for path in others}
        for old in sorted(others, key=lambda path: ages[path], reverse=True)[: max(0, len(others) + 1 - KEPT)]:
            old.unlink(missing_ok=True)


def _written(path: Path, now: float) -> float:
    """Seconds since, infinite where it is in the future or nobody knows."""
    try:
        age = now - path.stat().st_mtime
    except OSError:
        return float("inf")
    return age if age >= 0 else float("inf")
