"""The demo model's figures: ``python -m dkcam.tools.train.report MODEL.pt DATA -o FIGURES.json``.

Composed scenes and windows of real GTSDB frames (the half that training never sees), and rendered scenes; beside the
heatmap stand, on the same pictures, the chance of a peak anywhere, a centred Gaussian and a network with random weights.
Intervals are over physical signs (GTSRB tracks, GTSDB boxes) or frames, however often each is shown; rendered scenes differ all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from dkcam.tools.cli import Command, user_errors
from dkcam.tools.terminal import echo


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The JSON file to write.")
@click.option("--pictures", type=click.IntRange(min=16), default=600, show_default=True, help="Pictures of each kind.")
@user_errors
def main(model: Path, data: Path, output: Path, pictures: int) -> None:
    """Measure MODEL on DATA's validation halves and write the figures."""
    from dkcam.errors import DataError
    from dkcam.export.checkpoint import load_checkpoint
    from dkcam.files import write_file
    from dkcam.tools.scenes import Example, SignSize
    from dkcam.tools.scenes.composed import ComposedScenes
    from dkcam.tools.scenes.rendered import RenderedScenes
    from dkcam.tools.train.evaluate import score

    checkpoint = load_checkpoint(model)
    height, width = checkpoint.size or (192, 320)
    composed, size = ComposedScenes(data), SignSize()
    signs = [(frame, box) for frame in composed.frames["val"] for box in frame.boxes if box.label]

    def rng(kind: int, number: int) -> np.random.Generator:
        return np.random.default_rng((2023, kind, number))

    kinds: dict[str, Callable[[int], Example]] = {
        "composed scenes": lambda n: composed.validation(rng(0, n), height, width, size),
        "real sign windows": lambda n: composed.sign_of(signs, rng(1, n), n, height, width, size),
        "real windows without sign": lambda n: composed.empty("val", rng(2, n), height, width),
        "rendered scenes": lambda n: RenderedScenes().validation(rng(3, n), height, width, size),
    }
    figures = {}
    for name, draw in kinds.items():
        found = score(checkpoint.module(), draw, pictures)
        figures[name] = found.figures()
        echo(f"{name}: {found.line()}")
    document = {"checkpoint_sha256": checkpoint.sha256, "input": f"{height}x{width}", "real_signs": len(signs), "figures": figures}
    write_file(output, (json.dumps(document, indent=1) + "\n").encode(), DataError)


if __name__ == "__main__":
    main()
