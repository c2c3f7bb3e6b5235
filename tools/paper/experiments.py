"""One function a figure: conditions, models, and every picture's figures. The report computes everything from these."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.cells import Area, pointing
from dkcam.engines.engine import draw_masks
from dkcam.runtime.explainer import Explainer
from dkcam.runtime.geometry import Fit
from dkcam.tools import corruptions
from dkcam.tools.checks.measure import edges
from dkcam.tools.metrics.place import centred_gaussian, chance, energy_ratio, entropy, iou
from dkcam.tools.paper.cams import score_cam, smooth_grad_cam
from dkcam.tools.paper.models import Model
from dkcam.tools.paper.pictures import Change, changed, rotated, stretched
from dkcam.tools.scenes.example import Example

Map = NDArray[np.floating[Any]]
Values = dict[str, list[float]]

PLACED = ("pointing", "energy_ratio", "iou")
METRICS = ("confidence", "accuracy", *PLACED)
NOISE = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.6, 1.0, 1.5, 2.0)
ROTATION = (0, 15, 30, 45, 60, 90, 120, 150, 180)
STRETCH = (1 / 3, 0.5, 0.75, 1, 1.5, 2, 3)
CONTRAST = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
SIZES = (8, 12, 16, 24, 32, 48)
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NOISY = 1.5  # figure 5's variance


@dataclass(frozen=True)
class Plan:
    """How much is measured. pictures: for figure 3. fewer: for the others. masks: for figure 8. channels: of Score-CAM."""

    pictures: int
    fewer: int
    slow: int  # pictures for Score-CAM
    channels: int | None
    backs: tuple[str, ...]
    thin: int  # every so many-th condition is measured

    def some(self, values: Sequence[float]) -> list[float]:
        """The conditions of a plan, the last one always."""
        return [value for i, value in enumerate(values) if i % self.thin == 0 or i == len(values) - 1]


FULL = Plan(pictures=100, fewer=60, slow=16, channels=None, backs=("clip", "minmax"), thin=1)
QUICK = Plan(pictures=16, fewer=10, slow=4, channels=32, backs=("clip", "minmax"), thin=3)


@dataclass(frozen=True)
class Setup:
    """examples: what is shown. of_size: the same signs at another width in pixels. random: controls by variant."""

    models: Sequence[Model]
    random: Mapping[str, Explainer]
    examples: Sequence[Example]
    of_size: Callable[[float, int], Sequence[Example]]
    plan: Plan


def condition(at: float | str, model: str, values: Values, **more: Any) -> dict[str, Any]:
    """An entry of the JSON: what was changed and how far, which model, and a list per figure, a value a picture."""
    return {"at": at, "model": model, **more, "values": {key: [_rounded(v) for v in found] for key, found in values.items()}}


def _rounded(value: float) -> float | int:
    """Three digits; whole numbers without a point: thousands of them are written."""
    return int(value) if value == int(value) else round(float(value), 3)


def look(explainer: Explainer, examples: Sequence[Example]) -> tuple[Values, list[Map], list[Map]]:
    """Figures of each picture, the heatmaps of the true class, and of a wrong one."""
    values: Values = {key: [] for key in (*METRICS, "entropy")}
    maps, wrong = [], []
    for example in examples:
        said = explainer.infer_many([explainer.prepare(example.picture)], [example.label, -1, -2])[0]
        other = 1 if int(said.explained[1]) != example.label else 2
        heat = said.heatmap[0]
        maps.append(heat)
        wrong.append(said.heatmap[other])
        values["confidence"].append(float(said.probabilities[example.label]))
        values["accuracy"].append(float(said.probabilities.argmax() == example.label))
        for key, value in placed(heat, example).items():
            values[key].append(value)
        values["entropy"].append(entropy(heat))
    return values, maps, wrong


def placed(heat: Map, example: Example) -> dict[str, float]:
    """Where the heat lies against the sign's box."""
    area = _area(heat, example)
    return {"pointing": pointing(heat, area), "energy_ratio": energy_ratio(heat, area), "iou": iou(heat, area)}


