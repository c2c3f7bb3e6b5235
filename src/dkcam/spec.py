"""What an exported graph is: the JSON that travels inside the ONNX file as ``dkcam.spec``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dkcam.errors import ModelFileError

SPEC_KEY = "dkcam.spec"
STRIDE = 32  # the backbone's; heights and widths are multiples of it
OUTPUTS = ("logits", "probabilities", "explained", "weights", "heatmap", "heatmap_std", "gradient", "features")
METHODS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")
RESIZE_MODES = ("stretch", "letterbox", "crop")


@dataclass(frozen=True)
class ModelSpec:
    """labels: one per class. height, width: the input in pixels (with dynamic size: what it was trained at).

    input: "rgb8" (uint8 [B, H, W, 3] RGB) or "tensor" (float32 [B, 3, H, W], normalised with mean and std of RGB
    values scaled to 0..1). resize: how frames reach the input size. batch: (least, most). samples: DropKey masks N, 0
    for none. explain: K where the graph fixes it, else None. dynamic: which of "batch" and "size" may vary.
    target: "any", or "cpu"/"gpu" for int8. parity: largest error per output relative to the reference's maximum.
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
    checkpoint_sha256: str = ""
    verified: bool = False
    parity: Mapping[str, float] = field(default_factory=dict)
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
            spec = ModelSpec(**values)
            if spec.resize not in RESIZE_MODES or spec.input not in ("rgb8", "tensor") or not spec.labels:
                raise ValueError("resize, input or labels")
            if min(int(spec.height), int(spec.width), int(spec.samples) + 1) < 1:
                raise ValueError("height, width or samples")
            return spec
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelFileError(f"{source} has a damaged {SPEC_KEY} ({error}); export the model again with dk-export") from error


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
