"""Errors a user can cause, in one tree.

    DkcamError                 exit code 1, one line, no traceback
    ├── CheckpointError        model.pt cannot be used (missing, truncated, pickled code, wrong shapes)
    ├── ExportError            this graph cannot be written (size, layer, method, an output that differs)
    │   └── ParityError        the graph's numbers differ from autograd's
    ├── ModelFileError         the .onnx file cannot be used (missing, truncated, not from dk-export)
    ├── EngineError            no engine for this device, or the engine cannot run
    ├── InputError             an array has the wrong shape, type or range
    ├── SourceError            no frames from this camera, file or address
    ├── SinkError              results cannot be written there
    └── DataError              training data cannot be used

Every message says what came, what was expected and what to do. Anything else that is raised is a bug in dkcam.
"""

from __future__ import annotations


def install(extras: str) -> str:
    """What to type for optional parts ("page", "cpu,export"). dkcam is on no registry: it is installed from its folder."""
    return f"pip install '.[{extras}]' in the folder of dkcam"


class DkcamError(Exception):
    """Base of all errors that a user's input or machine causes."""


class CheckpointError(DkcamError):
    """A checkpoint cannot be used."""


class ExportError(DkcamError):
    """A graph with these options cannot be written."""


class ParityError(ExportError):
    """The exported graph's numbers differ from autograd's by more than the tolerance."""


class ModelFileError(DkcamError):
    """An ONNX file cannot be used."""


class EngineError(DkcamError):
    """No engine for this device, or the engine failed."""


class InputError(DkcamError):
    """An array given to the library has the wrong shape, type or range."""


class SourceError(DkcamError):
    """A frame source cannot be opened or read."""


class SinkError(DkcamError):
    """A result cannot be written."""


class DataError(DkcamError):
    """Training data cannot be used."""
