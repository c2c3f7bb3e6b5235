"""Any torch module as an ONNX graph, and ``package.module:callable`` as a torch module."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from dkcam.errors import ExportError
from dkcam.export.checkpoint import state_dict
from dkcam.printable import printable

OPSET = 18


def from_callable(name: str, weights: Path | None) -> nn.Module:
    """Import ``package.module:callable``, call it without arguments, load the weights into what it returns.

    The current folder counts as importable. weights: .safetensors, or a torch file read with ``weights_only=True``. Errors: ExportError.
    """
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ExportError(
            f"{printable(name)}: {printable(str(error))}; expected package.module:callable, importable from here, that returns the network"
        ) from error
    finally:
        sys.path.remove("")
    made = found if isinstance(found, nn.Module) else found()
    if not isinstance(made, nn.Module):
        raise ExportError(f"{printable(name)} gives a {type(made).__name__}; expected a torch.nn.Module, or a function that returns one")
    if weights is not None:
        _load(made, weights)
    return made


def _load(module: nn.Module, path: Path) -> None:
    given = state_dict(path)
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if missing or extra:
        first = f"no {missing[0]!r}" if missing else f"{extra[0]!r} too many"
        raise ExportError(
            f"--weights {path}: {len(missing)} names missing and {len(extra)} unknown to the module ({printable(first)}); "
            "expected exactly the names of its state_dict()"
        )
    wrong = [name for name in wanted if wanted[name].shape != given[name].shape]
    if wrong:
        one = wrong[0]
        raise ExportError(
            f"--weights {path}: {printable(one)} is {tuple(given[one].shape)}, expected {tuple(wanted[one].shape)}, the module's shape"
        )
    module.load_state_dict(given)


def path_in(module: nn.Module, part: nn.Module) -> str:
    """The path of a module inside another, as ``--layer`` takes it. Errors: ExportError where it is not inside."""
    for path, one in module.named_modules():
        if one is part and path:
            return str(path)
    raise ExportError(f"layer: this {type(part).__name__} is not part of the network; expected one of its modules, or a name")


def to_onnx(module: nn.Module, size: tuple[int, int], channels: str | None = None, batch: int = 1) -> onnx.ModelProto:
    """The module's graph for pictures float32 [batch, 3, height, width], in evaluation mode; the module stays as it was.

    channels: "gray" for pictures [batch, 1, …], else "rgb", "bgr" or None. Nodes say which module they belong to. Errors: ExportError
    with the exporter's own first line.
    """
    states = {one: one.training for one in module.modules()}
    module.eval()
    picture = torch.zeros(batch, 1 if channels == "gray" else 3, *size, device=device_of(module))
    try:
        with torch.inference_mode():
            said = module(picture)
        if not any(isinstance(one, Tensor) for one in flat(said)):
            raise ExportError(f"the module returns a {type(said).__name__}; expected a tensor, or a tuple or dict of tensors")
        return _export(module, picture, _names(said))
    except ExportError:
        raise
    except Exception as error:  # whatever the user's code or the exporter raises, in one line
        first = str(error).strip().splitlines()
        raise ExportError(
            f"the module does not take a picture {tuple(picture.shape)}, or torch cannot export it: {type(error).__name__}: "
            f"{printable(first[0][:300]) if first else ''}; expected a module that takes one picture [B, 3, H, W], or with --channels gray "
            "[B, 1, H, W]"
        ) from error
    finally:
        for one, state in states.items():
            one.training = state


def _names(said: Any) -> list[str] | None:
    """What a module that returns a dict of tensors calls them."""
    if not isinstance(said, Mapping) or not all(isinstance(name, str) and isinstance(one, Tensor) for name, one in said.items()):
        return None
    return list(said)


def _export(module: nn.Module, picture: Tensor, names: list[str] | None) -> onnx.ModelProto:
    """By torch's exporter of today; where that cannot, by the one before. names: of its outputs, None for the exporter's own."""
    errors: list[Exception] = []
    for dynamo in (True, False):
        buffer = io.BytesIO()
        try:
            with _quiet():
                target: Any = None if dynamo else buffer
                program = torch.onnx.export(
                    module, (picture,), target, dynamo=dynamo, opset_version=OPSET, input_names=["image"], output_names=names, verbose=False
                )
        except Exception as error:
            errors.append(error)
            continue
        if program is not None:
            return program.model_proto
        return onnx.load_from_string(buffer.getvalue())
    raise errors[0]


def device_of(module: nn.Module) -> torch.device | None:
    """Where its first parameter is, None without parameters."""
    return next((parameter.device for parameter in module.parameters()), None)


def flat(value: Any) -> Iterator[Any]:
    """Tensors out of tuples, lists and dicts, in order."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else None
    if parts is None:
        yield value
        return
    for part in parts:
        yield from flat(part)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' progress and their warnings about themselves are not the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
