"""The one place that imports TensorRT: ``tensorrt`` (servers, Jetson), else ``tensorrt_rtx`` (RTX PCs)."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from dkcam.errors import EngineError

FLAVOURS = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Library:
    """module: as imported. flavour: its name. version: as it says, such as "10.3.0"."""

    module: Any
    flavour: str
    version: str


@dataclass(frozen=True)
class Gpu:
    """name: as the driver says. capability: compute capability, such as "8.7"."""

    name: str
    capability: str


def load_tensorrt() -> Library:
    """Errors: EngineError with what to install when neither flavour is there."""
    for flavour in FLAVOURS:
        try:
            module = import_module(flavour)
        except (ImportError, OSError):
            continue
        if hasattr(module, "Builder"):  # the package registry's "tensorrt" may be a placeholder
            return Library(module, flavour, str(module.__version__))
    raise EngineError(
        "TensorRT is not installed; on a Jetson it comes with JetPack, on a server install tensorrt, "
        "on an RTX PC: pip install tensorrt-rtx-cu13"
    )


def find_gpu() -> Gpu | None:
    """The first NVIDIA GPU the driver shows (CUDA_VISIBLE_DEVICES counts), or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    major_attribute, minor_attribute = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR in cuda.h
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), major_attribute, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), minor_attribute, device)
    )
    return None if failed else Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}")
