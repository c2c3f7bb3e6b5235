"""What ``dk-export`` prints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dkcam.tools.export.destination import Destination
from dkcam.tools.terminal import echo, echo_table

if TYPE_CHECKING:
    from dkcam.export.explain.listing import Listed
    from dkcam.export.exported import Exported
    from dkcam.export.parity import Parity
    from dkcam.export.precision.fidelity import Fidelity


def print_layers(rows: Sequence[Listed]) -> None:
    """Candidates for ``--layer``, the default marked."""
    echo_table(
        "Layers, in the order the network computes them; cost: of one map there, beside one run of the network",
        ("layer", "shape", "map", "pixels a cell", "cost", ""),
        [
            (
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.map[0]}x{row.map[1]}",
                f"{row.stride[0]:g}x{row.stride[1]:g}" if row.stride[0] else "free",
                f"{row.cost:.0%}",
                "default" if row.default else "",
            )
            for row in rows
        ],
        left=("layer", ""),
    )


def print_exported(exported: Exported, place: Destination) -> None:
    from dkcam.export.parity import CEILING, FACTOR, TOLERANCE

    spec = exported.spec
    if exported.parity is not None:
        _print_parity(exported.parity)
        echo(f"float32: what float32 loses without us; limit: {TOLERANCE:.0e}, or {FACTOR:.0f} times float32's up to {CEILING:.0e}.")
        if exported.parity.input_dependence is not None:
            echo(f"Heatmaps of different pictures differ by up to {exported.parity.input_dependence:.0%} of the maximum.")
    else:
        echo("Not verified (--no-verify); the file says so.")
    if exported.low is not None and exported.low.fidelity is not None:
        _print_fidelity(exported.low.fidelity, spec.provenance.precision)
        if exported.low.rendered:
            echo("Calibrated and judged on rendered scenes; --calibration with pictures of your own says what holds there.")
        if exported.low.doubt:
            echo(f"These figures say little: {exported.low.doubt}.")
            echo("Give --calibration pictures of all kinds; an untrained network has no such.")
        if exported.low.kept:
            share = sum(layer.share for layer in exported.low.kept)
            echo(f"{len(exported.low.kept)} layers with {share:.0%} of all multiplications stay in float32:")
        for layer in exported.low.kept:
            echo(f"{layer.name} stays in float32: in int8 it alone costs {layer.harm:.4f}; it has {layer.share:.1%} of all multiplications")
    size = f"{spec.input.height}x{spec.input.width}" + (" (free)" if "size" in spec.input.dynamic else "")
    made, explained = spec.provenance, spec.explanation
    counted = "outputs" if spec.task == "regress" else "classes"
    for note in exported.notes:
        echo(f"Note: {note}.")
    kind = made.precision + (f" for {made.target}" if made.target != "any" else "")
    echo(
        f"{place.model} → {place.file}: {spec.network.variant or spec.task}, {len(spec.labels)} {counted}, {size}, "
        f"{', '.join(explained.layers)}, {explained.method}, {kind}, {len(exported.data) / 1e6:.1f} MB"
    )


def _print_parity(found: Parity) -> None:
    pictures = sum(found.images.values())
    of = f"{pictures} pictures, {found.classes} classes" if found.classes else f"{pictures} pictures"
    echo_table(
        f"Parity with autograd (float64), {of}: each map's error over its own maximum, for the map nearest its limit",
        ("output", "maps", "picture", "class", "error", "float32", "limit"),
        [
            (row.output, str(row.maps), row.pictures, row.label, f"{row.error:.1e}", f"{row.float32:.1e}", f"{row.limit:.1e}")
            for row in found.by_output()
        ],
        left=("output", "picture", "class"),
    )


DIGITS = {"iou": 3, "peak_shift": 2}  # 4 of any other figure


def _print_fidelity(found: Fidelity, precision: str) -> None:
    from dkcam.export.precision.judges import JUDGES

    rows = []
    for name, words in JUDGES[found.task].shown.items():
        value, digits = found.means.get(name), DIGITS.get(name, 4)
        if value is not None and value.count:
            rows.append((words, f"{value.value:.{digits}f}", f"{value.low:.{digits}f} to {value.high:.{digits}f}"))
        elif not math.isnan(found.numbers.get(name, math.nan)):
            rows.append((words, f"{found.numbers[name]:.{digits}f}", ""))
    title = f"{precision} against the float32 model, {found.pictures} pictures held back"
    echo_table(title, ("figure", "value", "95 % interval"), rows, left=("figure",))
