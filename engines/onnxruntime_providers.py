"""ONNX Runtime's execution providers: which package has each, and how a session is told to use one and no other.

Providers come built into ONNX Runtime, or as plug-ins: packages of their own beside any ONNX Runtime from 1.23 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dkcam.errors import EngineError


@dataclass(frozen=True)
class Provider:
    """name: ONNX Runtime's. package: which has it built in, "" for plug-ins only. plugin: module of the plug-in, "" where
    there is none. memory: where its inputs lie, as OrtValue says.
    """

    name: str
    package: str
    plugin: str = ""
    memory: str = "cpu"


PROVIDERS = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime"),
    "cuda": Provider("CUDAExecutionProvider", "onnxruntime-gpu", memory="cuda"),
    "onnxruntime-tensorrt": Provider("TensorrtExecutionProvider", "onnxruntime-gpu", memory="cuda"),
    "onnxruntime-tensorrt-rtx": Provider("NvTensorRTRTXExecutionProvider", "", "onnxruntime_ep_nv_tensorrt_rtx"),
    "openvino": Provider("OpenVINOExecutionProvider", "onnxruntime-openvino", "onnxruntime_ep_openvino"),
}
BUILT_IN = {provider.package for provider in PROVIDERS.values() if provider.package}


def choose(onnxruntime: Any, settings: Any, kind: str, options: Mapping[str, str]) -> list[Any] | None:
    """What ``InferenceSession`` takes as ``providers``; None where the plug-in was put into ``settings``.

    Errors: EngineError with what to install.
    """
    provider = PROVIDERS[kind]
    if provider.name in onnxruntime.get_available_providers():
        return [(provider.name, dict(options))] if options else [provider.name]
    if not provider.plugin:
        raise EngineError(f"this onnxruntime has no {provider.name}; {remedy(kind)}")
    try:
        plugin = import_module(provider.plugin)
    except (ImportError, OSError) as error:
        raise EngineError(f"this onnxruntime has no {provider.name}; {remedy(kind)}") from error
    if not hasattr(onnxruntime, "get_ep_devices"):
        raise EngineError(f"plug-ins need onnxruntime 1.23 or newer, this is {onnxruntime.__version__}; pip install -U onnxruntime")
    try:
        if not _devices(onnxruntime, plugin):
            onnxruntime.register_execution_provider_library(provider.plugin, plugin.get_library_path())
        devices = _devices(onnxruntime, plugin)
    except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
        raise EngineError(f"{provider.plugin} does not load: {' '.join(str(error).split())[:160]}") from error
    if not devices:
        raise EngineError(f"{provider.plugin} is installed, but finds no device of its kind on this machine")
    settings.add_provider_for_devices(devices[:1], dict(options))
    return None


def _devices(onnxruntime: Any, plugin: Any) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.get_ep_name()]


def remedy(kind: str) -> str:
    """What to install or remove for a provider."""
    from importlib.metadata import distributions

    provider = PROVIDERS[kind]
    found = {dist.metadata["Name"].lower() for dist in distributions() if dist.metadata["Name"]} & BUILT_IN
    everything = " ".join(sorted(found))
    wanted = provider.package
    if wanted in found and len(found) > 1:
        both = everything.replace(" ", " and ")
        return f"{both} are installed side by side and overwrite each other: pip uninstall {everything}, then pip install {wanted}"
    if provider.plugin and wanted not in found:
        return f"pip install {provider.plugin.replace('_', '-')}"
    if wanted in found:
        return "its libraries do not load here; check the driver, and the versions of CUDA and cuDNN (or OpenVINO) that it asks for"
    return f"pip uninstall {everything} and pip install {wanted}" if found else f"pip install {wanted}"
