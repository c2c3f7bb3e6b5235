"""``dk-train``: train a model on composed, rendered or your own pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dkcam.errors import DataError, install
from dkcam.tools.cli import SIZE, Command, user_errors, version_option
from dkcam.tools.terminal import echo, moving_line

if TYPE_CHECKING:
    from dkcam.tools.train.loop import Progress


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The checkpoint to write (model.pt).")
@click.option("--variant", type=click.Choice(["dropkey", "dropout", "plain"]), default="dropkey", show_default=True)
@click.option(
    "--width", type=click.FloatRange(0.125, 2.0), default=0.25, show_default=True, help="Factor on all channel counts; 1.0 is ResNet-50."
)
@click.option("--size", type=SIZE, default="192x320", show_default=True, help="Full canvas, height x width, multiples of 32.")
@click.option("--epochs", type=click.IntRange(min=1), default=24, show_default=True)
@click.option(
    "--epoch-pictures", type=click.IntRange(min=64), default=10_000, show_default=True, help="Pictures an epoch; scenes never run out."
)
@click.option("--batch", type=click.IntRange(min=2), default=64, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=0.1, show_default=True, help="Peak learning rate.")
@click.option(
    "--mask-ratio",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.3,
    show_default=True,
    help="Share of keys (channels, for dropout) dropped.",
)
@click.option("--init", type=click.Path(path_type=Path), help="Start from these weights.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--resume", is_flag=True, help="Go on from OUTPUT.state, which every epoch leaves until the run is done.")
@version_option
@user_errors
def main(
    data: str,
    output: Path,
    variant: str,
    width: float,
    size: tuple[int, int],
    epochs: int,
    epoch_pictures: int,
    batch: int,
    rate: float,
    mask_ratio: float,
    init: Path | None,
    seed: int,
    device: str,
    resume: bool,
) -> None:
    """Train on DATA and write a checkpoint.

    DATA is rendered: (drawn scenes, no files needed), a folder with one sub-folder of pictures per class, or a folder
    that holds gtsrb_train, gtsdb and tusimple (sign crops composed onto roads).
    """
    if any(side % 32 for side in size):
        raise DataError(f"--size {size[0]}x{size[1]}: height and width must be multiples of 32, the backbone's stride")
    if not output.parent.is_dir() or output.is_dir():
        raise DataError(f"{output} cannot be written: its folder does not exist, or it is a folder itself")
    try:
        import torch
    except ImportError as error:
        raise DataError(f"dk-train needs torch; {install('cpu,export')}") from error
    from dkcam.tools.scenes import open_examples
    from dkcam.tools.train.evaluate import evaluate
    from dkcam.tools.train.loop import TrainingOptions, train

    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch finds no NVIDIA GPU; use --device cpu, or install a CUDA build of torch")
    chosen = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    examples = open_examples(data)
    options = TrainingOptions(variant, width, mask_ratio, size[0], size[1], epochs, epoch_pictures, batch, rate, seed)
    echo(f"{len(examples.labels)} classes: {', '.join(examples.labels)}; {variant}, width {width}, on {chosen}", err=True)
    with _reporting() as report:
        checkpoint = train(examples, output, options, device=chosen, init=init, resume=resume, report=report)
    found = evaluate(checkpoint, examples, options)
    echo(f"{output}: {found.line()}")


@contextmanager
def _reporting() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on a terminal, else a line every hundred steps."""
    import sys

    if not sys.stderr.isatty():

        def plain(progress: Progress) -> None:
            if progress.step % 100 == 0 or progress.step == progress.steps:
                high, wide = progress.canvas
                echo(
                    f"step {progress.step}/{progress.steps}  {high}x{wide}  loss {progress.loss:.3f}  accuracy {progress.accuracy:.1%}",
                    err=True,
                )

        yield plain
        return
    with moving_line("text", "bar", "percent", "remaining") as show:
        show("training")

        def drawn(progress: Progress) -> None:
            words = f"{progress.canvas[0]}x{progress.canvas[1]}  loss {progress.loss:.3f}  accuracy {progress.accuracy:.1%}"
            show(words, progress.step, progress.steps)

        yield drawn
