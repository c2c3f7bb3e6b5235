"""``dkcam.export_model`` and ``dkcam.list_layers``: what ``dk-export`` does, from Python, for a network that is there already."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from dkcam.errors import ExportError
from dkcam.export.checking.original import TorchSession
from dkcam.export.explain.listing import Listed
from dkcam.export.exported import Exported
from dkcam.export.network_export import describe, export_network, with_sample
from dkcam.export.networks.network import Network
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.networks.picture import PictureFlags
from dkcam.export.networks.torch_module import path_in, to_onnx
from dkcam.export.options import ExportOptions
from dkcam.export.prepare import list_candidates
from dkcam.fields import CHANNELS
from dkcam.files import check_target, write_file
from dkcam.spec import mentions_spec

Part = str | nn.Module
ARGUMENTS = {"--no-verify": "verify=False", "--list-layers": "dkcam.list_layers"}  # what is not the flag's own name


def export_model(
    module: nn.Module,
    path: str | Path,
    *,
    size: tuple[int, int],
    labels: Sequence[str] = (),
    layer: Part | Sequence[Part] | None = None,
    task: str = "auto",
    method: str = "gradcam",
    classes: int | None = None,
    outputs: Sequence[str] | None = None,
    decode: str | None = None,
    batch: int = 1,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    channels: str | None = None,
    resize: str | None = None,
    fill: int | None = None,
    precision: str = "fp32",
    verify: bool = True,
) -> Exported:
    """Write a torch module as one ONNX file with scores and heatmap inside, compared with autograd first.

    module: takes pictures float32 [batch, 3, height, width], or [batch, 1, …] with channels="gray"; it stays as it was, in its mode, on
    its device. size: (height, width) in pixels. labels: a name for each class. layer: a part of the module, or a name as ``--layer``
    takes it; several for one map of them all; None for the last feature map before space is pooled away. task: "auto", "classify",
    "detect", "regress" or "dense". outputs: which are kept, the network's own among them (the keys, where it returns a dict); one of
    those also says what is explained. classes: how many are explained in each run, None to leave it free. mean, std, scale: the network
    takes (x · scale − mean) / std of values 0..255, mean and std of R, G, B; None takes ImageNet's and says so in ``notes``. channels:
    "rgb", "bgr" or "gray". resize: "stretch", "letterbox" or "crop", how frames reach the size. fill: the border's value, 0..255.
    precision: "fp32" or "fp16". verify: False writes without the comparison, and the file says so.

    The answer holds the file's description (``spec``), the figures of the comparison (``parity``, None without), and what was taken for
    granted (``notes``). Errors: ExportError, and ParityError outside the tolerance; nothing is written then.
    """
    file = Path(path)
    check_target(file, {}, ExportError)
    if file.is_file() and not mentions_spec(file):
        raise ExportError(f"{file} is there and was not written by dkcam; choose another place")
    if precision not in ("fp32", "fp16"):
        raise ExportError(f"precision {precision!r}: expected fp32 or fp16; int8 needs pictures: dk-export --precision int8 --calibration")
    for name, value in (("labels", labels), ("outputs", outputs)):
        if isinstance(value, str):
            raise ExportError(f"{name} is the text {value!r}; expected a list of names")
    parts = () if layer is None else (layer,) if isinstance(layer, (str, nn.Module)) else tuple(layer)
    picture = PictureFlags(
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        scale=scale,
        channels=channels,
        resize=resize,
        letterbox=fill,
    )
    with _arguments():
        network = _opened(module, size, batch, picture)
        options = ExportOptions(
            size=size,
            batch=(batch, batch),
            layer=",".join(part if isinstance(part, str) else path_in(module, part) for part in parts) or None,
            method=method,
            explain=classes,
            outputs=None if outputs is None else tuple(outputs),
            precision=precision,
            task=task,
            decode=decode,
            labels=tuple(labels),
        )
        exported = export_network(network, options, original=TorchSession(module, network.names), check=verify)
    write_file(file, exported.data, ExportError)
    return replace(exported, notes=tuple(_without_flags(note) for note in exported.notes))


def list_layers(
    module: nn.Module, *, size: tuple[int, int], task: str = "auto", channels: str | None = None, outputs: Sequence[str] | None = None
) -> list[Listed]:
    """Where a heatmap can be taken, in the order the module computes it: names for ``export_model``'s ``layer``, maps, strides, costs.

    size, task, channels, outputs: as ``export_model`` takes them. Errors: ExportError.
    """
    with _arguments():
        network = with_sample(_opened(module, size, 1, PictureFlags(channels=channels)))
        options = ExportOptions(size=size, task=task, outputs=None if outputs is None else tuple(outputs))
        return list_candidates(describe(network.copy(), options)[0], size)


def _opened(module: nn.Module, size: tuple[int, int], batch: int, picture: PictureFlags) -> Network:
    if not isinstance(module, nn.Module):
        raise ExportError(f"the network is a {type(module).__name__}, expected a torch.nn.Module; dk-export takes files")
    if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise ExportError(f"size {size!r}: expected (height, width) in pixels, such as (384, 640)")
    if picture.channels not in (None, *CHANNELS):
        raise ExportError(f"channels {picture.channels!r}: expected one of {', '.join(CHANNELS)}")
    proto = to_onnx(module, size, picture.channels, batch)
    return open_model(proto, type(module).__name__, size=size, batch=(batch, batch), picture=picture)


@contextmanager
def _arguments() -> Iterator[None]:
    """Messages name arguments, not the flags of ``dk-export``."""
    try:
        yield
    except ExportError as error:
        error.args = tuple(_without_flags(str(part)) for part in error.args)
        raise


def _without_flags(message: str) -> str:
    return re.sub(r"(?<![\w-])--[a-z][a-z-]*", lambda flag: ARGUMENTS.get(flag[0], flag[0][2:].replace("-", "_")), message)
