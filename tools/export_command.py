"""``dk-export``: a checkpoint becomes one verified ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dkcam.errors import ExportError, install
from dkcam.tools.cli import GRID, LIST, RANGE, SIZE, Command, progress_line, user_errors, version_option
from dkcam.tools.terminal import echo, echo_table

if TYPE_CHECKING:
    from dkcam.export.exporter import Exported
    from dkcam.export.parity import Parity
    from dkcam.export.precision.fidelity import Fidelity


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write. Default: MODEL with .onnx.")
@click.option(
    "--variant",
    type=click.Choice(["auto", "plain", "dropout", "dropkey"]),
    default="auto",
    help="The head, for checkpoints that do not say.",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Text file with one class name per line.")
@click.option("--size", type=SIZE, help="Input height x width, multiples of 32. Default: the checkpoint's, else 224x224.")
@click.option("--dynamic", type=LIST, default=(), help="Leave free: batch, size or batch,size.")
@click.option(
    "--batch", type=RANGE, help="Pictures per inference: N, or with --dynamic batch MIN:MAX (engines: MIN:OPT:MAX).  [default: 1]"
)
@click.option("--layer", default="layer4", show_default=True, help="layer1 to layer4, or a module such as layer3.2.conv2.")
@click.option("--method", default="gradcam", show_default=True, help="gradcam, gradcam++, xgradcam, layercam or hirescam.")
@click.option("--classes", "explain", type=int, help="Fix the number of classes explained at once. Default: free.")
@click.option("--samples", type=int, default=0, help="Average over this many DropKey masks, given as input key_mask.")
@click.option("--mask-ratio", type=float, help="Share of keys a mask drops. Default: the checkpoint's.")
@click.option("--outputs", type=LIST, help="Outputs to keep, e.g. logits or heatmap,gradient,features.")
@click.option(
    "--input",
    "input_",
    type=click.Choice(["rgb8", "tensor"]),
    default="rgb8",
    show_default=True,
    help="uint8 frames, or normalised tensors.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the backbone; the head stays fp32.",
)
@click.option("--target", type=click.Choice(["cpu", "gpu"]), help="Where an int8 file will run.  [default: cpu]")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Pictures to verify and calibrate on: folder, picture, video, or a data set in a form of dk-check's.",
)
@click.option("--windows", is_flag=True, help="With --calibration: a window around each object of a data set, as dk-check --windows.")
@click.option("--grid", type=GRID, help="With --calibration: rows x columns of windows of each frame, as dk-run --grid.")
@click.option("--engine", type=click.Choice(["tensorrt"]), help="Build an engine as well: MODEL.engine and MODEL.engine.json.")
@click.option("--dla", type=click.IntRange(0, 7), help="With --engine on a Jetson: the DLA core for the layers it can run.")
@click.option("--no-verify", is_flag=True, help="Leave the comparisons with the torch model out; the file says so.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the parity figures as JSON.")
@version_option
@user_errors
def main(
    model: Path,
    output: Path | None,
    variant: str,
    labels: Path | None,
    size: tuple[int, int] | None,
    dynamic: tuple[str, ...],
    batch: tuple[int, int, int] | None,
    layer: str,
    method: str,
    explain: int | None,
    samples: int,
    mask_ratio: float | None,
    outputs: tuple[str, ...] | None,
    input_: str,
    precision: str,
    target: str | None,
    calibration: Path | None,
    windows: bool,
    grid: tuple[int, int] | None,
    engine: str | None,
    dla: int | None,
    no_verify: bool,
    report: Path | None,
) -> None:
    """Write MODEL (.pt, .pth or .safetensors) as one ONNX file with scores and Grad-CAM heatmap inside.

    Every number the file gives is compared with autograd first; outside the tolerance nothing is written. An .onnx
    file of dk-export with --engine becomes an engine, without torch.
    """
    from dkcam.export.options import ExportOptions
    from dkcam.files import check_target, write_file

    if (windows or grid) and calibration is None:
        raise ExportError("--windows and --grid say how to look at --calibration; give --calibration too")
    if windows and grid:
        raise ExportError("--windows and --grid contradict each other: windows show one object each, a grid the whole picture")
    engine_file = None
    if dla is not None and engine is None:
        raise ExportError("--dla is about engines; give --engine tensorrt too")
    if engine is not None:
        from dkcam.engines.tensorrt.files import SUFFIXES

        engine_file = output if output and output.suffix in SUFFIXES else (output or model).with_suffix(".engine")
    if model.suffix == ".onnx":
        _engine_alone(model, engine_file, batch, dla)
        return
    destination = (output or model).with_suffix(".onnx") if engine_file else output or model.with_suffix(".onnx")
    for place in (destination, *([engine_file] if engine_file else []), *([report] if report else [])):
        check_target(place, {model: "the checkpoint", **({labels: "the labels file"} if labels else {})}, ExportError)
    if report is not None and report.resolve() == destination.resolve():
        raise ExportError(f"--report {report} is the model file; choose another place")
    options = ExportOptions(
        size=size,
        dynamic=dynamic,
        batch=(batch[0], batch[2]) if batch else (1, 16 if "batch" in dynamic else 1),
        layer=layer,
        method=method,
        explain=explain,
        samples=samples,
        mask_ratio=mask_ratio,
        outputs=outputs,
        input=input_,
        precision=precision,
        target=target or ("gpu" if engine and precision == "int8" else None),
    )
    names = read_labels(labels) if labels else None
    # torch takes seconds to import: everything that can be refused without it has been by now
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ExportError(f"dk-export needs torch and onnx; {install('cpu,export')}") from error
    from dkcam.export.checkpoint import load_checkpoint
    from dkcam.export.exporter import export, make_spec
    from dkcam.tools.calibration import read_calibration

    checkpoint = load_checkpoint(model, variant=variant, labels=names, size=size)
    with progress_line() as report_step:
        if calibration is not None:
            report_step("reading pictures", 0, 0)
        pictures = read_calibration(calibration, make_spec(checkpoint, options), windows=windows, grid=grid) if calibration else None
        exported = export(checkpoint, options, check=not no_verify, calibration=pictures, report=report_step)
    write_file(destination, exported.data, ExportError)
    if report:
        write_file(report, (json.dumps(exported.report(), indent=1) + "\n").encode(), ExportError)
    _print(exported, model, destination)
    if engine_file is not None:
        _build(exported.data, destination, engine_file, batch if "batch" in dynamic else None, dla)


def _engine_alone(model: Path, engine_file: Path | None, batch: tuple[int, int, int] | None, dla: int | None) -> None:
    """An exported file becomes an engine; what shapes a graph cannot be changed any more."""
    from dkcam.errors import ModelFileError
    from dkcam.files import check_target, read_file

    given = click.get_current_context()
    shaping = [
        name
        for name in given.params
        if name not in ("model", "output", "engine", "batch", "dla") and given.get_parameter_source(name) == ParameterSource.COMMANDLINE
    ]
    if engine_file is None:
        raise ExportError(f"{model} is exported already; give the checkpoint (.pt, .pth or .safetensors), or --engine tensorrt")
    if shaping:
        flag = "--" + shaping[0].rstrip("_").replace("_", "-").replace("explain", "classes")
        raise ExportError(f"{flag} shapes the graph, and {model} is exported already; give the checkpoint")
    check_target(engine_file, {model: "the model"}, ExportError)
    _build(read_file(model, "a model exported with dk-export (model.onnx)", ModelFileError), model, engine_file, batch, dla)


def _build(data: bytes, source: Path, engine_file: Path, batch: tuple[int, int, int] | None, dla: int | None) -> None:
    from dkcam.engines.tensorrt import load_tensorrt, make_engine

    library = load_tensorrt()
    with progress_line() as report_step:
        plan = make_engine(data, str(source), engine_file, batch, report_step, dla)
    shapes = ", ".join(
        f"{name} {' to '.join(str(v) for v in dict.fromkeys((values[0], values[2])))}"
        for name, values in (("batch", plan.profile.batch), ("height", plan.profile.height), ("width", plan.profile.width))
    )
    precision, size = plan.spec.provenance.precision, len(plan.data) / 1e6
    echo(f"{source} → {engine_file}: {library.flavour} {library.version}, {precision}, {shapes}, {size:.1f} MB")


def read_labels(path: Path) -> tuple[str, ...]:
    """One class name per line, blank lines left out. Errors: ExportError."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--labels {path} cannot be read ({error}); expected a text file with one class name per line") from error
    if not names:
        raise ExportError(f"--labels {path} is empty; expected one class name per line")
    return names


