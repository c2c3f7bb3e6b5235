"""What to export, and the checks that need no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dkcam.errors import ExportError
from dkcam.export.sizes import check_size
from dkcam.fields import OUTPUTS, converted, expected
from dkcam.spec import RULES

GIVEN = tuple(name for name in OUTPUTS if name not in ("boxes", "scores"))
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
        if self.size is not None:
            check_size(*self.size)
        for flag, name, value in (
            ("method", "method", self.method),
            ("input", "input", self.input),
            ("precision", "precision", self.precision),
            ("dynamic", "dynamic", self.dynamic),
            ("batch", "batch", self.batch),
            ("samples", "samples", self.samples),
            ("classes", "explain", self.explain),
            ("mask-ratio", "mask_ratio", self.mask_ratio),
        ):
            _check(flag, value, RULES[name])
        if self.target is not None and (self.precision != "int8" or self.target not in ("cpu", "gpu")):
            raise ExportError(f"--target {self.target}: expected cpu or gpu, together with --precision int8")
        least, most = self.batch
        if least != most and "batch" not in self.dynamic:
            raise ExportError(f"--batch {least}:{most} is a range; add --dynamic batch, or give one number")
        unknown = [name for name in self.outputs or () if name not in GIVEN]
        if unknown:
            raise ExportError(f"--outputs {unknown[0]}: expected a list of {', '.join(GIVEN)}")
        if self.outputs is not None and "heatmap_std" in self.outputs and not self.samples:
            raise ExportError("--outputs heatmap_std: there is a spread over masks only with --samples N")

    def output_names(self) -> tuple[str, ...]:
        """The graph's outputs in their fixed order."""
        chosen = set(self.outputs or DEFAULT_OUTPUTS)
        if self.samples and self.outputs is None:
            chosen.add("heatmap_std")
        return tuple(name for name in GIVEN if name in chosen)


def _check(flag: str, value: Any, rule: Any) -> None:
    """ExportError where a flag that was given does not fit the rule of its field."""
    if value is None:
        return
    try:
        converted(value, rule)
    except ValueError:
        between = ":" if flag == "batch" else ","
        shown = between.join(str(one) for one in value) if isinstance(value, tuple) else value
        raise ExportError(f"--{flag} {shown}: expected {expected(rule)}") from None
