"""What an exported graph is: the JSON that travels inside the ONNX file as ``dkcam.spec``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dkcam.errors import ModelFileError

SPEC_KEY = "dkcam.spec"
STRIDE = 32  # the backbone's; heights and widths are multiples of it
OUTPUTS = ("logits", "probabilities", "explained", "weights", "heatmap", "heatmap_std", "gradient", "features")
METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")
RESIZE_MODES = ("stretch", "letterbox", "crop")
VARIANTS = ("plain", "dropout", "dropkey")
INPUTS = ("rgb8", "tensor")
PRECISIONS = ("fp32", "fp16", "int8")
TARGETS = ("any", "cpu", "gpu")
LONGEST_SIDE = 8192  # pixels of an input
MOST_SAMPLES = 4096
MOST_MASK = 1 << 30  # bytes of DropKey masks, bool [N, T, T]
MOST_NUMBER = 1e300  # a whole number beyond a float's range is none
MOST_BATCH = 65_536
MOST_CLASSES = 1 << 20


@dataclass(frozen=True)
class ModelSpec:
    """labels: one per class. height, width: the input in pixels (with dynamic size: what it was trained at).

    input: "rgb8" (uint8 [B, H, W, 3] RGB) or "tensor" (float32 [B, 3, H, W], normalised with mean and std of RGB
    values scaled to 0..1). resize: how frames reach the input size. batch: (least, most). samples: DropKey masks N, 0
    for none. explain: K where the graph fixes it, else None. dynamic: which of "batch" and "size" may vary.
    precision: of the backbone, fp32, fp16 or int8. target: "any", or "cpu"/"gpu" for int8. kept: its convolutions in
    float32. parity: largest error per output of the fp32 graph relative to the reference's maximum. fidelity: figures of
    a low-precision graph against the fp32 model.
    """

    labels: tuple[str, ...]
    height: int
    width: int
    variant: str = "dropkey"
    model_width: float = 1.0
    input: str = "rgb8"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: str = "stretch"
    layer: str = "layer4"
    method: str = "gradcam"
    grid: tuple[int, int] | None = None
    mask_ratio: float = 0.3
    samples: int = 0
    explain: int | None = None
    batch: tuple[int, int] = (1, 1)
    dynamic: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("logits", "probabilities", "explained", "weights", "heatmap")
    precision: str = "fp32"
    target: str = "any"
    kept: tuple[str, ...] = ()
    checkpoint_sha256: str = ""
    verified: bool = False
    parity: Mapping[str, float] = field(default_factory=dict)
    fidelity: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def tokens(self, height: int | None = None, width: int | None = None) -> int:
        """Attention tokens T at an input size in pixels (default: the spec's own)."""
        if self.grid is not None:
            return self.grid[0] * self.grid[1]
        return ((height or self.height) // STRIDE) * ((width or self.width) // STRIDE)

    def to_json(self) -> str:
        """One line, sorted keys: the same spec gives the same text."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @staticmethod
    def from_json(text: str, source: str) -> ModelSpec:
        """Read the text back. ``source`` names the file in errors: ModelFileError for a damaged text."""
        try:
            values: dict[str, Any] = json.loads(text)
            known = {f.name for f in fields(ModelSpec)}
            values = {name: _tupled(value) for name, value in values.items() if name in known}
            check_values(values)
            spec = ModelSpec(**values)
            check_masks(spec.samples, spec.tokens())
            return spec
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFileError(
                f"{source} has a damaged {SPEC_KEY} ({str(error)[:200]}); export the model again with dk-export"
            ) from error


def check_masks(samples: int, tokens: int) -> None:
    """ValueError where N masks over T tokens take more memory than anyone means."""
    if samples * tokens**2 > MOST_MASK:
        raise ValueError(
            f"{samples} samples over {tokens} tokens are {samples * tokens**2 / 2**30:.3g} GiB of masks, "
            f"expected {MOST_MASK >> 30} GiB at most"
        )


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def check_values(values: Mapping[str, Any]) -> None:
    """Check fields of a spec or a checkpoint that came from a file, by name. ValueError: which one, and what was expected."""
    for name, value in values.items():
        valid, expected = _RULES[name]
        if not valid(value):
            shown = _shown(value)
            raise ValueError(f"{name} is {shown if len(shown) < 60 else shown[:57] + '...'}, expected {expected}")


def _shown(value: Any) -> str:
    """Python refuses to write whole numbers of thousands of digits."""
    return repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a number of more than 60 digits"


_Rule = tuple[Callable[[Any], bool], str]


def _whole(value: Any, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: Any, least: float = -math.inf, below: float = math.inf) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or abs(value) > MOST_NUMBER:
        return False
    return math.isfinite(value) and least <= value < below


def _list_of(value: Any, valid: Callable[[Any], bool], length: int | None = None) -> bool:
    return isinstance(value, tuple) and (length is None or len(value) == length) and all(valid(item) for item in value)


def _one_of(*names: str) -> _Rule:
    return lambda value: value in names, f"one of {', '.join(names)}"


def _map_of(valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(isinstance(k, str) and valid(v) for k, v in value.items())


def _text(value: Any) -> bool:
    return isinstance(value, str)


_SIDE: _Rule = (
    lambda value: _whole(value, STRIDE, LONGEST_SIDE) and value % STRIDE == 0,
    f"a multiple of {STRIDE} from {STRIDE} to {LONGEST_SIDE}",
)
_TEXT: _Rule = (_text, "text")
_RULES: Mapping[str, _Rule] = {
    "labels": (lambda value: _list_of(value, _text) and 1 <= len(value) <= MOST_CLASSES, "a list of one or more names"),
    "classes": (lambda value: _whole(value, 1, MOST_CLASSES), f"a whole number from 1 to {MOST_CLASSES}"),
    "height": _SIDE,
    "width": _SIDE,
    "variant": _one_of(*VARIANTS),
    "model_width": (lambda value: _number(value, 1e-6, 4.0001), "a number above 0 and up to 4"),
    "input": _one_of(*INPUTS),
    "mean": (lambda value: _list_of(value, _number, 3), "three numbers"),
    "std": (lambda value: _list_of(value, lambda item: _number(item, 1e-6), 3), "three numbers above 0"),
    "resize": _one_of(*RESIZE_MODES),
    "layer": _TEXT,
    "method": _one_of(*METHODS),
    "grid": (lambda value: value is None or _list_of(value, lambda item: _whole(item, 1, 1024), 2), "null or two whole numbers"),
    "mask_ratio": (lambda value: _number(value, 0, 1), "a number from 0 to below 1"),
    "samples": (lambda value: _whole(value, 0, MOST_SAMPLES), f"a whole number from 0 to {MOST_SAMPLES}"),
    "explain": (lambda value: value is None or _whole(value, 1, MOST_CLASSES), "null or a whole number of 1 or more"),
    "batch": (
        lambda value: _list_of(value, lambda item: _whole(item, 1, MOST_BATCH), 2) and value[0] <= value[1],
        f"two whole numbers up to {MOST_BATCH}, the first not above the second",
    ),
    "dynamic": (lambda value: _list_of(value, lambda item: item in ("batch", "size")), "a list of batch, size or both"),
    "outputs": (lambda value: _list_of(value, lambda item: item in OUTPUTS) and len(value) >= 1, "a list of outputs"),
    "precision": _one_of(*PRECISIONS),
    "target": _one_of(*TARGETS),
    "kept": (lambda value: _list_of(value, _text), "a list of names"),
    "checkpoint_sha256": _TEXT,
    "verified": (lambda value: isinstance(value, bool), "true or false"),
    "parity": (_map_of(_number), "names with numbers"),
    "fidelity": (_map_of(_number), "names with numbers"),
    "versions": (_map_of(_text), "names with text"),
}
