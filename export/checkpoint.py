"""Reading and writing ``model.pt``: our own format, safetensors and torchvision-style state dicts.

Nothing here ever unpickles code: torch files are read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dkcam.bounded_json import parse_json
from dkcam.errors import CheckpointError, DkcamError
from dkcam.export.model import ModelConfig, ResNet, scaled
from dkcam.export.sizes import SIDE, STRIDE
from dkcam.fields import MOST_CLASSES, checked
from dkcam.files import kind_of, read_file, write_file
from dkcam.spec import check_values

FORMAT = "dkcam-checkpoint-1"
MOST_HEADER = 16 << 20  # bytes that a safetensors header, and what it says, may take in memory; a ResNet-50's has 30 kB
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Checkpoint:
    """A model and what its input means.

    weights: state dict, torchvision's names. labels: one per class. size: (height, width) in pixels it was trained
    at, None if unknown. mean, std: of RGB values scaled to 0..1. resize: stretch, letterbox or crop.
    sha256: of the file it came from, "" if it came from none. notes: free text values (training command, figures).
    """

    config: ModelConfig
    weights: Mapping[str, Tensor]
    labels: tuple[str, ...]
    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: str = "stretch"
    sha256: str = ""
    notes: Mapping[str, str] | None = None

    def module(self) -> ResNet:
        """The network in evaluation mode, float32."""
        _check_shapes(self.config, self.weights)
        with torch.device("meta"):
            model = ResNet(self.config)
        counts = {k: torch.tensor(0) for k in _expected(self.config) if k.endswith("num_batches_tracked")}  # which no answer depends on
        weights = {k: v.detach().float().clone() if v.is_floating_point() else v.clone() for k, v in self.weights.items()}
        model.load_state_dict(counts | weights, assign=True)
        return model.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write our own format; ``half`` stores float16 weights. Written to a temporary name and moved into place."""
    weights = {k: v.detach().cpu() for k, v in checkpoint.weights.items()}
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    document = {
        "format": FORMAT,
        "config": {**checkpoint.config.to_dict(), "grid": list(checkpoint.config.grid) if checkpoint.config.grid else None},
        "labels": list(checkpoint.labels),
        "size": list(checkpoint.size) if checkpoint.size else None,
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "resize": checkpoint.resize,
        "notes": dict(checkpoint.notes or {}),
        "weights": weights,
    }
    save_torch(path, document, CheckpointError)


def save_torch(path: Path, document: Any, error: type[DkcamError]) -> None:
    """``torch.save`` as a whole or not at all."""
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_file(path, buffer.getvalue(), error)


def load_checkpoint(
    path: Path,
    *,
    variant: str = "auto",
    labels: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
) -> Checkpoint:
    """Read a checkpoint; ``variant``, ``labels`` and ``size`` override or supply what the file does not say.

    Errors: CheckpointError, one line, for a missing, empty, truncated or pickled file and for shapes that are not
    a ResNet-50's.
    """
    data = read_file(path, "a checkpoint (.pt, .pth or .safetensors)", CheckpointError)
    digest = hashlib.sha256(data).hexdigest()
    document, described = _parse(path, data)
    if isinstance(document, Mapping) and document.get("format") == FORMAT:
        checkpoint = _from_own(path, document)
    else:
        checkpoint = _from_state_dict(path, document, described, len(data))
    if variant != "auto":
        checkpoint = replace(checkpoint, config=_with_variant(checkpoint.config, variant))
    if labels is not None:
        if len(labels) != checkpoint.config.classes:
            raise CheckpointError(
                f"{path} has {checkpoint.config.classes} classes, the labels file has {len(labels)} lines; expected one label per class"
            )
        checkpoint = replace(checkpoint, labels=labels)
    checkpoint = replace(checkpoint, sha256=digest, size=size or checkpoint.size)
    try:
        _check_backed(checkpoint.weights, len(data))
        _check_shapes(checkpoint.config, checkpoint.weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return checkpoint


def _with_variant(config: ModelConfig, variant: str) -> ModelConfig:
    try:
        return replace(config, variant=variant)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _parse(path: Path, data: bytes) -> tuple[Any, Mapping[str, str]]:
    """The file's content, and safetensors' own metadata (empty for torch files)."""

    if path.suffix == ".safetensors" or data[8:9] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            length = int.from_bytes(data[:8], "little")
            header = parse_json(data[8 : 8 + length], MOST_HEADER)
            described = header.get("__metadata__") if isinstance(header, dict) else None
            return load(data), dict(described) if isinstance(described, dict) else {}
        except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
            raise CheckpointError(f"{path} is not a whole safetensors file ({_first_line(error)}); copy or save it again") from error
    if not data.startswith((b"PK", b"\x80")) and data[257:262] != b"ustar":  # torch's zip, its older pickles, its oldest tar
        raise CheckpointError(
            f"{path} is {kind_of(data)}, expected a checkpoint: torch.save(model.state_dict(), 'model.pt'), or .safetensors; "
            "class names go with --labels"
        )
    _check_parts(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's doubts about the file; whether it loads is said below
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True), {}
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found or "Unsupported class" in str(error) or "Unsupported global" in str(error):
            what = f" ({found.group(1)})" if found else ""
            raise CheckpointError(
                f"{path} needs pickled code to load{what} and was refused, nothing in it was run; "
                "save a state dict instead: torch.save(model.state_dict(), 'model.pt')"
            ) from error
        raise CheckpointError(f"{path} is not a torch checkpoint; expected torch.save(model.state_dict(), …) or safetensors") from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        AttributeError,
        IndexError,
        TypeError,
        MemoryError,
        RecursionError,
    ) as error:
        raise CheckpointError(f"{path} is truncated or not a torch checkpoint ({_first_line(error)}); copy or save it again") from error


