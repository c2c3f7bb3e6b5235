"""The embedding interface: a frame in, an Explanation out."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import dkcam
from dkcam.engines import Engine, EngineOptions, open_engine
from dkcam.engines.engine import GpuImage, Outputs, draw_masks
from dkcam.errors import InputError, ModelFileError
from dkcam.runtime.explanation import Explanation, OnGpu
from dkcam.runtime.geometry import Fit
from dkcam.runtime.gpu import GpuBatch, GpuFrame, GpuInput, GpuKernels, is_on_gpu
from dkcam.runtime.kernels import network_input, network_tensor
from dkcam.spec import ModelSpec

Classes = Sequence["str | int"]  # labels or numbers; −1 is the top class, −2 the runner-up
BOXES = 10  # of a detector that are explained at once, where nobody says how many
NEEDED = {"classify": ("probabilities",), "dense": ("probabilities",), "regress": ("logits",), "detect": ("boxes", "scores")}
DEMO_MODEL = Path(str(dkcam.__file__)).parent / "models" / "demo.onnx"


@dataclass(frozen=True)
class Asked:
    """numbers: what the graph is given. only: classes of a detector's boxes that are shown, None for all."""

    numbers: tuple[int, ...]
    only: frozenset[int] | None = None


@dataclass(frozen=True)
class Prepared:
    """A frame ready for the engine: its input with a batch of one, the way back, and the frame where it lies on the GPU."""

    image: NDArray[Any] | GpuImage
    fit: Fit
    on_gpu: GpuFrame | None = None


class Explains(Protocol):
    """What runs on frames: an ``Explainer``, or one that looks through a grid of windows."""

    engine: Engine
    spec: ModelSpec

    @property
    def device(self) -> str: ...
    def prepare(self, frame: Any) -> Any: ...
    def infer(self, prepared: Any, classes: Classes | None = None, *, masks: bool = True) -> Explanation: ...
    def infer_many(self, prepared: Sequence[Any], classes: Classes | None = None, *, masks: bool = True) -> list[Explanation]: ...
    def inputs(self, image: NDArray[np.uint8]) -> NDArray[Any]: ...
    def prepared_from(self, inputs: NDArray[Any], height: int, width: int) -> Any: ...
    def warm_up(self) -> float: ...


