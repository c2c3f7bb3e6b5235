"""Files read whole and replaced whole. What is written lies under a hidden name beside its target until it is finished, and is on
the disk before it takes the target's name. What a run that was killed left behind is removed when the same place is written again.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dkcam.errors import DkcamError

MOST_PIXELS = 100_000_000  # of a picture from a file
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


def read_file(path: Path, expected: str, error: type[DkcamError], *, most: int | None = None, secret: bool = False) -> bytes:
    """The whole content. Raises ``error`` naming ``expected`` for a missing, unreadable or empty file, a folder and a device.

    most: bytes; a larger file is refused before it is read. secret: a file that others may read is refused.
    """
    if not exists(path):
        raise error(f"{path} does not exist; expected {expected}")
    if path.is_dir():
        raise error(f"{path} is a folder; expected {expected}")
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):  # /dev/zero never ends
                raise error(f"{path} is a device; expected {expected}")
            if secret and os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                raise error(f"{path} can be read or changed by others (mode {stat.S_IMODE(status.st_mode):03o}); chmod 600 {path}")
            whole = most is None or (stat.S_ISREG(status.st_mode) and 0 < status.st_size <= most)
            data = file.read() if whole or most is None else file.read(most + 1) if status.st_size <= most else b""
            if most is not None and max(status.st_size, len(data)) > most:
                raise error(f"{path} has {_size(max(status.st_size, len(data)))}, {_size(most)} at most; expected {expected}")
    except OSError as reason:
        raise error(f"{path} cannot be read: {reason.strerror}") from reason
    if not data:
        raise error(f"{path} is empty; expected {expected}")
    return data


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count} bytes"


def make_folder(path: Path) -> None:
    """Make a folder for this user alone (0700, whatever the umask), and what is missing above it. One that is there stays as it is.

    Errors: OSError.
    """
    if path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
    else:
        path.chmod(0o700)


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


MARK = ".part"  # of hidden names: .NAME.<8 hexadecimal digits>.part


class Replacement:
    """A file in the making; ``temporary`` is where to write it.

    keep: move it to its place. set_aside: it is not whole, and gets a name of its own. discard: remove it. Raises ``error``
    when the place is not writable. private: for this user alone (0600), whatever the umask. quick: for one of thousands of
    pictures; not on the disk before it has its name, so that a power cut may leave an empty one, and without a look for left files.
    """

    def __init__(self, path: Path, error: type[DkcamError], *, suffix: str = "", private: bool = False, quick: bool = False) -> None:
        self.path, self._error, self._quick = path, error, quick
        if not quick:
            sweep(path.parent, path.name)
        try:
            self.temporary, self._held = _held(path, suffix, private)
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
            if not self._quick:
                _to_disk(self.temporary)
            self.temporary.replace(path)
        except OSError as reason:
            self.discard()
            raise self.failure(reason) from reason
        if not self._quick:
            with suppress(OSError):  # the file is there; some file systems cannot say more of a folder
                _to_disk(path.parent)
        self._let_go()
        return path

    def discard(self) -> None:
        with suppress(OSError):  # nothing more can be done about a place that fails
            self.temporary.unlink(missing_ok=True)
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            os.close(self._held)
            self._held = None


def _held(path: Path, suffix: str, private: bool) -> tuple[Path, int | None]:
    """A new hidden file and a handle with a lock on it, which says that someone is still writing. Errors: OSError."""
    for last in (False,) * 9 + (True,):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{MARK}{suffix}")
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        except FileExistsError:
            continue
        try:
            import fcntl
        except ImportError:  # Windows: an open file could not be moved
            os.close(handle)
            return temporary, None
        if private:
            os.fchmod(handle, 0o600)
        with suppress(OSError):  # a file system without locks: nothing of it is swept up, either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if last or _is_still(handle, temporary):  # else another run took it for a left one, in the instant before the lock
            return temporary, handle
        os.close(handle)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, name: str, *, pattern: bool = False) -> None:
    """Remove the hidden files of ``name`` that nobody writes any more: their run was killed. pattern: name is one, such as *.zip."""
    try:
        import fcntl
    except ImportError:
        return
    digits = "[0-9a-f]" * 8
    for left in folder.glob(f".{name if pattern else glob.escape(name)}.{digits}{MARK}*"):
        with suppress(OSError), left.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


class Claim:
    """That this process writes a place, until release: a second one is refused, where one of the two results would be lost.

    A lock on a hidden file (.NAME.lock beside it, or ``lock``), which the system lets go of with the process, however that
    ends. Raises ``error`` where another holds it. Where there are no locks (Windows, some network folders) nothing is claimed.
    """

    def __init__(self, path: Path, error: type[DkcamError], *, lock: Path | None = None, wait: bool = False) -> None:
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
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except BlockingIOError as reason:
                    raise error(f"{path} is being written by another run; wait for it, or choose another place") from reason
                except OSError:  # what cannot be written says so itself
                    return
                if _is_still(file.fileno(), self._lock):  # the one who held it may have removed it meanwhile
                    self._file = file
                    opened.pop_all()

    def release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._lock.unlink()
            self._file.close()
            self._file = None


@contextmanager
def replacing(path: Path, error: type[DkcamError], *, private: bool = False, quick: bool = False) -> Iterator[Path]:
    """The name to write to; moved into place when the block ends well, removed when it fails. private, quick: see ``Replacement``."""
    replacement = Replacement(path, error, private=private, quick=quick)
    try:
        yield replacement.temporary
    except OSError as reason:
        raise replacement.failure(reason) from reason
    else:
        replacement.keep()
    finally:
        replacement.discard()


def write_file(path: Path, data: bytes, error: type[DkcamError], *, private: bool = False, quick: bool = False) -> None:
    """Replace the file's content as a whole. private, quick: see ``Replacement``."""
    with replacing(path, error, private=private, quick=quick) as temporary:
        temporary.write_bytes(data)