def _check_parts(path: Path, data: bytes) -> None:
    """torch stores its parts as they are, side by side. A zip whose parts are packed or overlap unfolds to what no file holds."""
    if not data.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is truncated or not a torch checkpoint ({_first_line(error)}); copy or save it again") from error
    whole = sum(part.file_size for part in parts)
    if whole > len(data) or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise CheckpointError(
            f"{path} has {len(data) / 2**20:.1f} MiB and would unfold to {whole / 2**20:.1f} MiB, which torch.save never writes; "
            "save it again: torch.save(model.state_dict(), 'model.pt')"
        )


def _check_backed(weights: Mapping[str, Tensor], size: int) -> None:
    """Tensors may be views: one number, expanded to 82 GB. What is not all in the file (``size`` bytes) is never asked for."""
    taken = {
        name: value.numel() * value.element_size()
        for name, value in weights.items()
        if value.layout == torch.strided and not value.is_meta and not value.is_quantized
    }
    for name, own in taken.items():
        if own > size:
            raise CheckpointError(
                f"{name} is {list(weights[name].shape)}, {own / 2**30:.3g} GiB, in a file of {size / 2**20:.1f} MiB: "
                "an expanded view; save its clone()"
            )
    whole = sum(taken.values())
    if whole > size:
        raise CheckpointError(
            f"its tensors are {whole / 2**20:.1f} MiB in a file of {size / 2**20:.1f} MiB: views of one another; save clones"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _from_own(path: Path, document: Mapping[str, Any]) -> Checkpoint:
    try:
        config = dict(document["config"])
        config["grid"] = tuple(config["grid"]) if config.get("grid") else None
        size = document["size"]
        height, width = size if size is not None else (STRIDE, STRIDE)
        mean, std = tuple(document["mean"]), tuple(document["std"])
        labels = document["labels"]
        for name, side in (("height", height), ("width", width)):
            checked(name, side, SIDE)
        check_values({"labels": labels})
        check_values({"mean": mean, "std": std, "resize": document["resize"]})
        settings = ModelConfig(**config)
        if len(labels) != settings.classes:
            raise ValueError(f"{len(labels)} labels for {settings.classes} classes")
        return Checkpoint(
            config=settings,
            weights=_tensors(document["weights"]),
            labels=tuple(labels),
            size=(height, width) if size is not None else None,
            mean=mean,
            std=std,
            resize=document["resize"],
            notes=dict(document.get("notes") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is a dkcam checkpoint with a damaged description: {_first_line(error)}") from error


def _tensors(weights: Any) -> Mapping[str, Tensor]:
    """ValueError for anything but a dict of tensors."""
    if not isinstance(weights, Mapping) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"weights is a {type(weights).__name__}, expected names with tensors")
    return weights


def state_dict(path: Path) -> Mapping[str, Tensor]:
    """The weights of any network, .safetensors or a torch file, under its own names. Errors: CheckpointError."""
    data = read_file(path, "weights (.pt, .pth or .safetensors)", CheckpointError)
    try:
        weights = _tensors(_unwrapped(_parse(path, data)[0]))
        _check_backed(weights, len(data))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; expected torch.save(model.state_dict(), …) or safetensors") from None
    except CheckpointError as error:
        raise CheckpointError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return weights


def _unwrapped(document: Any) -> Any:
    """Training loops save the state dict beside other things."""
    if isinstance(document, Mapping):
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(document.get(key), Mapping):
                return document[key]
    return document


def _from_state_dict(path: Path, document: Any, described: Mapping[str, str], size: int) -> Checkpoint:
    document = _unwrapped(document)
    if not isinstance(document, Mapping) or not document or not all(isinstance(v, Tensor) for v in document.values()):
        raise CheckpointError(f"{path} holds no state dict; expected names such as conv1.weight with tensors")
    weights = {re.sub(r"^((module|model|_orig_mod)\.)+", "", str(name)): value for name, value in document.items()}
    missing = [name for name in ("conv1.weight", "layer4.2.conv3.weight", "fc.weight") if name not in weights]
    if missing:
        some = ", ".join(list(weights)[:3])
        raise CheckpointError(f"{path} is not a ResNet-50: {missing[0]} is missing; it holds {some}, …")
    if weights["fc.weight"].ndim != 2:
        raise CheckpointError(f"{path}: fc.weight has shape {list(weights['fc.weight'].shape)}, expected [classes, channels]")
    try:
        _check_backed({"fc.weight": weights["fc.weight"]}, size)  # the labels' number comes from it
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    classes, channels = weights["fc.weight"].shape
    if not 1 <= classes <= MOST_CLASSES:
        raise CheckpointError(f"{path}: fc.weight has shape {[classes, channels]}, expected 1 to {MOST_CLASSES} classes")
    variant = described.get("variant", "plain")
    config = _with_variant(ModelConfig(classes=int(classes), width=_width_of(int(channels))), variant)
    labels = _described_labels(path, described["labels"], classes) if "labels" in described else tuple(f"class {i}" for i in range(classes))
    return Checkpoint(config=config, weights=weights, labels=labels)


def _described_labels(path: Path, text: str, classes: int) -> tuple[str, ...]:
    try:
        labels = parse_json(text.encode(errors="replace"), MOST_HEADER)
        check_values({"labels": labels})
        if len(labels) != classes:
            raise ValueError(f"{len(labels)} labels for {classes} classes")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata's labels are damaged ({_first_line(error)}); give --labels FILE") from error
    return tuple(labels)


def _width_of(channels: int) -> float:
    """The width whose layer4 has this many channels."""
    width = channels / 2048
    return width if 4 * scaled(512, width) == channels else 1.0


@lru_cache
def _expected(config: ModelConfig) -> Mapping[str, Tensor]:
    """The state dict of a network without memory."""
    with torch.device("meta"):
        return dict(ResNet(config).state_dict())


def _check_shapes(config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Against a network without memory: one that was described is built only when its weights are there."""
    expected = _expected(config)
    for name, value in expected.items():
        if name not in weights:
            if name.endswith("num_batches_tracked"):
                continue
            raise CheckpointError(f"{name} is missing; expected shape {list(value.shape)}")
        given = weights[name]
        if given.shape != value.shape:
            raise CheckpointError(f"{name} has shape {list(given.shape)}, expected {list(value.shape)}")
        if given.layout != torch.strided or given.is_quantized or given.is_meta or given.is_floating_point() != value.is_floating_point():
            kind = "without data" if given.is_meta else f"{given.dtype} {given.layout}"
            raise CheckpointError(f"{name} is a tensor {kind}, expected a plain one of floating-point numbers")
        if name.endswith("running_var") and bool((given.float() < 0).any()):
            raise CheckpointError(f"{name} holds a variance below 0; the checkpoint is damaged")
        if given.is_floating_point() and not bool(given.float().isfinite().all()):
            raise CheckpointError(
                f"{name} holds values that are not finite (NaN or infinity); the training diverged, use an earlier checkpoint"
            )
    extra = [name for name in weights if name not in expected]
    if extra:
        raise CheckpointError(f"{extra[0]} is not part of a ResNet-50 ({len(extra)} such names); expected torchvision's names only")
