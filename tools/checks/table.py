"""The check's figures as plain text: 80 columns, whole words, the same on a terminal, in a pipe and in CI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dkcam.tools.checks.measure import CONTROLS, PLACES

SHORT = {"centred Gaussian": "Gaussian"}  # in the table's head


def lines(results: Mapping[str, Any]) -> list[str]:
    """results: of ``report.document``."""
    everything, controls = results["figures"]["all"], results["figures"]["controls"]
    names = [name for name in CONTROLS if name in controls]
    placed = [key for key in PLACES if key in everything]
    others = [key for key in everything if key not in (*placed, "records")]
    found = [f"{results['samples']} {'windows' if results['windows'] else 'pictures'} on {results['device']}"]
    if results["detections"]:
        found = [f"{results['pictures']} pictures on {results['device']}", results["detections"]["text"]]
    if placed:
        rows = [[key, _interval(everything[key]), *(f"{controls[name][key]['mean']:.3g}" for name in names)] for key in placed]
        found += ["", *_table(["", "model", *(SHORT.get(name, name) for name in names)], rows)]
    if others:
        found += ["", *_table(["", "model"], [[key, _interval(everything[key])] for key in others])]
    return [*found, ""]


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3g} ({value['low']:.3g} to {value['high']:.3g})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right, two spaces between."""
    wide = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join([f"{row[0]:<{wide[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True))]) for row in (head, *rows)
    ]
