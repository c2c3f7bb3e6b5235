"""``dkcam.export_model``: what ``dk-export`` does, from Python, for a network that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dkcam.errors import ExportError
from dkcam.export.checking.original import TorchSession
from dkcam.export.exported import Exported
from dkcam.export.network_export import export_network
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.networks.picture import PictureFlags
from dkcam.export.networks.torch_module import path_in, to_onnx
from dkcam.export.options import ExportOptions
from dkcam.files import check_target, write_file
from dkcam.spec import mentions_spec

Part = str | nn.Module


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
    "detect", "regress" or "dense". classes: how many are explained in each run, None to leave it free. mean, std, scale: the network
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
    if not isinstance(module, nn.Module):
        raise ExportError(f"export_model takes a torch.nn.Module, not a {type(module).__name__}; dk-export takes files")
    if precision not in ("fp32", "fp16"):
        raise ExportError(f"precision {precision!r}: expected fp32 or fp16; int8 needs pictures: dk-export --precision int8 --calibration")
    if not (isinstance(size, tuple) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)):
        raise ExportError(f"size {size!r}: expected (height, width) in pixels, such as (384, 640)")
    for name, value in (("labels", labels), ("outputs", outputs)):
        if isinstance(value, str):
            raise ExportError(f"{name} is the text {value!r}; expected a list of names")
    if channels not in (None, "rgb", "bgr", "gray"):
        raise ExportError(f"channels {channels!r}: expected rgb, bgr or gray")
    parts = () if layer is None else (layer,) if isinstance(layer, (str, nn.Module)) else tuple(layer)
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
    picture = PictureFlags(
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        scale=scale,
        channels=None if channels == "gray" else channels,
        resize=resize,
        letterbox=fill,
    )
    proto = to_onnx(module, size, channels=1 if channels == "gray" else 3, batch=batch)
    network = open_model(proto, type(module).__name__, size=size, batch=options.batch, picture=picture)
    exported = export_network(network, options, original=TorchSession(module), check=verify)
    write_file(file, exported.data, ExportError)
    return exported
