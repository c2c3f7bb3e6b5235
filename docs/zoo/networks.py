"""A network of the table, and how those of each source are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import make

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SIGNED = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@dataclass(frozen=True, eq=False)
class Network:
    """source: of the architecture. weights: "random" or "real". make: writes the file. module: the same as a torch module.

    size: (height, width). expected: the task it has. task, decode, outputs: as ``--task``, ``--decode`` and ``--outputs`` take them, where
    the file alone cannot tell. way: mean, std … of the picture, as flags of the same names. exporter: what wrote the file.
    """

    name: str
    family: str
    source: str
    size: tuple[int, int]
    expected: str
    make: Callable[[Path], None]
    module: Callable[[], Any] | None = None
    weights: str = "random"
    exporter: str = ""
    task: str = "auto"
    decode: str = ""
    outputs: tuple[str, ...] = ()
    way: dict[str, Any] | None = None
    note: str = ""


def from_timm(family: str, model: str, size: int = 224, how: str = "script", opset: int = 17, **made: Any) -> Network:
    """how: "script" for torch's exporter before 2.9, "dynamo" for today's, with "-batch" or "-size" for free axes."""
    name = model + {"script": "", "dynamo": "-dynamo"}.get(how, "-" + how) + (f"-opset{opset}" if opset != 17 else "")

    def module() -> Any:
        return make.timm_module(model, size, **made)

    exporter = f"torch {'dynamo' if how.startswith('dynamo') else 'TorchScript'}, opset {20 if how.startswith('dynamo') else opset}"
    return Network(
        name,
        family,
        "timm",
        (size, size),
        "classify",
        lambda path: make.export(module(), (size, size), path, how, opset),
        module,
        exporter=exporter + (", free " + how.rpartition("-")[2] if "-" in how else ""),
        way=IMAGENET,
    )


def own(
    name: str, family: str, kind: Callable[..., Any], size: tuple[int, int], expected: str, how: str = "script", **rest: Any
) -> Network:
    arguments = rest.pop("arguments", {})

    def module() -> Any:
        return make.own_module(kind, size, expected, arguments)

    way = rest.pop("way", IMAGENET)
    exporter = f"torch {'dynamo, opset 20' if how.startswith('dynamo') else 'TorchScript, opset 17'}"
    return Network(
        name,
        family,
        "own code",
        size,
        expected,
        lambda path: make.export(module(), size, path, how, 17),
        module,
        exporter=exporter,
        way=way,
        **rest,
    )


def yolo(name: str, family: str, config: str, side: int = 320, expected: str = "detect", *, dynamic: bool = False, **rest: Any) -> Network:
    return Network(
        name,
        family,
        "Ultralytics",
        (side, side),
        expected,
        lambda path: make.export_yolo(make.yolo_module(config, side), side, path, dynamic),
        (lambda: make.yolo_module(config, side).model) if expected == "classify" else None,
        exporter="Ultralytics (TorchScript)",
        way=UNIT,
        **rest,
    )


def from_smp(name: str, kind: str, encoder: str, side: int = 256) -> Network:
    def module() -> Any:
        return make.smp_module(kind, encoder, side)

    return Network(
        name,
        kind,
        "segmentation-models-pytorch",
        (side, side),
        "dense",
        lambda path: make.export(module(), (side, side), path, "script", 17),
        module,
        exporter="torch TorchScript, opset 17",
        way=IMAGENET,
    )


def shipped(
    name: str, family: str, source: str, find: Callable[[Path], None], size: tuple[int, int], expected: str, **rest: Any
) -> Network:
    return Network(name, family, source, size, expected, find, **{"weights": "real", **rest})