def _area(heat: Map, example: Example) -> Area:
    assert example.box is not None
    height, width = example.picture.shape[:2]
    return Fit(height, width, height, width).area(example.box, heat.shape)


def controls(examples: Sequence[Example], maps: Sequence[Map], wrong: Sequence[Map], random: Sequence[Map]) -> dict[str, Values]:
    """What looks at nothing of the model, or at the wrong thing: name → figures of each picture."""
    found: dict[str, Values] = {}
    for k, (example, heat) in enumerate(zip(examples, maps, strict=True)):
        height, width = example.picture.shape[:2]
        others = {
            "centred Gaussian": centred_gaussian(*heat.shape),
            "edges": edges(example.picture, heat.shape, Fit(height, width, height, width)),
            "random weights": random[k],
            "wrong class": wrong[k],
        }
        for name, other in others.items():
            for key, value in placed(other, example).items():
                found.setdefault(name, {}).setdefault(key, []).append(value)
        expected = chance(heat, _area(heat, example))
        for key in PLACED:
            found.setdefault("chance", {}).setdefault(key, []).append(expected[key])
    return found


def sweep(
    setup: Setup, conditions: Sequence[tuple[float | str, Change]], count: int, report: Callable[[str], None], **more: Any
) -> list[dict[str, Any]]:
    """Every condition on every model, and the controls of the first dropkey model."""
    found = []
    for at, change in conditions:
        report(f"{at}")
        seed = zlib.crc32(repr((at, sorted(more.items()))).encode())
        examples = [change(example, np.random.default_rng((seed, n))) for n, example in enumerate(setup.examples[:count])]
        found += on_all(setup, examples, at, **more)
    return found


def on_all(setup: Setup, examples: Sequence[Example], at: float | str, **more: Any) -> list[dict[str, Any]]:
    found = []
    for model in setup.models:
        values, maps, wrong = look(model.explainer, examples)
        found.append(condition(at, model.name, values, **more))
        if model.name == "dropkey-0":
            _, random, _ = look(setup.random[model.variant], examples)
            for name, control in controls(examples, maps, wrong, random).items():
                found.append(condition(at, f"control: {name}", control, **more))
    return found


