"""Writes the files. Nothing is downloaded: networks have random weights with sound statistics, or come out of installed packages."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import light, statistics
from zoo.detectors import YoloV5Head, few_boxes


class NotHere(Exception):
    """What a network needs is not installed."""


def timm_module(name: str, size: int, **made: Any) -> nn.Module:
    import timm

    sized = {"img_size": size} if any(word in name for word in ("vit_tiny_patch", "deit", "beit", "eva02", "swin_", "swinv2")) else {}
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, **sized, **made)
    module = statistics.sound(module, (size, size), seed=zlib.crc32(name.encode()) % 1000)
    if name.startswith(("repvgg", "mobileone", "fastvit", "repvit")):
        from timm.utils.model import reparameterize_model

        module = reparameterize_model(module)  # as it is deployed
    return module.eval()


def own_module(kind: Callable[..., nn.Module], size: tuple[int, int], task: str, arguments: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    module = kind(**arguments)
    finish = {"classify": statistics.fit_classes, "regress": statistics.regress, "dense": statistics.dense, "detect": few_boxes}[task]
    return statistics.sound(module, size, finish=few_boxes if hasattr(module, "scores") else finish, seed=1)


def smp_module(kind: str, encoder: str, side: int) -> nn.Module:
    import segmentation_models_pytorch as smp

    module = getattr(smp, kind)(encoder, encoder_weights=None, classes=8)
    return statistics.sound(module, (side, side), finish=statistics.dense, seed=1)


def yolo_module(config: str, side: int) -> Any:
    """Ultralytics' own wrapper, its network made sound."""
    with quiet():
        from ultralytics import RTDETR, YOLO

        wrapped = RTDETR(f"{config}.yaml") if config.startswith("rtdetr") else YOLO(f"{config}.yaml")
        network = wrapped.model
        finish = _finish_yolo if "-cls" not in config else statistics.fit_classes
        statistics.sound(network, (side, side), finish=finish, imagenet=False, seed=1)
    return wrapped


def _finish_yolo(network: nn.Module, images: Tensor) -> None:
    """Ultralytics' heads by the names that they share."""
    head = network.model[-1]
    name = type(head).__name__
    batches = list(images[:16].split(4))
    if name == "RTDETRDecoder":
        for layer in [head.enc_score_head, *head.dec_score_head]:
            statistics.spread_scores(network, layer, batches, -3.0, 1.5)
        return
    if not hasattr(head, "cv3"):
        statistics.spread_scores(network, statistics.last_layer(network, images[:1]), batches)
        return
    scores, boxes = [head.cv3], [head.cv2]
    scores += [one for one in (getattr(head, "one2one_cv3", None),) if one is not None]
    boxes += [one for one in (getattr(head, "one2one_cv2", None),) if one is not None]
    for levels, mean, std in ((scores, -3.0, 1.5), (boxes, 0.0, 1.0)):
        for part in levels:
            for level in part:
                layer = level[-1] if isinstance(level, nn.Sequential) else level
                statistics.spread_scores(network, layer, batches, mean, std)


def yolov5_module(side: int) -> nn.Module:
    """The backbone and neck of YOLOv5 with the head it had at first."""
    wrapped = yolo_module("yolov5n", side)
    network = wrapped.model
    old = network.model[-1]
    widths = [level[0].conv.in_channels if hasattr(level[0], "conv") else level[0].in_channels for level in old.cv2]
    head = YoloV5Head(widths)
    head.f, head.i = old.f, old.i
    network.model[-1] = head
    batches = list(statistics.pictures((side, side), 16, imagenet=False).split(4))
    with torch.no_grad():
        for layer in head.m:
            nn.init.normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5)
    for layer in head.m:
        statistics.spread_scores(network, layer, batches, -2.0, 1.5)
    return network.eval()


def export(module: nn.Module, size: tuple[int, int], path: Path, how: str, opset: int) -> None:
    """how: "script" or "dynamo", with "-batch" or "-size" where these stay free."""
    exporter, _, free = how.partition("-")
    picture = torch.zeros(2 if free else 1, 3, *size)
    axes = {"batch": {0: "batch"}, "size": {0: "batch", 2: "height", 3: "width"}}.get(free)
    with quiet():
        if exporter == "dynamo":
            shapes = ({axis: torch.export.Dim(name) for axis, name in axes.items()},) if axes else None
            torch.onnx.export(
                module, (picture,), str(path), dynamo=True, external_data=False, verbose=False, input_names=["input"], dynamic_shapes=shapes
            )
            return
        torch.onnx.export(
            module,
            (picture,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            dynamic_axes={"input": axes} if axes else None,
        )


def export_yolo(wrapped: Any, side: int, path: Path, dynamic: bool) -> None:
    """Ultralytics' own export, with its metadata."""
    with quiet():
        written = wrapped.export(format="onnx", imgsz=side, simplify=False, dynamic=dynamic, opset=17)
    shutil.move(written, path)


def shipped(package: str, inside: str) -> Callable[[Path], None]:
    """A file of an installed package, or of a wheel unpacked beside the files (ZOO/wheels)."""

    def find(path: Path) -> None:
        spec = find_spec(package)
        places = [Path(spec.origin).parent / inside] if spec is not None and spec.origin else []
        places += list((path.parent.parent / "wheels").glob(f"{package}*/{package}/{inside}"))
        for place in places:
            if place.is_file():
                shutil.copy(place, path)
                return
        raise NotHere(f"{package} is not installed: pip install --no-deps {package}")

    return find


def filled(name: str) -> Callable[[Path], None]:
    """A graph inside the onnx package, with weights."""
    return lambda path: light.fill(name, path)


def tensorflow(path: Path) -> None:
    raise NotHere("made by docs/zoo/from_tensorflow.py, in an environment with tensorflow-cpu and tf2onnx")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters print pages about themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