def _print(exported: Exported, model: Path, target: Path) -> None:
    from dkcam.export.parity import CEILING, FACTOR, TOLERANCE

    spec = exported.spec
    if exported.parity is not None:
        _print_parity(exported.parity)
        echo(
            f"torch's: the torch module's own error in float32; limit: {TOLERANCE:.0e}, or {FACTOR:.0f} times torch's up to {CEILING:.0e}."
        )
        if exported.parity.input_dependence is not None:
            echo(f"Heatmaps of different pictures differ by up to {exported.parity.input_dependence:.0%} of the maximum.")
    else:
        echo("Not verified (--no-verify); the file says so.")
    if exported.low is not None and exported.low.fidelity is not None:
        _print_fidelity(exported.low.fidelity, spec.provenance.precision)
        if exported.low.rendered:
            echo("Calibrated and judged on rendered scenes; --calibration with pictures of your own says what holds there.")
        if exported.low.kept:
            share = sum(layer.share for layer in exported.low.kept)
            echo(f"{len(exported.low.kept)} layers with {share:.0%} of all multiplications stay in float32:")
        for layer in exported.low.kept:
            echo(f"{layer.name} stays in float32: in int8 it alone costs {layer.harm:.4f}; it has {layer.share:.1%} of all multiplications")
    size = f"{spec.input.height}x{spec.input.width}" + (" (free)" if "size" in spec.input.dynamic else "")
    made, explained = spec.provenance, spec.explanation
    kind = made.precision + (f" for {made.target}" if made.target != "any" else "")
    echo(
        f"{model} → {target}: {spec.network.variant}, {len(spec.labels)} classes, {size}, {', '.join(explained.layers)}, "
        f"{explained.method}, {kind}, {len(exported.data) / 1e6:.1f} MB"
    )


