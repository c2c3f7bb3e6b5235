"""What to export, and the checks that need no model."""

from __future__ import annotations

from dataclasses import dataclass

from dkcam.errors import ExportError
from dkcam.spec import LONGEST_SIDE, METHODS, MOST_BATCH, MOST_SAMPLES, OUTPUTS, PRECISIONS, STRIDE

DEFAULT_OUTPUTS = ("logits", "probabilities", "explained", "weights", "heatmap")


@dataclass(frozen=True)
class ExportOptions:
    """size: (height, width) in pixels, multiples of 32; None takes the checkpoint's, else 224×224.

    dynamic: subset of {"batch", "size"}. batch: (least, most); a fixed batch has both equal. explain: K, or None to
    leave it free. samples: DropKey masks. outputs: None for the default set (with heatmap_std when samples > 0).
    precision: fp32, fp16 or int8. target: cpu or gpu, for int8 alone; None means cpu.
    """

    size: tuple[int, int] | None = None
    dynamic: tuple[str, ...] = ()
    batch: tuple[int, int] = (1, 1)
    layer: str = "layer4"
    method: str = "gradcam"
    explain: int | None = None
    samples: int = 0
    mask_ratio: float | None = None
    outputs: tuple[str, ...] | None = None
    input: str = "rgb8"
    precision: str = "fp32"
    target: str | None = None

    def __post_init__(self) -> None:
        if self.size is not None and (min(self.size) < STRIDE or any(side % STRIDE for side in self.size)):
            height, width = self.size
            near = [max(STRIDE, round(side / STRIDE) * STRIDE) for side in self.size]
            raise ExportError(
                f"--size {height}x{width}: height and width must be multiples of {STRIDE}, the backbone's stride; "
                f"try --size {near[0]}x{near[1]}"
            )
        if self.method not in METHODS:
            raise ExportError(f"--method {self.method}: expected one of {', '.join(METHODS)}")
        if self.input not in ("rgb8", "tensor"):
            raise ExportError(f"--input {self.input}: expected rgb8 or tensor")
        if self.precision not in PRECISIONS:
            raise ExportError(f"--precision {self.precision}: expected one of {', '.join(PRECISIONS)}")
        if self.target is not None and (self.precision != "int8" or self.target not in ("cpu", "gpu")):
            raise ExportError(f"--target {self.target}: expected cpu or gpu, together with --precision int8")
        if not set(self.dynamic) <= {"batch", "size"}:
            raise ExportError(f"--dynamic {','.join(self.dynamic)}: expected batch, size or batch,size")
        least, most = self.batch
        if not 1 <= least <= most <= MOST_BATCH:
            raise ExportError(f"--batch {least}:{most}: expected 1 to {MOST_BATCH}, and the first not above the second")
        if least != most and "batch" not in self.dynamic:
            raise ExportError(f"--batch {least}:{most} is a range; add --dynamic batch, or give one number")
        if self.size is not None and max(self.size) > LONGEST_SIDE:
            raise ExportError(f"--size {self.size[0]}x{self.size[1]}: expected sides of up to {LONGEST_SIDE} pixels")
        if not 0 <= self.samples <= MOST_SAMPLES:
            raise ExportError(f"--samples {self.samples}: expected 0 to {MOST_SAMPLES} masks")
        if self.explain is not None and self.explain < 1:
            raise ExportError(f"--classes {self.explain}: expected 1 or more")
        if self.mask_ratio is not None and not 0 <= self.mask_ratio < 1:
            raise ExportError(f"--mask-ratio {self.mask_ratio}: expected 0 or more and below 1")
        unknown = [name for name in self.outputs or () if name not in OUTPUTS]
        if unknown:
            raise ExportError(f"--outputs {unknown[0]}: expected a list of {', '.join(OUTPUTS)}")
        if self.outputs is not None and "heatmap_std" in self.outputs and not self.samples:
            raise ExportError("--outputs heatmap_std: there is a spread over masks only with --samples N")

    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs in their fixed order."""
        chosen = set(self.outputs or DEFAULT_OUTPUTS)
        if self.samples and self.outputs is None:
            chosen.add("heatmap_std")
        return tuple(name for name in OUTPUTS if name in chosen)
