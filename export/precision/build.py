"""A float16 or int8 file from a checkpoint: calibrate, choose what stays in float32, judge on pictures not seen before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dkcam.engines import Engine, open_bytes
from dkcam.engines.engine import graph_input
from dkcam.engines.progress import Report, silent
from dkcam.errors import ExportError
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.graph import write_graph
from dkcam.export.model import ResNet
from dkcam.export.pictures import load_pictures
from dkcam.export.precision.calibrate import calibrate
from dkcam.export.precision.fidelity import THRESHOLDS, Fidelity, FidelityError, Thresholds, compare, truths
from dkcam.export.precision.numerics import Half, Int8, Numerics
from dkcam.export.precision.search import Kept, fit
from dkcam.export.reference import Reference
from dkcam.rendered import random_scene, render
from dkcam.spec import ModelSpec

SHARES = {"calibrate": 1, "choose": 2, "judge": 4}  # of the pictures
MOST = 224
FEWEST = 14

Pictures = Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class LowPrecision:
    """numerics: of the file. kept: convolutions in float32, worst first. fidelity: on pictures held back, None unjudged."""

    numerics: Numerics
    kept: tuple[Kept, ...] = ()
    fidelity: Fidelity | None = None

    def describe(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what its file is."""
        figures = self.fidelity.figures() if self.fidelity else {}
        return replace(spec, kept=tuple(layer.name for layer in self.kept), fidelity=figures)


def lower(
    checkpoint: Checkpoint, spec: ModelSpec, calibration: Path | None, *, check: bool = True, report: Report = silent
) -> LowPrecision:
    """Numerics for ``spec.precision`` and ``spec.target``.

    calibration: road pictures, in place of rendered ones. check: choose what to keep and judge; off, int8 is calibrated
    alone. Errors: FidelityError when the file would say something else than the model, ExportError for too few pictures.
    """
    report("reading pictures", 0, 0)
    sets = split(pictures_for(spec, calibration))
    model = checkpoint.module()
    numerics: Numerics = Half()
    if spec.precision == "int8":
        normalised = replace(spec, input="tensor")
        report("calibrating", 0, 0)
        numerics = Int8(spec.target, calibrate(model, [graph_input(p[None], normalised)[0] for p in sets["calibrate"]]))
    if not check:
        return LowPrecision(numerics)
    wanted = THRESHOLDS[spec.precision]
    reference = Reference(model, spec, dtype=torch.float32)
    kept: tuple[Kept, ...] = ()

    def open_file(numerics: Numerics) -> Engine:
        return open_bytes(write_graph(checkpoint, spec, numerics=numerics), f"the {spec.precision} file")

    if isinstance(numerics, Int8):
        report("running the float32 model", 0, 0)
        chosen_on = truths(reference, spec, sets["choose"])
        work = multiplications(checkpoint.module(), spec)
        margin = Thresholds(wanted.correlation + 0.1 * (1 - wanted.correlation), wanted.top1 + 0.25 * (1 - wanted.top1))
        numerics, kept, _ = fit(numerics, work, open_file, chosen_on, margin, report)
    report("judging", 0, 0)
    fidelity = compare(open_file(numerics), truths(reference, spec, sets["judge"]))
    missed = fidelity.misses(wanted)
    if missed:
        raise FidelityError(
            f"the {spec.precision} file differs from the model: {missed} ({fidelity.frames} pictures, {len(kept)} layers in float32); "
            "nothing was written; calibrate on more pictures like yours, or --no-verify"
        )
    return LowPrecision(numerics, kept, fidelity)


def pictures_for(spec: ModelSpec, calibration: Path | None) -> Pictures:
    """Pictures at the spec's size, uint8 RGB, in an order that is mixed but always the same."""
    rng = np.random.default_rng(0)
    if calibration is None:
        return [np.ascontiguousarray(render(random_scene(rng), spec.height, spec.width)[0][..., ::-1]) for _ in range(MOST // 2)]
    found = load_pictures(calibration, spec.height, spec.width, MOST)
    if len(found) < FEWEST:
        raise ExportError(f"--calibration {calibration} holds {len(found)} pictures, --precision {spec.precision} needs {FEWEST} or more")
    return [found[index] for index in rng.permutation(len(found))]


def split(pictures: Pictures) -> dict[str, Pictures]:
    """No picture in two sets."""
    total, start, sets = sum(SHARES.values()), 0, {}
    for name, share in SHARES.items():
        end = start + round(len(pictures) * share / total)
        sets[name] = pictures[start : end if name != "judge" else len(pictures)]
        start = end
    return sets


def multiplications(model: ResNet, spec: ModelSpec) -> dict[str, int]:
    """Of every convolution of the backbone that has its batch-norm merged, for one picture."""
    found: dict[str, int] = {}
    hooks: list[Callable[[], None]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name != spec.layer:

            def count(layer: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor, name: str = name) -> None:
                found[name] = layer.weight.numel() * out.shape[2] * out.shape[3]  # type: ignore[operator]

            hooks.append(module.register_forward_hook(count).remove)
    with torch.inference_mode():
        model(torch.zeros(1, 3, spec.height, spec.width))
    for remove in hooks:
        remove()
    return found