def _print_parity(found: Parity) -> None:
    pictures = sum(found.images.values())
    of = f"{pictures} pictures, {found.classes} classes" if found.classes else f"{pictures} pictures"
    echo_table(
        f"Parity with autograd (float64), {of}: each map's error over its own maximum, for the map nearest its limit",
        ("output", "maps", "picture", "class", "error", "torch's", "limit"),
        [
            (row.output, str(row.maps), row.pictures, row.label, f"{row.error:.1e}", f"{row.float32:.1e}", f"{row.limit:.1e}")
            for row in found.by_output()
        ],
        left=("output", "picture", "class"),
    )


def _print_fidelity(found: Fidelity, precision: str) -> None:
    rows = []
    for name, value, digits in (
        ("pictures that keep their class", found.agreement, 4),
        ("top class's probability: mean change", found.change, 4),
        ("largest difference of a probability", found.probability, 4),
        ("heatmaps: Pearson correlation, mean", found.pearson, 4),
        ("heatmaps: Pearson correlation, lowest", found.worst, 4),
        ("heatmaps: Spearman correlation, mean", found.spearman, 4),
        ("heatmaps: overlap of the hottest fifth", found.iou, 3),
        ("heatmaps: shift of the peak, cells", found.peak_shift, 2),
    ):
        if isinstance(value, float):
            rows.append((name, f"{value:.{digits}f}", ""))
        elif value.count:
            rows.append((name, f"{value.value:.{digits}f}", f"{value.low:.{digits}f} to {value.high:.{digits}f}"))
    title = f"{precision} against the float32 model, {found.pictures} pictures held back"
    echo_table(title, ("figure", "value", "95 % interval"), rows, left=("figure",))
