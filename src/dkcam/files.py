"""Files read whole and replaced whole. What is written lies under a hidden name beside its target until it is finished."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dkcam.errors import DkcamError

KINDS = {
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG": "a PNG picture",
    b"GIF8": "a GIF picture",
    b"RIFF": "an AVI, WAV or WebP file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"%PDF": "a PDF file",
    b"\x89HDF": "an HDF5 file",
    b"\x1aE\xdf\xa3": "a Matroska video",
    b"\x7fELF": "a program",
}


def exists(path: Path) -> bool:
    """Whether something is there; a name that the file system cannot hold is not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def kind_of(data: bytes) -> str:
    """What a file's first bytes say it is, for messages: "a text file", "a JPEG picture", …"""
    for start, kind in KINDS.items():
        if data.startswith(start):
            return kind
    if data[4:8] == b"ftyp":
        return "an MP4 video"
    head = data[:4096]
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a character that is cut off
            return "a file of an unknown kind"
    return "a file of an unknown kind" if b"\0" in head else "a text file"


def read_file(path: Path, expected: str, error: type[DkcamError]) -> bytes:
    """The whole content. Raises ``error`` naming ``expected`` for a missing, unreadable or empty file and for a folder."""
    if not exists(path):
        raise error(f"{path} does not exist; expected {expected}")
    if path.is_dir():
        raise error(f"{path} is a folder; expected {expected}")
    try:
        data = path.read_bytes()
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from reason
    if not data:
        raise error(f"{path} is empty; expected {expected}")
    return data


def check_target(path: Path, inputs: Mapping[Path, str], error: type[DkcamError]) -> None:
    """Raise ``error`` where a file cannot be written, or where it would replace one of ``inputs`` ({path: what it is})."""
    if not exists(path.parent) or not path.parent.is_dir():
        raise error(f"{path} cannot be written: {path.parent} is not a folder; create it, or choose another place")
    if not exists(path):
        return
    if path.is_dir():
        raise error(f"{path} cannot be written: it is a folder; give a file name")
    if not path.is_file():
        raise error(f"{path} is not a regular file; choose another place")
    for other, what in inputs.items():
        if exists(other) and path.samefile(other):
            raise error(f"{path} is {what} itself and would be overwritten; choose another place")


class Replacement:
    """A file in the making; ``temporary`` is where to write it.

    keep: move it to its place. set_aside: it is not whole, and gets a name of its own. discard: remove it. Raises ``error``
    when the place is not writable.
    """

    def __init__(self, path: Path, error: type[DkcamError], *, suffix: str = "") -> None:
        self.path, self._error = path, error
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}{suffix}")
        try:
            self.temporary.touch()
        except OSError as reason:
            raise self.failure(reason) from reason

    def failure(self, reason: OSError) -> DkcamError:
        """The error to raise for a failed write."""
        return self._error(f"{self.path} cannot be written: {reason.strerror or reason}; free or choose another place")

    def keep(self) -> Path:
        return self._move(self.path)

    def set_aside(self) -> Path:
        """As NAME.partial.EXT: what has its own name is whole. Returns the name."""
        return self._move(self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}"))

    def _move(self, path: Path) -> Path:
        try:
            return self.temporary.replace(path)
        except OSError as reason:
            self.discard()
            raise self.failure(reason) from reason

    def discard(self) -> None:
        with suppress(OSError):  # nothing more can be done about a place that fails
            self.temporary.unlink(missing_ok=True)


class Claim:
    """That this process writes a place, until release: a second one is refused, where one of the two results would be lost.

    A lock on a hidden file (.NAME.lock beside it, or ``lock``), which the system lets go of with the process, however that
    ends. Raises ``error`` where another holds it. Where there are no locks (Windows, some network folders) nothing is claimed.
    """

    def __init__(self, path: Path, error: type[DkcamError], *, lock: Path | None = None) -> None:
        self._lock = lock or path.with_name(f".{path.name}.lock")
        self._file: BinaryIO | None = None
        try:
            import fcntl
        except ImportError:
            return
        while self._file is None:
            with ExitStack() as opened:
                try:
                    file = opened.enter_context(self._lock.open("ab"))
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as reason:
                    raise error(f"{path} is being written by another run; wait for it, or choose another place") from reason
                except OSError:  # what cannot be written says so itself
                    return
                if self._is(file):
                    self._file = file
                    opened.pop_all()

    def _is(self, file: BinaryIO) -> bool:
        """Whether it is still the file of that name: the one who held it may have removed it meanwhile."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._lock.stat())
        except OSError:
            return False

    def release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._lock.unlink()
            self._file.close()
            self._file = None


@contextmanager
def replacing(path: Path, error: type[DkcamError]) -> Iterator[Path]:
    """The name to write to; moved into place when the block ends well, removed when it fails."""
    replacement = Replacement(path, error)
    try:
        yield replacement.temporary
    except OSError as reason:
        raise replacement.failure(reason) from reason
    else:
        replacement.keep()
    finally:
        replacement.discard()


def write_file(path: Path, data: bytes, error: type[DkcamError]) -> None:
    """Replace the file's content as a whole."""
    with replacing(path, error) as temporary:
        temporary.write_bytes(data)
