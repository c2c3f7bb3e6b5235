"""A float16 or int8 file from a checkpoint: calibrate, choose what stays in float32, judge on pictures not seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np
import torch
from msgspec.structs import replace as changed
from numpy.typing import NDArray
from torch import nn

from dkcam.engines import Engine, open_bytes
from dkcam.engines.engine import graph_input
from dkcam.engines.progress import Report, silent
from dkcam.errors import ExportError
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.graph import write_graph
from dkcam.export.model import ResNet
from dkcam.export.pictures import Pictures, rendered_pictures
from dkcam.export.precision.calibrate import calibrate
from dkcam.export.precision.fidelity import THRESHOLDS, Fidelity, FidelityError, Truth, compare, truths
from dkcam.export.precision.numerics import Half, Int8, Numerics
from dkcam.export.precision.search import Kept, fit
from dkcam.interval import fewest, needed, worth
from dkcam.spec import ModelSpec

SHARES = {"calibrate": 1, "choose": 2, "judge": 4}  # of the sources
MOST = {"calibrate": 100, "choose": 800, "judge": 1200}  # pictures
RENDERED = 480
CHOSEN = 0.25  # of the distance that the judge allows: what is chosen must hold on pictures that are new, with their interval


@dataclass(frozen=True)
class LowPrecision:
    """numerics: of the file. kept: convolutions in float32, worst first. fidelity: on pictures held back, None unjudged.
    rendered: whether those were drawn, for want of pictures of the user's.
    """

    numerics: Numerics
    kept: tuple[Kept, ...] = ()
    fidelity: Fidelity | None = None
    rendered: bool = False

    def describe(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what its file is."""
        figures = self.fidelity.figures() if self.fidelity else {}
        kept = tuple(layer.name for layer in self.kept)
        return changed(spec, provenance=changed(spec.provenance, kept=kept, fidelity=figures))


def lower(
    checkpoint: Checkpoint, spec: ModelSpec, calibration: Pictures | None, *, check: bool = True, report: Report = silent
) -> LowPrecision:
    """Numerics for ``precision`` and ``target`` of a spec.

    calibration: in place of rendered scenes. check: choose what to keep and judge; off, int8 is calibrated alone. Errors:
    FidelityError when the file would say something else than the model, ExportError for too few pictures.
    """
    if calibration is None:
        report("drawing scenes", 0, 0)
    pictures = calibration or rendered_pictures(spec.input.height, spec.input.width, RENDERED)
    sets = split(pictures)
    wanted = THRESHOLDS[spec.provenance.precision]
    if check:
        _refuse_few(pictures, sets, wanted.agreement, spec)
    numerics: Numerics = Half()
    if spec.provenance.precision == "int8":
        normalised = changed(spec.input, kind="tensor")
        report("calibrating", 0, 0)
        numerics = Int8(
            spec.provenance.target, calibrate(checkpoint.module(), [graph_input(p[None], normalised)[0] for p in sets["calibrate"].images])
        )
    if not check:
        return LowPrecision(numerics, rendered=pictures.rendered)
    plain = changed(spec, provenance=changed(spec.provenance, precision="fp32", target="any"))
    exact = open_bytes(write_graph(checkpoint, plain), "the float32 file")
    kept: tuple[Kept, ...] = ()

    def open_file(numerics: Numerics) -> Engine:
        return open_bytes(write_graph(checkpoint, spec, numerics=numerics), f"the {spec.provenance.precision} file")

    def answers(name: str) -> list[Truth]:
        report(f"running the float32 model on {len(sets[name])} pictures", 0, 0)
        return truths(exact, sets[name])

    if isinstance(numerics, Int8):
        work = multiplications(checkpoint.module(), spec)
        chosen = wanted.nearer(CHOSEN)
        chosen = replace(chosen, agreement=max(chosen.agreement, needed(wanted.agreement, worth(sizes_of(sets["judge"])))))
        numerics, kept, _ = fit(numerics, work, open_file, answers("choose"), chosen, report)
        if len(kept) == len(work):
            raise FidelityError(
                "int8 cannot say what the model says: every convolution would have to stay in float32; nothing was written; "
                "calibrate on pictures like yours, export --precision fp16, or --no-verify"
            )
    expected = answers("judge")
    report(f"judging on {len(expected)} pictures", 0, 0)
    fidelity = compare(open_file(numerics), expected)
    missed = fidelity.misses(wanted)
    if missed:
        raise FidelityError(
            f"the {spec.provenance.precision} file differs from the model: {missed} ({len(kept)} layers in float32); nothing was written; "
            "calibrate on more pictures like yours, or --no-verify"
        )
    return LowPrecision(numerics, kept, fidelity, pictures.rendered)


def _refuse_few(pictures: Pictures, sets: dict[str, Pictures], agreement: float, spec: ModelSpec) -> None:
    judged, enough, precision = sets["judge"], fewest(agreement), spec.provenance.precision
    if len(judged) and worth(sizes_of(judged)) >= enough and len(sets["calibrate"]) and len(sets["choose"]):
        return
    of = f" of {len(set(pictures.sources))} sources" if len(set(pictures.sources)) < len(pictures) else ""
    total = -(-enough * sum(SHARES.values()) // SHARES["judge"])
    raise ExportError(
        f"--calibration gives {len(pictures)} pictures{of}, too few to judge --precision {precision} by: to show that {agreement:.0%} "
        f"keep their class takes {total} different ones, {enough} of them to judge on (a video, or a data set with --windows, gives many)"
    )


def sizes_of(pictures: Pictures) -> NDArray[np.float64]:
    """How many pictures each source has."""
    return np.array(list(Counter(pictures.sources).values()), np.float64)


def split(pictures: Pictures) -> dict[str, Pictures]:
    """In an order that is mixed but always the same; no source in two sets."""
    sources: list[Hashable] = list(dict.fromkeys(pictures.sources))
    sources = [sources[index] for index in np.random.default_rng(0).permutation(len(sources))]
    total, start, sets = sum(SHARES.values()), 0, {}
    for name, part in SHARES.items():
        end = start + round(len(sources) * part / total)
        mine = sources[start : end if name != "judge" else len(sources)]
        sets[name] = pictures.of(frozenset(mine), MOST[name])
        start = end
    return sets


def multiplications(model: ResNet, spec: ModelSpec) -> dict[str, int]:
    """Of every convolution of the backbone that has its batch-norm merged, for one picture."""
    found: dict[str, int] = {}
    hooks: list[Callable[[], None]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name != spec.explanation.layers[0]:

            def count(layer: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor, name: str = name) -> None:
                found[name] = layer.weight.numel() * out.shape[2] * out.shape[3]  # type: ignore[operator]

            hooks.append(module.register_forward_hook(count).remove)
    with torch.inference_mode():
        model(torch.zeros(1, 3, spec.input.height, spec.input.width))
    for remove in hooks:
        remove()
    return found
