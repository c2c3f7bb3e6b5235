"""What ``dk-export`` is given, opened: a checkpoint of our ResNet-50, an ONNX file, or a torch module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dkcam.engines.progress import Report
from dkcam.errors import ExportError
from dkcam.export.checking.original import Session, TorchSession, open_original
from dkcam.export.checkpoint import Checkpoint, load_checkpoint
from dkcam.export.explain.listing import Listed
from dkcam.export.exported import Exported
from dkcam.export.exporter import DEFAULT_LAYER, export, make_spec
from dkcam.export.network_export import describe, export_network, with_sample
from dkcam.export.networks.network import Network
from dkcam.export.networks.onnx_file import open_model, open_onnx
from dkcam.export.networks.picture import PictureFlags
from dkcam.export.networks.torch_module import from_callable, to_onnx
from dkcam.export.options import ExportOptions
from dkcam.export.pictures import Pictures
from dkcam.export.prepare import list_candidates, prepare_checkpoint
from dkcam.spec import ModelSpec
from dkcam.tools.calibration import read_calibration
from dkcam.tools.export.destination import Destination


@dataclass(frozen=True)
class Calibration:
    """What ``--calibration``, ``--windows`` and ``--grid`` say."""

    path: Path | None
    windows: bool = False
    grid: tuple[int, int] | None = None

    def read(self, spec: ModelSpec, report: Report) -> Pictures | None:
        if self.path is None:
            return None
        report("reading pictures", 0, 0)
        return read_calibration(self.path, spec, windows=self.windows, grid=self.grid)


class Source(Protocol):
    def layers(self, options: ExportOptions) -> list[Listed]: ...
    def export(self, options: ExportOptions, calibration: Calibration, check: bool, report: Report) -> Exported: ...


@dataclass(frozen=True)
class CheckpointSource:
    checkpoint: Checkpoint

    def layers(self, options: ExportOptions) -> list[Listed]:
        way = make_spec(self.checkpoint, options).input
        prepared = prepare_checkpoint(
            self.checkpoint,
            kind=way.kind,
            size=(way.height, way.width),
            batch=way.batch,
            dynamic=way.dynamic,
            samples=0,
            layers=options.layers or (DEFAULT_LAYER,),
        )
        return list_candidates(prepared, (way.height, way.width))

    def export(self, options: ExportOptions, calibration: Calibration, check: bool, report: Report) -> Exported:
        pictures = calibration.read(make_spec(self.checkpoint, options), report)
        return export(self.checkpoint, options, check=check, calibration=pictures, report=report)


@dataclass(frozen=True)
class NetworkSource:
    """original: what the network says by itself."""

    network: Network
    original: Session | None

    def layers(self, options: ExportOptions) -> list[Listed]:
        size = self.network.size
        return list_candidates(describe(with_sample(self.network).copy(), options)[0], size)

    def export(self, options: ExportOptions, calibration: Calibration, check: bool, report: Report) -> Exported:
        pictures = calibration.read(describe(with_sample(self.network).copy(), options)[1], report) if calibration.path else None
        return export_network(self.network, options, original=self.original, check=check, calibration=pictures, report=report)


def open_source(place: Destination, options: ExportOptions, picture: PictureFlags, weights: Path | None, variant: str) -> Source:
    """Errors: ExportError, CheckpointError."""
    if place.kind == "checkpoint":
        return CheckpointSource(load_checkpoint(Path(place.model), variant=variant, labels=options.labels or None, size=options.size))
    if place.kind == "onnx":
        path = Path(place.model)
        network = open_onnx(path, size=options.size, dynamic=options.dynamic, batch=options.batch, picture=picture)
        return NetworkSource(network, open_original(path))
    if options.size is None:
        raise ExportError(f"{place.model} is a torch module, which does not say its picture's size; give --size HxW")
    if options.dynamic:
        raise ExportError(
            "--dynamic: a torch module is exported at one size and batch; export it to ONNX with dynamic axes, and give that file"
        )
    module = from_callable(place.model, weights)
    proto = to_onnx(module, options.size, picture.channels, options.batch[0])
    network = open_model(proto, place.model, size=options.size, batch=options.batch, picture=picture)
    return NetworkSource(network, TorchSession(module, network.names))
