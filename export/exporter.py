"""The whole way from a checkpoint to a file on disk."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from msgspec.structs import replace as changed

from dkcam.engines.progress import Report, silent
from dkcam.errors import EngineError, ExportError
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.checkpoint_graph import subject_of, write_graph
from dkcam.export.exported import Exported
from dkcam.export.options import ExportOptions
from dkcam.export.pictures import Pictures
from dkcam.export.precision.build import LowPrecision, build
from dkcam.export.sizes import STRIDE, check_size
from dkcam.export.verify import verify
from dkcam.spec import ExplanationSpec, InputSpec, MaskSpec, ModelSpec, NetworkSpec, Provenance, check_masks

DEFAULT_SIZE = (224, 224)
DEFAULT_LAYER = "layer4"
OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "Failed to allocate")  # torch's and onnxruntime's words


def make_spec(checkpoint: Checkpoint, options: ExportOptions) -> ModelSpec:
    """The spec of a checkpoint exported with these options, before verification."""
    config = checkpoint.config
    options = replace(options, size=options.size or checkpoint.size or DEFAULT_SIZE)  # the checkpoint's is checked like --size
    assert options.size is not None
    check_size(*options.size)
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
        layers=(options.layer or DEFAULT_LAYER,),
        method=options.method,
        count=options.explain,
        explained_output="logits",
        outputs=options.output_names(),
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
        low = build(subject_of(checkpoint, spec), spec, calibration, check=check, report=report)
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
    return write_graph(checkpoint, spec, low.numerics if low else None)
