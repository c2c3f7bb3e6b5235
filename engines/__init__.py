"""ONNX file → something that runs. No camera and no torch here."""

from dkcam.engines.engine import Engine, EngineOptions, Outputs
from dkcam.engines.registry import open_bytes, open_engine

__all__ = ["Engine", "EngineOptions", "Outputs", "open_bytes", "open_engine"]
