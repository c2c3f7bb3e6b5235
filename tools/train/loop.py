"""The training loop: seeded, resumable, on CPU (bfloat16 where the processor has it) or CUDA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dkcam.errors import DataError
from dkcam.export.checkpoint import IMAGENET_MEAN, IMAGENET_STD, Checkpoint, load_checkpoint, save_checkpoint, save_torch
from dkcam.export.model import ModelConfig, ResNet
from dkcam.tools.scenes import Examples, SignSize
from dkcam.tools.train.schedule import Schedule

WEIGHT_DECAY = 5e-4


@dataclass(frozen=True)
class TrainingOptions:
    """Everything that decides the result, but the data. ``epoch`` is a number of pictures: the sources are endless."""

    variant: str = "dropkey"
    width: float = 0.25
    mask_ratio: float = 0.3
    height: int = 192
    width_px: int = 320
    epochs: int = 24
    epoch: int = 10_000
    batch: int = 64
    rate: float = 0.1
    seed: int = 0
    sign_size: SignSize = field(default_factory=SignSize)


class _Pictures(Dataset[tuple[Tensor, int]]):
    """Picture number → (normalised float [3, H, W], label); the number alone decides what is drawn."""

    def __init__(self, examples: Examples, options: TrainingOptions) -> None:
        self._examples, self._options = examples, options

    def __getitem__(self, key: Any) -> tuple[Tensor, int]:
        number, height, width = key
        rng = np.random.default_rng((self._options.seed, number))
        example = self._examples.training(rng, height, width, self._options.sign_size)
        return normalise(example.picture), example.label


def normalise(picture: np.ndarray[Any, Any]) -> Tensor:
    """uint8 [H, W, 3] BGR to float32 [3, H, W] RGB, normalised with ImageNet's mean and standard deviation."""
    image = torch.from_numpy(np.ascontiguousarray(picture[..., ::-1])).permute(2, 0, 1).float() / 255
    return (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; emulated it is ten times slower than float32."""
    capabilities = torch.backends.cpu.get_cpu_capability()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "AVX512" in capabilities and ("avx512_bf16" in flags or "amx_bf16" in flags)


@dataclass(frozen=True)
class Progress:
    """One step's report: step and steps, canvas in pixels, running loss and accuracy 0..1, device."""

    step: int
    steps: int
    canvas: tuple[int, int]
    loss: float
    accuracy: float


def train(
    examples: Examples,
    output: Path,
    options: TrainingOptions,
    *,
    device: str = "cpu",
    init: Path | None = None,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Checkpoint:
    """Train and write ``output``; after every epoch the state is kept in ``output.state`` until the run ends.

    Errors: DataError when ``resume`` finds a state of other options; CheckpointError for a bad ``init``.
    """
    schedule = Schedule(options.epochs * options.epoch, options.batch, options.height, options.width_px, options.rate)
    model = _start_model(examples, options, init).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others}]
    optimiser = torch.optim.SGD(groups, lr=options.rate, momentum=0.9, nesterov=True)
    state_file = output.with_name(output.name + ".state")
    start = _load_state(state_file, options, model, optimiser) if resume else 0
    low_precision = device == "cuda" or has_fast_bfloat16()
    loader = DataLoader(
        _Pictures(examples, options),
        batch_sampler=_Batches(schedule, start),
        num_workers=1 if torch.get_num_threads() <= 2 else min(8, torch.get_num_threads() - 1),
        prefetch_factor=8,
        worker_init_fn=_single_threaded,
    )
    torch.manual_seed(options.seed + start)
    model.train()
    loss_mean, right_mean = 0.0, 0.0
    for step, (pictures, labels) in enumerate(loader, start):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        pictures = pictures.to(device).contiguous(memory_format=torch.channels_last)
        labels = labels.to(device)
        with torch.autocast(device, torch.bfloat16, enabled=low_precision):
            logits = model(pictures)
        loss = functional.cross_entropy(logits.float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        keep = min(1 - 1 / (step - start + 1), 0.98)  # a plain mean at first, then a running one
        loss_mean = keep * loss_mean + (1 - keep) * float(loss.detach())
        right_mean = keep * right_mean + (1 - keep) * float((logits.argmax(1) == labels).float().mean())
        report(Progress(step + 1, schedule.steps, schedule.canvas(step), loss_mean, right_mean))
        if (step + 1) * options.batch // options.epoch > step * options.batch // options.epoch and step + 1 < schedule.steps:
            _save_state(state_file, step + 1, options, model, optimiser)
    checkpoint = Checkpoint(
        config=model.config,
        weights=model.state_dict(),
        labels=examples.labels,
        size=(options.height, options.width_px),
        notes={"training": str(asdict(options))},
    )
    save_checkpoint(output, checkpoint, half=True)
    state_file.unlink(missing_ok=True)
    return load_checkpoint(output)


def _single_threaded(worker: int) -> None:
    """Drawing workers share the cores with the network: OpenCV's own threads would only get in its way."""
    import cv2

    cv2.setNumThreads(0)


class _Batches:
    """Batch sampler over a schedule."""

    def __init__(self, schedule: Schedule, start: int) -> None:
        self._schedule, self._start = schedule, start

    def __iter__(self) -> Any:
        return self._schedule.batches(self._start)

    def __len__(self) -> int:
        return self._schedule.steps - self._start


def _start_model(examples: Examples, options: TrainingOptions, init: Path | None) -> ResNet:
    config = ModelConfig(len(examples.labels), options.variant, options.width, None, options.mask_ratio)
    model = ResNet(config)
    model.initialise(options.seed)
    if init is not None:
        loaded = load_checkpoint(init)
        weights = {k: v.float() if v.is_floating_point() else v for k, v in loaded.weights.items()}
        if loaded.config.classes != config.classes:
            weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
        if loaded.config.width != config.width:
            raise DataError(f"{init} has width {loaded.config.width}, the run asks for {config.width}; give --width {loaded.config.width}")
        model.load_state_dict(weights, strict=False)
    return model


def _save_state(path: Path, step: int, options: TrainingOptions, model: ResNet, optimiser: torch.optim.Optimizer) -> None:
    save_torch(path, {"step": step, "options": str(options), "model": model.state_dict(), "optimiser": optimiser.state_dict()}, DataError)


def _load_state(path: Path, options: TrainingOptions, model: ResNet, optimiser: torch.optim.Optimizer) -> int:
    if not path.is_file():
        raise DataError(f"{path} does not exist, so there is nothing to resume; leave --resume out")
    state = torch.load(path, weights_only=True)
    if state["options"] != str(options):
        raise DataError(f"{path} was written with other options ({state['options']}); repeat those, or leave --resume out")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
