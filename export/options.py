"""What to export, and the checks that need no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dkcam.errors import ExportError
from dkcam.fields import LONGEST_SIDE, OUTPUTS, TASKS, converted, expected
from dkcam.spec import RULES

GIVEN = tuple(name for name in OUTPUTS if name not in ("boxes", "scores"))
DEFAULT_OUTPUTS = ("logits", "probabilities", "explained", "weights", "heatmap")


@dataclass(frozen=True)
class ExportOptions:
    """size: (height, width) in pixels; None takes the network's own, for our ResNet-50 without one 224×224. layer: as ``--layer`` names it,
    several with commas between them; None takes the default. task: "auto" or one of ``TASKS``. decode: how a detector's boxes are read,
    None to find out. per_image: ``classes`` is [B, K].

    dynamic: subset of {"batch", "size"}. batch: (least, most); a fixed batch has both equal. explain: K, or None to
    leave it free. samples: DropKey masks. outputs: None for the default set (with heatmap_std when samples > 0).
    precision: fp32, fp16 or int8. target: cpu or gpu, for int8 alone; None means cpu. labels: of the classes, () takes the file's.
    """

    size: tuple[int, int] | None = None
    dynamic: tuple[str, ...] = ()
    batch: tuple[int, int] = (1, 1)
    layer: str | None = None
    method: str = "gradcam"
    explain: int | None = None
    samples: int = 0
    mask_ratio: float | None = None
    outputs: tuple[str, ...] | None = None
    input: str = "rgb8"
    precision: str = "fp32"
    target: str | None = None
    task: str = "auto"
    decode: str | None = None
    per_image: bool = False
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None and max(self.size) > LONGEST_SIDE:
            raise ExportError(f"--size {self.size[0]}x{self.size[1]}: expected sides of up to {LONGEST_SIDE} pixels")
        if self.task not in ("auto", *TASKS):
            raise ExportError(f"--task {self.task}: expected auto or one of {', '.join(TASKS)}")
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
        if self.outputs is not None and "heatmap_std" in self.outputs and not self.samples:
            raise ExportError("--outputs heatmap_std: there is a spread over masks only with --samples N")

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of layers, () for the default."""
        return tuple(name.strip() for name in self.layer.split(",")) if self.layer else ()

    def output_names(self) -> tuple[str, ...]:
        """The outputs of our ResNet-50's graph in their fixed order. Errors: ExportError for one that it does not have."""
        unknown = [name for name in self.outputs or () if name not in GIVEN]
        if unknown:
            raise ExportError(f"--outputs {unknown[0]}: expected a list of {', '.join(GIVEN)}")
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
