"""An exported file becomes a TensorRT engine."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from dkcam.errors import ExportError, ModelFileError
from dkcam.files import check_target, read_file
from dkcam.tools.cli import progress_line
from dkcam.tools.export.destination import Destination
from dkcam.tools.terminal import echo


def build_alone(place: Destination, batch: tuple[int, int, int] | None, dla: int | None) -> None:
    """A file that was exported before; what shapes a graph cannot be changed any more. Errors: ExportError."""
    given = click.get_current_context()
    shaping = [
        name
        for name in given.params
        if name not in ("model", "output", "engine", "batch", "dla") and given.get_parameter_source(name) == ParameterSource.COMMANDLINE
    ]
    if shaping:
        flag = "--" + shaping[0].rstrip("_").replace("_", "-").replace("explain", "classes").replace("per-image", "classes-per-image")
        raise ExportError(f"{flag} shapes the graph, and {place.model} is exported already; give the model that it was made from")
    assert place.engine is not None
    check_target(place.engine, {place.file: "the model"}, ExportError)
    build(read_file(place.file, "a model exported with dk-export (model.onnx)", ModelFileError), place.file, place.engine, batch, dla)


def build(data: bytes, source: Path, engine_file: Path, batch: tuple[int, int, int] | None, dla: int | None) -> None:
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
