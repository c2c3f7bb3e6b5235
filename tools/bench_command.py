"""``dk-bench``: how fast this machine explains frames, and beside what."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkcam.tools.cli import SIZE, Command, engine_options, user_errors, version_option
from dkcam.tools.terminal import echo, echo_table

PEER_PACKAGES = ("grad-cam", "torchcam", "captum", "openvino")

if TYPE_CHECKING:
    from dkcam.engines import EngineOptions
    from dkcam.tools.bench.groups import Graphs, Rows


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", type=click.Path(path_type=Path), help="A checkpoint (.pt) or an .onnx file. Default: the demo model.")
@click.option("--random-width", type=click.FloatRange(0.05, 4), help="Random weights of this width instead; 1 is ResNet-50.")
@click.option("--size", type=SIZE, help="Input height x width for checkpoints. Default: the checkpoint's, else 224x224.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Road pictures for int8. Default: rendered scenes.")
@engine_options
@click.option("--rounds", type=click.IntRange(min=3), default=30, show_default=True, help="Paired rounds of every measurement.")
@click.option("--peers", is_flag=True, help="Also pytorch-grad-cam, torch-cam, captum and OpenVINO, where installed.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures as JSON.")
@version_option
@user_errors
def main(
    model: Path | None,
    random_width: float | None,
    size: tuple[int, int] | None,
    calibration: Path | None,
    device: str,
    threads: int,
    provider_options: tuple[tuple[str, str], ...],
    rounds: int,
    peers: bool,
    target: Path | None,
) -> None:
    """Measure inference, every stage and the whole way from frame to overlay. Ratios hold within one run."""
    import tempfile

    from dkcam.engines import EngineOptions
    from dkcam.errors import DataError
    from dkcam.files import check_target, write_file
    from dkcam.runtime.process import keep_freed_memory
    from dkcam.tools.bench.groups import every_group, first_frame

    if target is not None:
        check_target(target, {model: "the model"} if model else {}, DataError)
    if model is not None and random_width is not None:
        raise DataError("--model and --random-width contradict each other; leave one out")
    keep_freed_memory()  # as dk-run does
    engine = EngineOptions(threads, cache=False, provider_options=dict(provider_options))
    graphs = _graphs(model, random_width, size, calibration, device, engine)
    found: dict[str, Any] = {"machine": _machine(threads), "model": _described(graphs), "groups": []}
    echo(f"{found['model']['text']} on {found['machine']['processor']}, {found['machine']['threads']} of {found['machine']['cores']} cores")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(graphs.fp32)
        started = first_frame(file, device, threads)
    found["first_frame"] = started
    echo(f"first overlay {started['seconds']:.2f} s after start, {started['peak_memory_mb']:.0f} MB at most", "")
    for title, reference, rows in every_group(graphs, rounds, peers, lambda what: echo(f"{what} …", err=True)):
        _print(title, reference, rows)
        found["groups"].append({"title": title, "reference": reference, "rows": [asdict(row) for row in rows]})
    if target is not None:
        write_file(target, (json.dumps(found, indent=1) + "\n").encode(), DataError)
        echo(f"wrote {target}")


def _graphs(
    model: Path | None,
    random_width: float | None,
    size: tuple[int, int] | None,
    calibration: Path | None,
    device: str,
    engine: EngineOptions,
) -> Graphs:
    from dkcam.errors import DataError, ModelFileError, install
    from dkcam.files import read_file
    from dkcam.runtime.explainer import DEMO_MODEL
    from dkcam.tools.bench.groups import Graphs

    if model is None and random_width is None:
        model = DEMO_MODEL.with_suffix(".pt") if _has_torch() else DEMO_MODEL
    if model is not None and model.suffix == ".onnx":
        if size is not None:
            raise DataError(f"--size: {model} has its size already; give the checkpoint")
        return Graphs(read_file(model, "an exported model (model.onnx)", ModelFileError), device, engine)
    if not _has_torch():
        raise DataError(f"checkpoints need torch and onnx; {install('cpu,export')}, or give an .onnx file")
    from dkcam.export.checkpoint import Checkpoint, load_checkpoint
    from dkcam.export.exporter import export
    from dkcam.export.model import ModelConfig, ResNet
    from dkcam.export.options import ExportOptions

    if model is not None:
        checkpoint = load_checkpoint(model, size=size)
    else:
        assert random_width is not None
        network = ResNet(ModelConfig(1000, "dropkey", random_width))
        network.initialise(0)
        checkpoint = Checkpoint(network.config, network.state_dict(), tuple(f"class {i}" for i in range(1000)), size)
    data = export(checkpoint, ExportOptions(size=size), check=False).data
    return Graphs(data, device, engine, checkpoint, size, calibration)


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None and find_spec("onnx") is not None


def _described(graphs: Graphs) -> dict[str, Any]:
    engine = graphs.open(graphs.fp32)
    spec = engine.spec
    network, size = spec.network, f"{spec.input.height}x{spec.input.width}"
    text = f"{network.variant}, width {network.model_width:g}, {size}, {len(spec.labels)} classes on {engine.device}"
    random = graphs.checkpoint is not None and not spec.provenance.sha256
    return {"text": text + (", random weights" if random else ""), "device": engine.device, "spec": json.loads(spec.to_json())}


def _machine(threads: int) -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from dkcam.engines.onnxruntime_engine import cores
    from dkcam.runtime.kernels import is_native

    versions = {}
    for name in ("dkcam", "torch", "onnxruntime", "onnxruntime-gpu", "opencv-python", "numpy", *PEER_PACKAGES):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    python = platform.python_version()
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": threads or cores(),
        "python": python,
        "native_kernels": is_native(),
        "versions": versions,
    }


def _processor() -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _print(title: str, reference: str, rows: Rows) -> None:
    from dkcam.tools.bench.timing import Row

    cells = [
        (row.name, f"{row.ms:.2f}", f"{row.p99_ms:.2f}", f"{row.ratio:.3f}")
        if isinstance(row, Row)
        else (row.name, "skipped", "", row.reason)
        for row in rows
    ]
    echo_table(title, ("", "ms", "p99", f"times {reference}"), cells, left=("",))
