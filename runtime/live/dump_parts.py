"""The parts of a dump, read as a stranger's: what a part may hold is known before it is unfolded, and no more than that is."""

from __future__ import annotations

import math
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def read_part(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of a part. ValueError for more than ``most`` of them, KeyError for none; a packed part is unfolded no further."""
    with _opened(archive, name) as part:
        data = part.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{name} is larger than {_size(most)}")
    return data


def read_array(archive: zipfile.ZipFile, name: str, dtype: Any, expected: tuple[int | None, ...], most: int) -> NDArray[Any]:
    """An array of one part. expected: its shape, None for any length. most: bytes. ValueError where its header says anything else."""
    with _opened(archive, name) as part:
        version = np.lib.format.read_magic(part)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{name} is an array of format {version}")
        shape, by_columns, kind = read(part, max_header_size=1024)
        if kind != np.dtype(dtype) or by_columns or not _fits(shape, expected):
            raise ValueError(f"{name} is {kind} {str(shape)[:60]}, which this model and this frame do not have")
        size = math.prod(shape) * kind.itemsize
        if size > most:
            raise ValueError(f"{name} says it has {_size(size)}, {_size(most)} at most")
        data = part.read(size + 1)
    if len(data) != size:
        raise ValueError(f"{name} has {len(data)} bytes, its header says {size}")
    return np.frombuffer(data, kind).reshape(shape)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(wanted is None or side == wanted for side, wanted in zip(shape, expected, strict=True))


def _opened(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    part = archive.getinfo(name)
    if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile unfolds the others without a limit
        raise ValueError(f"{name} is packed in a way that dumps are not")
    return archive.open(part)


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count} bytes"
