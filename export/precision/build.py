"""A float16 or int8 file of a network: calibrate, choose what stays in float32, judge on pictures not seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from dkcam.engines import Engine, open_bytes
from dkcam.engines.engine import graph_input
from dkcam.engines.progress import Report, silent
from dkcam.errors import ExportError
from dkcam.export.passes.half import watched
from dkcam.export.passes.int8 import multiplications, wanted
from dkcam.export.pictures import Pictures, rendered_pictures
from dkcam.export.precision.calibrate import Feed, calibrate, extremes
from dkcam.export.precision.fidelity import Fidelity, FidelityError, Limits, Truth, compare, doubt, nearer, truths
from dkcam.export.precision.judges import JUDGES
from dkcam.export.precision.lower import merge
from dkcam.export.precision.numerics import Half, Int8, Numerics
from dkcam.export.precision.search import Kept, fit
from dkcam.interval import fewest, needed, worth
from dkcam.spec import ModelSpec

SHARES = {"calibrate": 1, "choose": 2, "judge": 4}  # of the sources
MOST = {"calibrate": 100, "choose": 800, "judge": 1200}  # pictures
RENDERED = 480
FEWEST = 30  # pictures to judge by, where no share of them is judged
LOOKED_AT = 16  # pictures, for the largest numbers
CHOSEN = 0.25  # of the distance that the judge allows: what is chosen must hold on pictures that are new, with their interval


@dataclass(frozen=True)
class Subject:
    """A network that can be written in any numerics.

    model: float32, its picture's way in place, with the names that ``write`` uses; it stays as it is. boundary: names of the values up to
    which numbers are rounded. keep: names of values that are explained. write: the file's bytes in these numerics, None for float32; of a
    segmentation with the network's own scores among the outputs.
    """

    model: ir.Model
    boundary: tuple[str, ...]
    keep: tuple[str, ...]
    write: Callable[[Numerics | None], bytes]


@dataclass(frozen=True)
class LowPrecision:
    """numerics: of the file. kept: operators in float32, worst first. fidelity: on pictures held back, None unjudged.
    rendered: whether those were drawn, for want of pictures of the user's. doubt: why these pictures could not tell a bad file from
    a faithful one, "" if they could.
    """

    numerics: Numerics
    kept: tuple[Kept, ...] = ()
    fidelity: Fidelity | None = None
    rendered: bool = False
    doubt: str = ""

    def describe(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what its file is."""
        figures = self.fidelity.figures() if self.fidelity else {}
        kept = tuple(layer.name for layer in self.kept)
        return changed(spec, provenance=changed(spec.provenance, kept=kept, fidelity=figures))


def build(subject: Subject, spec: ModelSpec, calibration: Pictures | None, *, check: bool = True, report: Report = silent) -> LowPrecision:
    """Numerics for ``precision`` and ``target`` of a spec.

    calibration: in place of rendered scenes. check: choose what to keep and judge; off, the network is calibrated alone. Errors:
    FidelityError when the file would say something else than the network, or when nothing can be judged; ExportError for too few
    pictures.
    """
    if calibration is None:
        report("drawing scenes", 0, 0)
    pictures = calibration or rendered_pictures(spec.input.height, spec.input.width, RENDERED)
    sets, precision, task = split(pictures), spec.provenance.precision, spec.task
    limits = JUDGES[task].limits[precision]
    if check:
        _refuse_few(pictures, sets, limits, precision)
    report("calibrating", 0, 0)
    numerics, work = _start(subject, spec, sets["calibrate"], report)
    if not check:
        return LowPrecision(numerics, rendered=pictures.rendered)
    exact = open_bytes(subject.write(None), "the float32 file")
    kept: tuple[Kept, ...] = ()

    def open_file(numerics: Numerics) -> Engine:
        return open_bytes(subject.write(numerics), f"the {precision} file")

    def answers(name: str) -> list[Truth]:
        report(f"running the float32 model on {len(sets[name])} pictures", 0, 0)
        return truths(exact, sets[name], task)

    expected = answers("judge")
    unsure = doubt(expected, task, limits)
    if isinstance(numerics, Int8):
        chosen = nearer(limits, task, CHOSEN)
        if "agreement" in chosen:
            chosen["agreement"] = max(chosen["agreement"], needed(limits["agreement"], worth(sizes_of(sets["judge"]))))
        numerics, kept, _ = fit(numerics, work, open_file, answers("choose"), chosen, task, report)
        if len(kept) == len(work):
            raise FidelityError(
                "int8 cannot say what the model says: every operator would have to stay in float32; nothing was written; "
                "calibrate on pictures like yours, export --precision fp16, or --no-verify"
            )
    report(f"judging on {len(expected)} pictures", 0, 0)
    fidelity = compare(open_file(numerics), expected, task)
    if not any(fidelity.means[name].count for name in JUDGES[task].figures):
        raise FidelityError(
            f"whether the {precision} file says what the model says cannot be told: {unsure}; nothing was written; "
            "give --calibration pictures like yours, or --no-verify"
        )
    missed = fidelity.misses(limits)
    if missed:
        raise FidelityError(
            f"the {precision} file differs from the model: {missed} ({len(kept)} layers in float32); nothing was written; "
            "calibrate on more pictures like yours, or --no-verify"
        )
    return LowPrecision(numerics, kept, fidelity, pictures.rendered, unsure)


def _start(subject: Subject, spec: ModelSpec, pictures: Pictures, report: Report) -> tuple[Numerics, dict[str, int]]:
    """Numerics with nothing kept, and the multiplications of what may be."""
    batch = spec.input.batch[0]
    feeds: list[Feed] = [{"image": graph_input(np.repeat(one[None], batch, axis=0), spec.input)} for one in pictures.images]
    model, target = subject.model.clone(), spec.provenance.target
    if spec.provenance.precision == "fp16":
        merge(model, Half(), subject.boundary, subject.keep)
        reached = extremes(model, watched(model, subject.boundary), feeds[:LOOKED_AT])
        return Half({name: max(-low, high) for name, (low, high) in reached.items()}), {}
    merge(model, Int8(target, {}), subject.boundary, subject.keep)
    work = multiplications(model, subject.boundary, target, subject.keep)
    if not work:
        raise ExportError(
            "--precision int8: nothing that leads to the explained layer can be multiplied in 8 bits; export --precision fp16"
        )
    return Int8(target, calibrate(model, wanted(model, subject.boundary, target, subject.keep), feeds, report)), work


def _refuse_few(pictures: Pictures, sets: dict[str, Pictures], limits: Limits, precision: str) -> None:
    judged, share = sets["judge"], limits.get("agreement")
    enough = FEWEST if share is None else fewest(share)
    if len(judged) and worth(sizes_of(judged)) >= enough and len(sets["calibrate"]) and len(sets["choose"]):
        return
    of = f" of {len(set(pictures.sources))} sources" if len(set(pictures.sources)) < len(pictures) else ""
    total = -(-enough * sum(SHARES.values()) // SHARES["judge"])
    why = f"to show that {share:.0%} keep their class takes" if share is not None else "it takes"
    raise ExportError(
        f"--calibration gives {len(pictures)} pictures{of}, too few to judge --precision {precision} by: {why} {total} different ones, "
        f"{enough} of them to judge on (a video, or a data set with --windows, gives many)"
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
