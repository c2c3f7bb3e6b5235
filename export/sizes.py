"""Input sizes that our ResNet-50 takes."""

from __future__ import annotations

from typing import Annotated

from dkcam.errors import ExportError
from dkcam.fields import LONGEST_SIDE, converted, says

STRIDE = 32  # pixels of the input per position of layer4
SIDE = Annotated[
    int, says(f"a multiple of {STRIDE} from {STRIDE} to {LONGEST_SIDE}", lambda side: side % STRIDE == 0, ge=STRIDE, le=LONGEST_SIDE)
]


def check_size(height: int, width: int) -> None:
    """Errors: ExportError for sides that ``SIDE`` does not allow."""
    try:
        for side in (height, width):
            converted(side, SIDE)
    except ValueError:
        if max(height, width) > LONGEST_SIDE:
            raise ExportError(f"--size {height}x{width}: expected sides of up to {LONGEST_SIDE} pixels") from None
        near = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in (height, width)]
        raise ExportError(
            f"--size {height}x{width}: height and width must be multiples of {STRIDE}, the backbone's stride; "
            f"try --size {near[0]}x{near[1]}"
        ) from None
