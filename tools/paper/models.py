"""The three variants, trained alike with several seeds, as explainers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dkcam.engines import open_bytes
from dkcam.engines.engine import EngineOptions
from dkcam.fields import METHODS, VARIANTS
from dkcam.runtime.explainer import DEMO_MODEL, Explainer

MASKS = 32


@dataclass(frozen=True)
class Training:
    """seeds: models of each variant. pictures: each is fine-tuned on, from the demo model's weights. rate: peak learning rate."""

    seeds: int
    pictures: int
    rate: float = 0.03


@dataclass(frozen=True)
class Model:
    """One trained model. methods: explainers by CAM method, "gradcam" always. masked: with masks given, dropkey alone."""

    variant: str
    seed: int
    methods: dict[str, Explainer]
    masked: Explainer | None = None
    features: Explainer | None = None

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.seed}"

    @property
    def explainer(self) -> Explainer:
        return self.methods["gradcam"]


def train_models(data: str, folder: Path, training: Training, report: Callable[[str], None]) -> dict[str, Path]:
    """Name → checkpoint for every variant and seed; those that are in the folder already are taken as they are."""
    from dkcam.tools.scenes import open_examples
    from dkcam.tools.train.loop import TrainingOptions, train

    folder.mkdir(parents=True, exist_ok=True)
    found, examples = {}, None
    for seed in range(training.seeds):
        for variant in VARIANTS:
            path = folder / f"{variant}-{seed}.pt"
            found[f"{variant}-{seed}"] = path
            if path.is_file():
                report(f"{path} is there already")
                continue
            examples = examples or open_examples(data)
            epochs = max(1, round(training.pictures / 8000))
            options = TrainingOptions(variant, epochs=epochs, epoch=training.pictures // epochs, rate=training.rate, seed=seed)
            report(f"training {variant}, seed {seed}")
            train(examples, path, options, init=DEMO_MODEL.with_suffix(".pt"))
    return found


def open_models(paths: dict[str, Path], threads: int) -> list[Model]:
    """Exported and opened on the CPU. The first seed has every method, the raw gradient and the masks as well."""
    from dkcam.export.checkpoint import load_checkpoint

    found = []
    for name, path in paths.items():
        variant, seed = name.split("-")
        checkpoint = load_checkpoint(path)
        first = seed == "0"
        methods = {method: _explainer(checkpoint, threads, method=method) for method in (METHODS if first else METHODS[:1])}
        masked = _explainer(checkpoint, threads, samples=MASKS, mask_ratio=0.3) if variant == "dropkey" else None
        outputs = ("probabilities", "explained", "heatmap", "gradient", "features")
        features = _explainer(checkpoint, threads, outputs=outputs) if first else None
        found.append(Model(variant, int(seed), methods, masked, features))
    return found


def random_models(paths: dict[str, Path], threads: int) -> dict[str, Explainer]:
    """A control for each variant: the same network with random weights."""
    from dkcam.export.checkpoint import Checkpoint, load_checkpoint
    from dkcam.tools.train.evaluate import random_model

    found = {}
    for variant in VARIANTS:
        trained = load_checkpoint(paths[f"{variant}-0"])
        control = random_model(trained.module())
        found[variant] = _explainer(Checkpoint(control.config, control.state_dict(), trained.labels, trained.size), threads)
    return found


def _explainer(checkpoint: object, threads: int, **options: object) -> Explainer:
    from dkcam.export.exporter import export
    from dkcam.export.options import ExportOptions

    data = export(checkpoint, ExportOptions(**options), check=False).data  # type: ignore[arg-type]
    return Explainer(open_bytes(data, "the model", "cpu", EngineOptions(threads, cache=False)))
