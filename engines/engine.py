"""What every engine offers, and the checks of its input that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dkcam.engines.cuda import Cuda
from dkcam.engines.progress import Report, silent
from dkcam.errors import InputError
from dkcam.spec import InputSpec, ModelSpec

Outputs = Mapping[str, NDArray[Any]]
DRAWN = 1 << 20  # of a mask's values at a time
LUMA = (0.299, 0.587, 0.114)  # of R, G, B in grey, as OpenCV has it


@dataclass(frozen=True)
class EngineOptions:
    """threads: CPU threads in all, 0 for one per core. lanes: runs that may be in flight at once, each with its share
    of the threads: more frames a second from files, later answers for each. cache: keep what opening computes on disk.
    provider_options: for ONNX Runtime's execution provider, as its documentation names them. report: called while a
    TensorRT engine is built.
    """

    threads: int = 0
    lanes: int = 1
    cache: bool = True
    provider_options: Mapping[str, str] = field(default_factory=dict)
    report: Report = silent


class GpuImage(Protocol):
    """An ``image`` that is made on the GPU, in the engine's own input: no copy through the host.

    shape, dtype: of the graph's input. write: puts the work that fills it on a CUDA stream.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def write(self, pointer: int) -> None: ...


class Engine(Protocol):
    """An exported graph, ready to run on one device.

    spec: the graph's description. device: what truly runs it ("cpu", "cuda:0", …). sha256: of the ONNX file. lanes:
    how many threads may call ``run`` at once. cuda: the stream an engine works on that takes a ``GpuImage`` too, else None.
    """

    spec: ModelSpec
    device: str
    sha256: str
    lanes: int

    @property
    def cuda(self) -> Cuda | None: ...

    def run(self, image: NDArray[Any] | GpuImage, classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None = None) -> Outputs:
        """One inference.

        image: uint8 [B, H, W, 3] RGB or float32 [B, C, H, W], as the spec says. classes: int64 [K], ≥ 0 a class,
        −1 the top class, −2 the runner-up; [B, K] where the spec says so. key_mask: bool [N, T, T], only with
        spec.masks. Returns the graph's outputs by name; the arrays belong to the caller. Errors: InputError
        for a wrong shape, type or class.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def graph_input(pictures: NDArray[np.uint8], way: InputSpec) -> NDArray[Any]:
    """Pictures at network size, uint8 [B, H, W, 3] RGB, as the graph's ``image``: the same, or normalised float32 [B, C, H, W]."""
    if way.kind == "rgb8":
        return np.ascontiguousarray(pictures)
    values = pictures.astype(np.float32)
    if way.channels == "gray":
        values = values @ np.array(LUMA, np.float32)[:, None]
    mean, std = (np.array(each[: way.planes], np.float32) for each in way.of_unit)
    planes = ((values / 255 - mean) / std).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(planes[:, ::-1] if way.channels == "bgr" else planes, np.float32)


def draw_masks(spec: ModelSpec, rng: np.random.Generator, height: int | None = None, width: int | None = None) -> NDArray[np.bool_] | None:
    """DropKey masks bool [N, T, T] for an input size (default: the spec's); None for graphs without masks."""
    if spec.masks is None:
        return None
    samples, tokens = spec.masks.samples, spec.masks.tokens(height or spec.input.height, width or spec.input.width)
    masks = np.empty(samples * tokens**2, np.bool_)
    for start in range(0, masks.size, DRAWN):  # all at once, the numbers behind the masks take eight times their memory
        part = masks[start : start + DRAWN]
        np.less(rng.random(part.size), spec.masks.ratio, out=part)
    return masks.reshape(samples, tokens, tokens)


def check_inputs(spec: ModelSpec, image: NDArray[Any] | GpuImage, classes: NDArray[np.int64], key_mask: NDArray[np.bool_] | None) -> None:
    """Errors: InputError with the expected and the actual shape, type or range."""
    _check_image(spec.input, image)
    _check_classes(spec, classes, image.shape[0])
    if spec.masks is None:
        if key_mask is not None:
            raise InputError("key_mask was given, but this graph was exported without --samples")
        return
    height, width = image.shape[1:3] if spec.input.kind == "rgb8" else image.shape[2:4]
    tokens = spec.masks.tokens(height, width)
    expected = (spec.masks.samples, tokens, tokens)
    if key_mask is None:
        raise InputError(f"key_mask is missing, expected bool {list(expected)}: this graph was exported with --samples {expected[0]}")
    if key_mask.dtype != np.bool_ or key_mask.shape != expected:
        raise InputError(f"key_mask is {key_mask.dtype} {list(key_mask.shape)}, expected bool {list(expected)}")


def _check_classes(spec: ModelSpec, classes: NDArray[np.int64], batch: int) -> None:
    per_image, count = spec.explanation.per_image, spec.explanation.count
    expected = f"[{batch}, K]" if per_image else "[K]"
    shape = (batch, *classes.shape[1:]) if per_image else classes.shape
    if classes.dtype != np.int64 or classes.ndim != (2 if per_image else 1) or classes.shape != shape or not classes.size:
        raise InputError(f"classes is {classes.dtype} {list(classes.shape)}, expected int64 {expected} with K of 1 or more")
    if count is not None and classes.shape[-1] != count:
        raise InputError(
            f"classes has {classes.shape[-1]} entries, this graph explains exactly {count}; export with another --classes, or without"
        )
    least, most = -spec.ranks, len(spec.labels) - 1
    if classes.max() > most or classes.min() < least:
        raise InputError(f"classes holds {int(classes.max() if classes.max() > most else classes.min())}, expected {least} to {most}")


def _check_image(way: InputSpec, image: NDArray[Any] | GpuImage) -> None:
    rgb8 = way.kind == "rgb8"
    kind, layout = ("uint8", "[B, H, W, 3]") if rgb8 else ("float32", f"[B, {way.planes}, H, W]")
    channel, channels = (3, 3) if rgb8 else (1, way.planes)
    if str(image.dtype) != kind or len(image.shape) != 4 or image.shape[channel] != channels:
        raise InputError(f"image is {image.dtype} {list(image.shape)}, expected {kind} {layout}")
    batch = image.shape[0]
    least, most = way.batch
    if ("batch" not in way.dynamic and batch != least) or batch < 1:
        raise InputError(f"image holds a batch of {batch}, this graph takes {least}; export with --dynamic batch or --batch {batch}")
    if "batch" in way.dynamic and most > 1 and batch > most:
        raise InputError(f"image holds a batch of {batch}, this graph takes {least} to {most}; export with --batch {least}:{batch}")
    height, width = (image.shape[1], image.shape[2]) if rgb8 else (image.shape[2], image.shape[3])
    if "size" in way.dynamic:
        if height % way.multiple or width % way.multiple or min(height, width) < way.multiple:
            raise InputError(f"image is {height}x{width} pixels, expected multiples of {way.multiple}")
    elif (height, width) != (way.height, way.width):
        raise InputError(
            f"image is {height}x{width} pixels, this graph takes {way.height}x{way.width}; resize it or export with --dynamic size"
        )