def noise(setup: Setup, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figures 2 and 3: confidence and heatmaps against the noise's variance."""
    found = []
    for back in setup.plan.backs:

        def change(variance: float, back: str = back) -> Change:
            return changed(lambda picture, rng: corruptions.noise(picture, variance, rng, back))

        wanted = sorted({*setup.plan.some(NOISE), 0.5, 0.6})
        found += sweep(setup, [(variance, change(variance)) for variance in wanted], setup.plan.pictures, report, back=back)
    return found


def shapes(setup: Setup, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figure 4: rotation and stretching."""
    turned = [(float(angle), rotated(angle)) for angle in setup.plan.some(ROTATION)]
    pulled = [(round(ratio, 3), stretched(ratio)) for ratio in setup.plan.some(STRETCH)]
    return sweep(setup, turned, setup.plan.fewer, report, of="rotation") + sweep(setup, pulled, setup.plan.fewer, report, of="stretch")


def low_contrast(setup: Setup, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figure 6."""

    def change(factor: float) -> Change:
        return changed(lambda picture, rng: corruptions.contrast(picture, factor, rng))

    return sweep(setup, [(factor, change(factor)) for factor in setup.plan.some(CONTRAST)], setup.plan.fewer, report)


def small_objects(setup: Setup, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figure 7: signs down to 8 pixels wide."""
    found = []
    for size in setup.plan.some(SIZES):
        report(f"{size} px")
        found += on_all(setup, setup.of_size(size, setup.plan.fewer), size)
    return found


def masks(setup: Setup, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figure 8: mask ratios at inference; "spread" is the heatmap's, over masks, over its mean."""
    examples, found = setup.examples[: setup.plan.fewer], []
    for model in setup.models:
        if model.masked is None:
            continue
        off, maps, _ = look(model.explainer, examples)
        found.append(condition("off", model.name, off))
        engine = model.masked.engine
        for ratio in setup.plan.some(RATIOS):
            report(f"{model.name}, ratio {ratio}")
            rng, values = np.random.default_rng(round(ratio * 1000)), {key: [] for key in (*METRICS, "spread", "correlation")}  # type: Any, Values
            drawn = draw_masks(engine.spec, rng)
            assert drawn is not None
            mask = rng.random(drawn.shape) < ratio
            for example, plain in zip(examples, maps, strict=True):
                said = engine.run(model.masked.prepare(example.picture).image, np.array([example.label]), mask)
                heat, spread, scores = said["heatmap"][0, 0], said["heatmap_std"][0, 0], said["probabilities"][0]
                values["confidence"].append(float(scores[example.label]))
                values["accuracy"].append(float(scores.argmax() == example.label))
                for key, value in placed(heat, example).items():
                    values[key].append(value)
                values["spread"].append(float(spread.mean() / heat.mean()) if heat.mean() > 0 else 0.0)
                both = heat.std() > 0 and plain.std() > 0
                values["correlation"].append(float(np.corrcoef(heat.ravel(), plain.ravel())[0, 1]) if both else 0.0)
            found.append(condition(ratio, model.name, values))
    return found


def methods(setup: Setup, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Figure 5: eight methods, without noise and at variance 1.5; the first seed of each variant."""
    by_variant = {model.variant: model for model in setup.models if model.seed == 0}
    plain, found = by_variant["plain"], []
    for back in ("none", *setup.plan.backs):

        def spoil(n: int, example: Example, back: str = back) -> Example:
            rng = np.random.default_rng((5, n))
            return example if back == "none" else changed(lambda p, r: corruptions.noise(p, NOISY, r, back))(example, rng)

        examples = [spoil(n, example) for n, example in enumerate(setup.examples[: setup.plan.fewer])]
        for name, title in (("gradcam", "Grad-CAM"), ("gradcam++", "Grad-CAM++"), ("xgradcam", "XGrad-CAM"), ("layercam", "LayerCAM")):
            report(f"{title}, noise {back}")
            found.append(condition(title, plain.name, look(plain.methods[name], examples)[0], back=back))
        for variant in ("dropout", "dropkey"):
            values, maps, wrong = look(by_variant[variant].explainer, examples)
            found.append(condition(f"{variant} Grad-CAM", by_variant[variant].name, values, back=back))
            if variant == "dropkey":
                _, random, _ = look(setup.random[variant], examples)
                for name, control in controls(examples, maps, wrong, random).items():
                    found.append(condition(f"control: {name}", "control", control, back=back))
        assert plain.features is not None
        report(f"Smooth Grad-CAM++, noise {back}")
        smooth = [smooth_grad_cam(plain.features, e.picture, e.label, np.random.default_rng((6, n))) for n, e in enumerate(examples)]
        found.append(condition("Smooth Grad-CAM++", plain.name, _all_placed(smooth, examples), back=back))
        report(f"Score-CAM, noise {back}")
        few = examples[: setup.plan.slow]
        scored = [score_cam(plain.explainer, plain.features, e.picture, e.label, setup.plan.channels) for e in few]
        found.append(condition("Score-CAM", plain.name, _all_placed(scored, few), back=back))
    return found


def _all_placed(maps: Sequence[Map], examples: Sequence[Example]) -> Values:
    values: Values = {}
    for heat, example in zip(maps, examples, strict=True):
        for key, value in placed(heat, example).items():
            values.setdefault(key, []).append(value)
    return values


EXPERIMENTS: Mapping[str, Callable[[Setup, Callable[[str], None]], list[dict[str, Any]]]] = {
    "noise": noise,
    "shapes": shapes,
    "methods": methods,
    "contrast": low_contrast,
    "small": small_objects,
    "masks": masks,
}


def run_all(setup: Setup, report: Callable[[str], None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(experiment, its conditions), as they are done."""
    for name, experiment in EXPERIMENTS.items():
        yield name, experiment(setup, lambda what, name=name: report(f"{name}: {what}"))  # type: ignore[misc]
