"""One rule a field: what a value in a model's description may be. A file, a checkpoint and a flag are held to the same rule.

A rule is a type that msgspec converts to, with bounds, and with the words of the error message as its description. What bounds
cannot say stands in ``holds``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

OUTPUTS = ("logits", "probabilities", "explained", "boxes", "scores", "weights", "heatmap", "heatmap_std", "gradient", "features")
MAPS = ("weights", "heatmap", "heatmap_std", "gradient", "features")  # outputs that are about the explained layer
METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")
RESIZE_MODES = ("stretch", "letterbox", "crop")
VARIANTS = ("plain", "dropout", "dropkey")
TASKS = ("classify", "detect", "regress", "dense")
INPUTS = ("rgb8", "tensor")
CHANNELS = ("rgb", "bgr", "gray")
SCORES = ("logit", "probability", "margin")
PRECISIONS = ("fp32", "fp16", "int8")
TARGETS = ("any", "cpu", "gpu")
FREE = ("batch", "size")
LONGEST_SIDE = 8192  # pixels of an input
MOST_SAMPLES = 4096
MOST_MASK = 1 << 30  # bytes of DropKey masks, bool [N, T, T]
MOST_NUMBER = 1e300  # a whole number beyond a float's range is none
MOST_BATCH = 65_536
MOST_CLASSES = 1 << 20
MOST_LAYERS = 64
MOST_BOXES = 1000  # of a detector's ranks


def says(words: str, holds: Callable[[Any], bool] = lambda value: True, **bounds: Any) -> Meta:
    """Bounds of msgspec's, a condition on the converted value, and both in words, for "NAME is VALUE, expected WORDS"."""
    return Meta(description=words, extra={"holds": holds}, **bounds)


def _one_of(*names: str) -> Meta:
    return says(f"one of {', '.join(name or 'no name' for name in names)}", lambda value: value in names)


Number = Annotated[float, Meta(ge=-MOST_NUMBER, le=MOST_NUMBER)]  # finite
Positive = Annotated[float, Meta(ge=1e-6, le=MOST_NUMBER)]
_Side = Annotated[int, Meta(ge=1, le=LONGEST_SIDE)]
_Batch = Annotated[int, Meta(ge=1, le=MOST_BATCH)]
_Cells = Annotated[int, Meta(ge=1, le=1024)]

Text = Annotated[str, says("text")]
Names = Annotated[tuple[str, ...], says("a list of names")]
Flag = Annotated[bool, says("true or false")]
Figures = Annotated[Mapping[str, Number], says("names with numbers")]
Texts = Annotated[Mapping[str, str], says("names with text")]

Labels = Annotated[tuple[str, ...], says("a list of one or more names", min_length=1, max_length=MOST_CLASSES)]
Classes = Annotated[int, says(f"a whole number from 1 to {MOST_CLASSES}", ge=1, le=MOST_CLASSES)]
Task = Annotated[str, _one_of(*TASKS)]

Kind = Annotated[str, _one_of(*INPUTS)]
Side = Annotated[int, says(f"a whole number from 1 to {LONGEST_SIDE}", ge=1, le=LONGEST_SIDE)]
Channels = Annotated[str, _one_of(*CHANNELS)]
Mean = Annotated[tuple[Number, Number, Number], says("three numbers")]
Std = Annotated[tuple[Positive, Positive, Positive], says("three numbers above 0")]
Scale = Annotated[float, says("a number above 0", ge=1e-9, le=MOST_NUMBER)]
Resize = Annotated[str, _one_of(*RESIZE_MODES)]
Grey = Annotated[int, says("a whole number from 0 to 255", ge=0, le=255)]
Batch = Annotated[
    tuple[_Batch, _Batch], says(f"two whole numbers up to {MOST_BATCH}, the first not above the second", lambda value: value[0] <= value[1])
]
Dynamic = Annotated[tuple[str, ...], says("a list of batch, size or both", lambda value: set(value) <= set(FREE))]

Layers = Annotated[tuple[str, ...], says(f"a name, or a list of up to {MOST_LAYERS}", min_length=1, max_length=MOST_LAYERS)]
MapSizes = Annotated[tuple[tuple[_Side, _Side], ...], says("a list of two whole numbers each", max_length=MOST_LAYERS)]
Method = Annotated[str, _one_of(*METHODS)]
Count = Annotated[Annotated[int, Meta(ge=1, le=MOST_CLASSES)] | None, says("null or a whole number of 1 or more")]
Score = Annotated[str, _one_of(*SCORES)]
Outputs = Annotated[tuple[str, ...], says("a list of outputs", lambda value: set(value) <= set(OUTPUTS), min_length=1)]

Samples = Annotated[int, says(f"a whole number from 0 to {MOST_SAMPLES}", ge=0, le=MOST_SAMPLES)]
Ratio = Annotated[float, says("a number from 0 to below 1", ge=0, lt=1)]
Grid = Annotated[tuple[_Cells, _Cells] | None, says("null or two whole numbers")]

Variant = Annotated[str, _one_of(*VARIANTS, "")]
Width = Annotated[float, says("a number above 0 and up to 4", ge=1e-6, le=4)]
Precision = Annotated[str, _one_of(*PRECISIONS)]
Target = Annotated[str, _one_of(*TARGETS)]


def expected(rule: Any) -> str:
    """What a rule asks for, in words."""
    return str(get_args(rule)[1].description)


def converted(value: Any, rule: Any) -> Any:
    """The value as its rule's type (lists as tuples). ValueError where the rule does not hold."""
    try:
        found = msgspec.convert(value, rule)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if not get_args(rule)[1].extra["holds"](found):
        raise ValueError(expected(rule))
    return found


def checked(name: str, value: Any, rule: Any) -> Any:
    """As ``converted``; the error is one line: the field, what it is and what was expected."""
    try:
        return converted(value, rule)
    except ValueError:
        shown = _shown(value)
        raise ValueError(f"{name} is {shown if len(shown) < 60 else shown[:57] + '...'}, expected {expected(rule)}") from None


def _shown(value: Any) -> str:
    """Python refuses to write whole numbers of thousands of digits."""
    return repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a number of more than 60 digits"
