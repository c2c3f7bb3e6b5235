"""The whole way from a checkpoint to a file on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from msgspec.structs import replace as changed

from dkcam.engines.progress import Report, silent
from dkcam.errors import EngineError, ExportError
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.graph import write_graph
from dkcam.export.options import ExportOptions
from dkcam.export.parity import CEILING, FACTOR, MOST_KINKS, TOLERANCE, Parity
from dkcam.export.pictures import Pictures
from dkcam.export.precision.build import LowPrecision, lower
from dkcam.export.sizes import STRIDE
from dkcam.export.verify import verify
from dkcam.spec import ExplanationSpec, InputSpec, MaskSpec, ModelSpec, NetworkSpec, Provenance, check_masks

DEFAULT_SIZE = (224, 224)
OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "Failed to allocate")  # torch's and onnxruntime's words


@dataclass(frozen=True)
class Exported:
    """The file's bytes, its spec, and the parity figures (None with verification left out)."""

    data: bytes
    spec: ModelSpec
    parity: Parity | None
    low: LowPrecision | None = None

    def report(self) -> Mapping[str, Any]:
        """What ``--report`` writes: the spec, every row, the limits, sizes."""
        parity = self.parity or Parity()
        return {
            "spec": json.loads(self.spec.to_json()),
            "bytes": len(self.data),
            # the limit of a map: tolerance, or float32_factor times torch's own float32 error, never above ceiling
            "tolerance": TOLERANCE,
            "float32_factor": FACTOR,
            "ceiling": CEILING,
            "verified": self.parity is not None,
            "input_dependence": parity.input_dependence,
            "kinks": parity.kinks if self.parity else None,
            "kink_units": parity.units if self.parity else None,
            "most_kinks": MOST_KINKS,
            "attention_score": parity.score if self.parity else None,
            "pictures": parity.images,
            "classes_judged": parity.classes if self.parity else None,
            "fidelity": self.low.fidelity.figures() if self.low and self.low.fidelity else None,
            "kept": [asdict(layer) for layer in self.low.kept] if self.low else [],
            "parity": [asdict(row) | {"passed": row.passed} for row in parity.rows],
        }


def make_spec(checkpoint: Checkpoint, options: ExportOptions) -> ModelSpec:
    """The spec of a checkpoint exported with these options, before verification."""
    config = checkpoint.config
    options = replace(options, size=options.size or checkpoint.size or DEFAULT_SIZE)  # the checkpoint's is checked like --size
    assert options.size is not None
    height, width = options.size
    way = InputSpec(
        kind=options.input,
        height=height,
        width=width,
        mean=checkpoint.mean,
        std=checkpoint.std,
        resize=checkpoint.resize,
        batch=options.batch,
        dynamic=tuple(sorted(options.dynamic)),
        multiple=STRIDE,
    )
    explanation = ExplanationSpec(
        layers=(options.layer,), method=options.method, count=options.explain, explained_output="logits", outputs=options.output_names()
    )
    provenance = Provenance(
        sha256=checkpoint.sha256,
        precision=options.precision,
        target=(options.target or "cpu") if options.precision == "int8" else "any",
        versions={name: version(name) for name in ("dkcam", "torch", "onnx", "onnxruntime")},
    )
    return ModelSpec(
        labels=checkpoint.labels,
        input=way,
        explanation=explanation,
        masks=_masks(checkpoint, options, height, width) if options.samples else None,
        network=NetworkSpec(variant=config.variant, model_width=config.width, family="ResNet-50"),
        provenance=provenance,
    )


def _masks(checkpoint: Checkpoint, options: ExportOptions, height: int, width: int) -> MaskSpec:
    config = checkpoint.config
    masks = MaskSpec(
        samples=options.samples,
        ratio=config.mask_ratio if options.mask_ratio is None else options.mask_ratio,
        grid=config.grid if config.variant == "dropkey" else None,
        token_stride=STRIDE,
    )
    try:
        check_masks(masks, height, width)
    except ValueError as error:
        raise ExportError(f"--samples {options.samples}: {error}; try fewer, or a smaller --size") from None
    return masks


def export(
    checkpoint: Checkpoint,
    options: ExportOptions,
    *,
    check: bool = True,
    calibration: Pictures | None = None,
    report: Report = silent,
) -> Exported:
    """Write and verify a graph in memory.

    check: compare with autograd; off, the file's spec says it was not verified. calibration: pictures to compare
    on, and to calibrate on, in place of rendered ones; ``dkcam.tools.calibration`` reads them. report: (what is
    being done, step, steps or 0) for a progress display. Errors: ExportError, ParityError, FidelityError.
    """
    spec = make_spec(checkpoint, options)
    if options.explain is not None and options.explain > checkpoint.config.classes:
        raise ExportError(f"--classes {options.explain}: the model has {checkpoint.config.classes} classes")
    low = None
    if spec.provenance.precision != "fp32":
        low = lower(checkpoint, spec, calibration, check=check, report=report)
        spec = low.describe(spec)
    if not check:
        return Exported(_write(checkpoint, spec, low), spec, None, low)
    report("comparing with autograd", 0, 0)
    try:
        parity = verify(write_graph(checkpoint, spec), checkpoint, spec, calibration)
    except (MemoryError, RuntimeError, EngineError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        raise ExportError(
            f"there is not enough memory to verify {spec.input.height}x{spec.input.width} pixels with {options.samples} masks; "
            "try a smaller --size, --batch or --samples, or --no-verify"
        ) from error
    parity.check()
    spec = changed(spec, provenance=changed(spec.provenance, verified=True, parity=parity.worst()))
    return Exported(_write(checkpoint, spec, low), spec, parity, low)


def _write(checkpoint: Checkpoint, spec: ModelSpec, low: LowPrecision | None) -> bytes:
    return write_graph(checkpoint, spec, numerics=low.numerics if low else None)
