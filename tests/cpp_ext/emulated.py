"""The CUDA kernels on the processor: their source, built by g++ with ``emulated.h`` in place of CUDA, under the names
that ``dkcam.runtime._native`` has where it was built with CUDA. Pointers are the processor's.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

FOLDER = Path(__file__).resolve().parents[2] / "cpp_ext"
COMPILER = shutil.which("g++")


class Rows(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_ssize_t), ("height", ctypes.c_int), ("width", ctypes.c_int))


class FitOfC(ctypes.Structure):
    _fields_ = (
        ("height", ctypes.c_int),
        ("width", ctypes.c_int),
        ("scale_y", ctypes.c_double),
        ("scale_x", ctypes.c_double),
        ("offset_y", ctypes.c_int),
        ("offset_x", ctypes.c_int),
    )


class Emulated:
    """The functions cuda_shrink, cuda_shrink_normalised and cuda_overlay of ``_native``."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def cuda_shrink(self, frame: tuple[int, ...], out: tuple[int, ...], stream: int) -> None:
        _check(self._library.dkcam_cuda_shrink(Rows(*frame), Rows(*out), ctypes.c_void_p(stream)))

    def cuda_shrink_normalised(
        self,
        frame: tuple[int, ...],
        planes: int,
        strides: tuple[int, int],
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        stream: int,
    ) -> None:
        three = ctypes.c_float * 3
        plane, row = (ctypes.c_ssize_t(value) for value in strides)
        run = self._library.dkcam_cuda_shrink_normalised
        _check(run(Rows(*frame), ctypes.c_void_p(planes), plane, row, *size, three(*mean), three(*std), ctypes.c_void_p(stream)))

    def cuda_overlay(
        self,
        frame: tuple[int, ...],
        heat: int,
        shape: tuple[int, int, int],
        tables: int,
        out: tuple[int, ...],
        size: tuple[int, int],
        scale: tuple[float, float],
        offset: tuple[int, int],
        tint: bool,
        stream: int,
    ) -> None:
        fit, run = FitOfC(*size, *scale, *offset), self._library.dkcam_cuda_overlay
        pointers = ctypes.c_void_p(heat), ctypes.c_void_p(tables)
        _check(run(Rows(*frame), pointers[0], *shape, fit, pointers[1], int(tint), Rows(*out), ctypes.c_void_p(stream)))


def _check(status: int) -> None:
    if status:
        raise ValueError("sizes are out of range")


@lru_cache(maxsize=1)
def emulated() -> Emulated:
    """Needs g++ with C++20."""
    target = Path(mkdtemp()) / "emulated.so"
    words = ["g++", "-std=c++20", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    folders = [f"-I{FOLDER}/include", f"-I{FOLDER}/src", f"-I{Path(__file__).parent}"]
    subprocess.run([*words, *folders, "-x", "c++", FOLDER / "cuda/kernels.cu", "-o", target], check=True)
    return Emulated(ctypes.CDLL(str(target)))