class Explainer:
    """Runs one exported model on frames.

    explain: class names or numbers; −1 is the top class, −2 the runner-up. Of a detector, names show the boxes of these classes,
    −1 is the best box. Of a regressor, a name (or i) shows what raises that output, "-name" (or −1 − i) what lowers it. Default:
    the top class; the ``BOXES`` best boxes; what raises the first output. resize: overrides the model's resize mode. seed: of
    the DropKey masks, for graphs with samples; the same masks serve every frame.
    """

    def __init__(self, engine: Engine, *, explain: Classes | None = None, resize: str | None = None, seed: int = 0) -> None:
        spec = engine.spec
        if "batch" not in spec.input.dynamic and spec.input.batch[0] != 1:
            raise ModelFileError(
                f"this model takes batches of {spec.input.batch[0]}; for single frames export it with --batch 1 or --dynamic batch"
            )
        missing = {*NEEDED[spec.task], "explained", "heatmap"} - set(spec.explanation.outputs)
        if missing:
            raise ModelFileError(f"this model was exported without {', '.join(sorted(missing))}; leave --outputs out, or name them too")
        self.engine, self.spec, self.resize = engine, spec, resize or spec.input.resize
        self._own = _asked(spec, explain)
        self._mask = draw_masks(spec, np.random.default_rng(seed))
        self._gpu = GpuKernels.of(engine.cuda)

    @property
    def classes(self) -> tuple[int, ...]:
        """The numbers that the graph is given."""
        return self._own.numbers

    @property
    def device(self) -> str:
        """What truly runs the model: "cpu", …"""
        return self.engine.device

    def __call__(self, frame: Any) -> Explanation:
        """Explain one frame, uint8 [H, W, 3] BGR: a numpy array, or an array in GPU memory where a TensorRT engine runs.

        A GPU array (CuPy, torch, anything with ``__cuda_array_interface__`` or DLPack) is read where it lies; it must not
        change before the explanation is there, nor before ``overlay()`` was drawn over it. What comes back belongs to
        the caller; only buffers inside dkcam are used again. Errors: InputError for another shape or type.
        """
        return self.infer(self.prepare(frame))

    def prepare(self, frame: Any) -> Prepared:
        """What comes before inference: resize and colour order, safe to run in another thread. On a GPU the frame goes up."""
        way, on_gpu = self.spec.input, is_on_gpu(frame)
        if on_gpu and self._gpu is None:
            raise InputError(
                f"frame is in GPU memory, and {self.engine.device} takes numpy arrays here; a TensorRT engine, and dkcam "
                "built where nvcc is installed, take it as it is"
            )
        if self._gpu is not None and (on_gpu or isinstance(frame, np.ndarray)):
            if not on_gpu:
                check_frame(frame)
            taken = self._gpu.take(frame) if on_gpu else None
            height, width = (taken.height, taken.width) if taken else frame.shape[:2]
            fit = self._fit(height, width)
            if self._gpu.can_shrink(height, width, fit) and self._gpu.can_make(way):
                taken = taken or self._gpu.take(frame)
                return Prepared(self._gpu.image(taken, fit, way), fit, taken)
            if on_gpu and not self._gpu.can_make(way):
                raise InputError(f"frame is in GPU memory, and this model takes {way.channels} tensors, which are made on the host alone")
            if on_gpu:
                raise InputError(f"frame is {height}x{width} in GPU memory, expected {way.height}x{way.width} pixels or more")
        return self.prepare_on_host(frame)

    def prepare_on_host(self, frame: NDArray[np.uint8]) -> Prepared:
        """As ``prepare``, by the processor."""
        check_frame(frame)
        way = self.spec.input
        fit = self._fit(frame.shape[0], frame.shape[1])
        made = network_input(frame, fit, way.fill) if way.kind == "rgb8" else network_tensor(frame, fit, way)
        return Prepared(made[None], fit)

    def _fit(self, height: int, width: int) -> Fit:
        return Fit(height, width, self.spec.input.height, self.spec.input.width, self.resize)

    def infer(self, prepared: Prepared, classes: Classes | None = None, *, masks: bool = True) -> Explanation:
        """Run the engine on a prepared frame. See ``infer_many``."""
        return self.infer_many([prepared], classes, masks=masks)[0]

    def infer_many(self, prepared: Sequence[Prepared], classes: Classes | None = None, *, masks: bool = True) -> list[Explanation]:
        """Run the engine on several prepared frames, in batches as large as the graph takes. Any thread may call it.

        classes: labels or numbers of what to explain in all of them, instead of the explainer's own (graphs that leave K
        free). masks: False drops no key, for graphs with samples. Errors: InputError for a class the model does not have.
        """
        asked = self._own if classes is None else _asked(self.spec, classes)
        mask = self._mask if masks or self._mask is None else np.zeros_like(self._mask)
        most = self.spec.input.batch[1] if "batch" in self.spec.input.dynamic else 1
        found: list[Explanation] = []
        for start in range(0, len(prepared), most):
            part = prepared[start : start + most]
            images = [each.image for each in part]
            chosen = np.array(asked.numbers, np.int64)
            if self.spec.explanation.per_image:
                chosen = np.tile(chosen, (len(part), 1))
            if len(part) == 1:
                outputs = self.engine.run(images[0], chosen, mask)
            elif all(isinstance(image, GpuInput) for image in images):
                outputs = self.engine.run(GpuBatch(tuple(image for image in images if isinstance(image, GpuInput))), chosen, mask)
            elif all(isinstance(image, np.ndarray) for image in images):
                outputs = self.engine.run(np.concatenate([image for image in images if isinstance(image, np.ndarray)]), chosen, mask)
            else:  # some were made by the processor, being smaller than the input
                found += [self.infer_many([each], classes, masks=masks)[0] for each in part]
                continue
            found += [self._said(outputs, i, each, asked) for i, each in enumerate(part)]
        return found

    def inputs(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """What the engine gets of a frame: uint8 [1, H, W, 3] RGB or float32 [1, 3, H, W], made by the processor."""
        return np.asarray(self.prepare_on_host(image).image)

    def prepared_from(self, inputs: NDArray[Any], height: int, width: int) -> Prepared:
        """The way back from ``inputs`` of a frame of height x width pixels. Errors: InputError for another shape."""
        way = self.spec.input
        shape = (1, way.height, way.width, 3) if way.kind == "rgb8" else (1, way.planes, way.height, way.width)
        if inputs.shape != shape:
            raise InputError(f"the input is {list(inputs.shape)}, this model takes {list(shape)}")
        return Prepared(inputs, self._fit(height, width))

    def _said(self, outputs: Outputs, which: int, prepared: Prepared, asked: Asked) -> Explanation:
        task, spread, explained = self.spec.task, outputs.get("heatmap_std"), outputs["explained"][which]
        scores = outputs["scores"][which] if task == "detect" else None
        if scores is not None:
            probabilities = np.zeros(len(self.spec.labels), np.float32)
            np.maximum.at(probabilities, np.clip(explained, 0, len(probabilities) - 1), scores)
        else:
            probabilities = outputs["probabilities"][which] if task != "regress" else np.zeros(0, np.float32)
        return Explanation(
            labels=self.spec.labels,
            probabilities=probabilities,
            explained=explained,
            heatmap=outputs["heatmap"][which],
            heatmap_std=spread[which] if spread is not None else None,
            fit=prepared.fit,
            device=self.engine.device,
            on_gpu=OnGpu(self._gpu, prepared.on_gpu) if self._gpu and prepared.on_gpu else None,
            task=task,
            asked=asked.numbers,
            values=outputs["logits"][which] if task == "regress" else None,
            boxes=outputs["boxes"][which] if task == "detect" else None,
            scores=scores,
            only=asked.only,
        )

    def warm_up(self) -> float:
        """One inference on a black frame; returns its seconds."""
        start = time.perf_counter()
        self(np.zeros((self.spec.input.height, self.spec.input.width, 3), np.uint8))
        return time.perf_counter() - start


def check_frame(frame: Any) -> None:
    """Errors: InputError unless uint8 [H, W, 3] with at least one pixel."""
    if not isinstance(frame, np.ndarray):
        raise InputError(f"frame is a {type(frame).__name__}, expected a numpy array uint8 [H, W, 3] BGR")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        raise InputError(f"frame is {frame.dtype} {list(frame.shape)}, expected uint8 [H, W, 3] BGR; cv2.cvtColor converts grey and BGRA")


def _asked(spec: ModelSpec, names: Classes | None) -> Asked:
    count = spec.explanation.count
    numbers = class_numbers(spec, names) if names is not None else []
    if spec.task != "detect":
        return Asked(tuple(numbers) if names is not None else (0 if spec.task == "regress" else -1,))
    named = not any(number < 0 for number in numbers)
    wanted = count or (max(BOXES, len(numbers)) if named else len(numbers))
    ranks = (-1 - rank for rank in range(spec.ranks))
    # the best box of each class that is asked for is sure to be among them; the others of that class, where they are good
    more = [rank for rank, _ in zip(ranks, range(max(wanted - len(numbers), 0)), strict=False)]
    return Asked((*numbers, *more), frozenset(numbers) if numbers and named else None)


def class_numbers(spec: ModelSpec, names: Classes) -> list[int]:
    """Labels (any case) and numbers as the graph's class numbers. Errors: InputError."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"the classes are {names!r}, expected a list of labels or numbers, such as [{names!r}]")
    return [class_number(spec, name) for name in names]


def class_number(spec: ModelSpec, name: str | int) -> int:
    """A label (any case) or number to the graph's class number; "-label" of a regressor is what lowers it. Errors: InputError."""
    if spec.task == "regress" and isinstance(name, str) and name.startswith("-") and not name[1:].isdigit():
        return -1 - class_number(spec, name[1:])
    if isinstance(name, (int, np.integer)):
        number = int(name)
    elif not isinstance(name, str):
        raise InputError(f"class {name!r} is a {type(name).__name__}, expected a label or a number")
    else:
        lowered = [label.lower() for label in spec.labels]
        holders = [number for number, label in enumerate(lowered) if label == name.lower()]
        if len(holders) > 1:
            raise InputError(f"{name!r} is the label of classes {', '.join(map(str, holders))}; give the number")
        if holders:
            return holders[0]
        try:
            number = int(name)
        except ValueError:
            near = difflib.get_close_matches(name.lower(), lowered, 3, 0.4) or lowered[:8]
            raise InputError(f"{name!r} is not a label of this model; expected one of: {', '.join(near)}, …") from None
    if not -spec.ranks <= number < len(spec.labels):
        raise InputError(f"class {number} is out of range, expected {-spec.ranks} to {len(spec.labels) - 1}")
    return number


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    explain: Classes | None = None,
    resize: str | None = None,
    threads: int = 0,
    lanes: int = 1,
    seed: int = 0,
    provider_options: Mapping[str, str] | None = None,
) -> Explainer:
    """Open an exported model for embedding; no torch needed.

    model: an .onnx or .engine file of dk-export; None opens the bundled demo model. device: auto (tensorrt, cuda, cpu:
    the first that runs here), one of them, or openvino. explain: class names or numbers (see ``Explainer``). resize: stretch, letterbox or
    crop in place of the model's own. threads: 0 for one per core. lanes: frames in flight at once, where several threads
    call ``infer`` (see ``EngineOptions``). provider_options: for ONNX Runtime's execution provider. Errors:
    ModelFileError, EngineError, InputError.
    """
    options = EngineOptions(threads, lanes, provider_options=provider_options or {})
    return Explainer(open_engine(model or DEMO_MODEL, device, options), explain=explain, resize=resize, seed=seed)
