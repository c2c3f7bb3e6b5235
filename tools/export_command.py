"""``dk-export``: a network becomes one verified ONNX file with its heatmap inside."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dkcam.errors import ExportError, install
from dkcam.fields import CHANNELS, RESIZE_MODES, TASKS
from dkcam.tools.cli import GRID, LIST, NUMBERS, RANGE, SCALE, SIZE, Command, progress_line, user_errors, version_option


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write. Default: MODEL with .onnx, or model.onnx.")
@click.option("--weights", type=click.Path(path_type=Path), help="For package.module:callable: its weights, .safetensors or a state dict.")
@click.option(
    "--task",
    type=click.Choice(["auto", *TASKS]),
    default="auto",
    show_default=True,
    help="What the network does, where its outputs do not tell.",
)
@click.option("--decode", help="How a detector's boxes are read: yolov5, yolov8, yolox, yolov10, rtdetr, detr, ssd, ssd-pixels.")
@click.option("--list-layers", is_flag=True, help="Print where a heatmap can be taken, and write nothing.")
@click.option("--layer", help="A value, node or module, e.g. layer3.2.conv2; several with commas. Default: the last map before pooling.")
@click.option("--method", default="gradcam", show_default=True, help="gradcam, gradcam++, xgradcam, layercam or hirescam.")
@click.option("--classes", "explain", type=int, help="Fix the number of classes explained at once. Default: free.")
@click.option("--classes-per-image", "per_image", is_flag=True, help="Make the input classes [B, K]: a list for each picture of a batch.")
@click.option("--outputs", type=LIST, help="Outputs to keep, e.g. logits or heatmap,gradient; the network's own name what is explained.")
@click.option("--labels", type=click.Path(path_type=Path), help="Text file with one class name per line.")
@click.option("--size", type=SIZE, help="Input height x width. Default: the network's own; for our ResNet-50 multiples of 32.")
@click.option("--dynamic", type=LIST, default=(), help="Leave free: batch, size or batch,size.")
@click.option(
    "--batch", type=RANGE, help="Pictures per inference: N, or with --dynamic batch MIN:MAX (engines: MIN:OPT:MAX).  [default: 1]"
)
@click.option(
    "--mean", type=NUMBERS, help="What the network subtracts from R,G,B (values times --scale). Default: the file's, or ImageNet's."
)
@click.option("--std", type=NUMBERS, help="What it divides R,G,B by then.")
@click.option("--scale", type=SCALE, help="What it multiplies values 0..255 by, first: (x * scale - mean) / std.  [default: 1/255]")
@click.option("--channels", type=click.Choice(CHANNELS), help="The order in which the network takes colours, or gray.  [default: rgb]")
@click.option("--resize", type=click.Choice(RESIZE_MODES), help="How frames reach the network's size.")
@click.option("--fill", type=click.IntRange(0, 255), help="Grey of a letterbox's bars.  [default: 114]")
@click.option(
    "--input",
    "input_",
    type=click.Choice(["rgb8", "tensor"]),
    default="rgb8",
    show_default=True,
    help="uint8 frames, or normalised tensors.",
)
@click.option(
    "--variant",
    type=click.Choice(["auto", "plain", "dropout", "dropkey"]),
    default="auto",
    help="Our ResNet-50's head, for checkpoints that do not say.",
)
@click.option("--samples", type=int, default=0, help="Average over this many DropKey masks, given as input key_mask.")
@click.option("--mask-ratio", type=float, help="Share of keys a mask drops. Default: the checkpoint's.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the network up to the explained layer; what follows stays fp32.",
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
@click.option("--no-verify", is_flag=True, help="Leave the comparisons with autograd out; the file says so.")
@click.option("--report", type=click.Path(path_type=Path), help="Write the parity figures as JSON.")
@version_option
@user_errors
def main(
    model: str,
    output: Path | None,
    weights: Path | None,
    task: str,
    decode: str | None,
    list_layers: bool,
    layer: str | None,
    method: str,
    explain: int | None,
    per_image: bool,
    outputs: tuple[str, ...] | None,
    labels: Path | None,
    size: tuple[int, int] | None,
    dynamic: tuple[str, ...],
    batch: tuple[int, int, int] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    scale: float | None,
    channels: str | None,
    resize: str | None,
    fill: int | None,
    input_: str,
    variant: str,
    samples: int,
    mask_ratio: float | None,
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
    """Write MODEL as one ONNX file with scores and heatmap inside.

    MODEL is any network in an .onnx file, a torch module as package.module:callable, or a checkpoint of our ResNet-50 (.pt, .pth,
    .safetensors). Every number the file gives is compared with autograd first; outside the tolerance nothing is written. A file of
    dk-export with --engine becomes an engine, without torch.
    """
    from dkcam.export.options import ExportOptions
    from dkcam.files import write_file
    from dkcam.tools.export.destination import Destination
    from dkcam.tools.export.engine import build, build_alone
    from dkcam.tools.export.printed import print_exported, print_layers

    if (windows or grid) and calibration is None:
        raise ExportError("--windows and --grid say how to look at --calibration; give --calibration too")
    if windows and grid:
        raise ExportError("--windows and --grid contradict each other: windows show one object each, a grid the whole picture")
    if dla is not None and engine is None:
        raise ExportError("--dla is about engines; give --engine tensorrt too")
    place = Destination.of(model, output, engine is not None)
    if place.exported:
        build_alone(place, batch, dla)
        return
    place.check({labels: "the labels file", weights: "the weights"}, report)
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
        task=task,
        decode=decode,
        per_image=per_image,
        labels=read_labels(labels) if labels else (),
    )
    if weights is not None and place.kind != "callable":
        raise ExportError(f"--weights {weights}: they belong to a package.module:callable; {model} has its own")
    # torch takes seconds to import: everything that can be refused without it has been by now
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ExportError(f"dk-export needs torch and onnx; {install('cpu,export')}") from error
    from dkcam.export.networks.picture import PictureFlags
    from dkcam.tools.export.source import Calibration, open_source

    picture = PictureFlags(mean=mean, std=std, scale=scale, channels=channels, resize=resize, letterbox=fill)
    with progress_line() as report_step:
        source = open_source(place, options, picture, weights, variant)
        if list_layers:
            print_layers(source.layers(options))
            return
        exported = source.export(options, Calibration(calibration, windows, grid), not no_verify, report_step)
    write_file(place.file, exported.data, ExportError)
    if report:
        write_file(report, (json.dumps(exported.report(), indent=1) + "\n").encode(), ExportError)
    print_exported(exported, place)
    if place.engine is not None:
        build(exported.data, place.file, place.engine, batch if "batch" in dynamic else None, dla)


def read_labels(path: Path) -> tuple[str, ...]:
    """One class name per line, blank lines left out. Errors: ExportError."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--labels {path} cannot be read ({error}); expected a text file with one class name per line") from error
    if not names:
        raise ExportError(f"--labels {path} is empty; expected one class name per line")
    return names
