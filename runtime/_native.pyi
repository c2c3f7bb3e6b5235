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
