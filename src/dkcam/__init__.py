"""dkcam: Grad-CAM inside the exported graph, live on camera frames.

>>> import dkcam
>>> explainer = dkcam.load("model.onnx")
>>> explanation = explainer(frame)          # uint8 [H, W, 3] BGR, as OpenCV reads it
>>> explanation.top(3), explanation.heatmap  # scores, float32 [K, h, w]
>>> picture = explanation.overlay(frame)

``dkcam.export_model(module, "model.onnx", size=(384, 640))`` writes such a file from a torch module; ``dkcam.list_layers`` says where
in it a heatmap can be taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dkcam.errors import DkcamError

if TYPE_CHECKING:
    from dkcam.export.export_model import export_model, list_layers
    from dkcam.runtime.explainer import Explainer, load
    from dkcam.runtime.explanation import Explanation

__version__ = "0.1.0"
__all__ = ["DkcamError", "Explainer", "Explanation", "export_model", "list_layers", "load"]

_HOMES = {
    "Explainer": "dkcam.runtime.explainer",
    "load": "dkcam.runtime.explainer",
    "Explanation": "dkcam.runtime.explanation",
    "export_model": "dkcam.export.export_model",
    "list_layers": "dkcam.export.export_model",
}


def __getattr__(name: str) -> Any:
    """Import the library's parts at first use: ``import dkcam`` alone stays fast."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dkcam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
