"""What ``dk-export`` is given by name, and the files it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dkcam.errors import ExportError
from dkcam.files import check_target
from dkcam.printable import printable
from dkcam.spec import mentions_spec

CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
CHECKPOINTS = (".pt", ".pth", ".safetensors")
DEFAULT = "model.onnx"  # what dk-run takes by itself


@dataclass(frozen=True)
class Destination:
    """kind: "checkpoint", "onnx" or "callable", of what is given as ``model``. file: the ONNX file to write. engine: the engine to
    build, or None. exported: whether ``model`` was written by dk-export already.
    """

    model: str
    kind: str
    file: Path
    engine: Path | None
    exported: bool = False

    @staticmethod
    def of(model: str, output: Path | None, engine: bool) -> Destination:
        """Errors: ExportError for what is no model by its name, and for a file that is exported and not to become an engine."""
        from dkcam.engines.tensorrt.files import SUFFIXES

        path = Path(model)
        if CALLABLE.fullmatch(model) and not path.exists():
            kind, base = "callable", Path(DEFAULT)
        elif path.suffix == ".onnx":
            kind, base = "onnx", path.with_name(DEFAULT)
        else:
            kind, base = "checkpoint", path.with_suffix(".onnx")
        exported = kind == "onnx" and path.is_file() and mentions_spec(path)
        if exported and not engine:
            raise ExportError(f"{printable(model)} is exported already; give the model that it was made from, or --engine tensorrt")
        if exported:
            base = path
        elif base == path:
            base = path.with_name(f"{path.stem}.explained.onnx")
        target = output or base
        built = None
        if engine:
            built = target if target.suffix in SUFFIXES else target.with_suffix(".engine")
            target = target.with_suffix(".onnx")
        return Destination(model, kind, path if exported else target, built, exported)

    def check(self, inputs: Mapping[Path | None, str], report: Path | None) -> None:
        """Errors: ExportError where an output is an input, or a model that dk-export did not write, or cannot be written."""
        sources = {path: what for path, what in inputs.items() if path is not None}
        if self.kind != "callable":
            sources[Path(self.model)] = "the model" if self.kind == "onnx" else "the checkpoint"
        for place in (self.file, self.engine, report):
            if place is not None:
                check_target(place, sources, ExportError)
        if report is not None and report.resolve() == self.file.resolve():
            raise ExportError(f"--report {report} is the model file; choose another place")
        if self.kind != "checkpoint" and self.file.is_file() and not mentions_spec(self.file):
            raise ExportError(f"{self.file} is there and was not written by dk-export; choose another place with -o")
