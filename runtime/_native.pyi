import numpy as np
from numpy.typing import NDArray

def shrink(frame: NDArray[np.uint8], out: NDArray[np.uint8], threads: int) -> None: ...
def shrink_normalised(
    frame: NDArray[np.uint8], out: NDArray[np.float32], mean: tuple[float, ...], std: tuple[float, ...], threads: int
) -> None: ...
def overlay(
    frame: NDArray[np.uint8],
    heat: NDArray[np.float32],
    tables: NDArray[np.uint32],
    out: NDArray[np.uint8],
    size: tuple[int, int],
    scale: tuple[float, float],
    offset: tuple[int, int],
    tint: bool,
    threads: int,
) -> None: ...

# Where dkcam was built with CUDA's compiler: device pointers, rows as (pointer, bytes from row to row, height, width).
def dlpack(array: object) -> tuple[int, list[int], list[int], str]: ...
def cuda_shrink(frame: tuple[int, int, int, int], out: tuple[int, int, int, int], stream: int) -> None: ...
def cuda_shrink_normalised(
    frame: tuple[int, int, int, int],
    planes: int,
    strides: tuple[int, int],
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    stream: int,
) -> None: ...
def cuda_overlay(
    frame: tuple[int, int, int, int],
    heat: int,
    shape: tuple[int, int, int],
    tables: int,
    out: tuple[int, int, int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
    offset: tuple[int, int],
    tint: bool,
    stream: int,
) -> None: ...
