"""The check as a page: verdicts, figures beside their controls, and pictures, the worst first. One file, nothing from outside."""

from __future__ import annotations

import base64
import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dkcam.runtime import kernels
from dkcam.runtime.overlay import map_table
from dkcam.tools.checks.judge import Verdict
from dkcam.tools.checks.measure import Record

PICTURES = 60
NOTHING = np.zeros((0, 0, 3), np.uint8)
WIDTH = 320  # of a picture on the page
TEMPLATE = Path(__file__).with_name("report.html")


def document(
    records: Sequence[Record], verdicts: Sequence[Verdict], figures: Mapping[str, Any], about: Mapping[str, Any], problems: Sequence[Any]
) -> dict[str, Any]:
    """results.json: everything the page shows, and every record's figures."""
    return {
        **about,
        "rules": [
            {
                "name": verdict.rule.name,
                "measure": verdict.rule.key,
                "class": verdict.rule.label,
                "min": verdict.rule.least,
                "max": verdict.rule.most,
                "severity": verdict.rule.severity,
                "outcome": verdict.outcome,
                "value": _number(verdict.value.value),
                "low": _number(verdict.value.low),
                "high": _number(verdict.value.high),
                "count": verdict.value.count,
                "why": verdict.why,
            }
            for verdict in verdicts
        ],
        "figures": figures,
        "problems": [{"kind": problem.kind, "where": problem.where, "text": problem.text} for problem in problems],
        "records": [_record(record) for record in records],
    }


def _record(record: Record) -> dict[str, Any]:
    place = record.sample.window
    return {
        "picture": record.sample.name,
        "window": [round(value, 3) for value in place] if place else None,
        "kind": record.sample.kind,
        "label": record.label or None,
        "predicted": record.predicted,
        "size": _number(record.size),
        "values": {key: _number(value) for key, value in sorted(record.values.items())},
        "controls": {name: {key: _number(value) for key, value in values.items()} for name, values in record.controls.items()},
    }


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def page(records: Sequence[Record], found: Mapping[str, Any]) -> bytes:
    """report.html. found: ``document``'s."""
    from jinja2 import Environment, FileSystemLoader

    chosen = sorted(records, key=badness, reverse=True)[:PICTURES]
    cards = [_card(record) for record in chosen]
    template = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True).get_template(TEMPLATE.name)
    return template.render(found=found, cards=cards, shown=len(cards), all=len(records)).encode()


def keep_images(records: Iterable[Record], most: int) -> Iterator[Record]:
    """The same records; those that are not among the ``most`` worst so far let go of their pictures: a drive would not fit in memory."""
    worst: list[tuple[tuple[float, ...], int, Record]] = []  # a heap; of two alike the earlier one stays
    for number, record in enumerate(records):
        heapq.heappush(worst, (badness(record), -number, record))
        if len(worst) > most:
            *_, least = heapq.heappop(worst)
            least.sample = replace(least.sample, image=NOTHING)
        yield record


def badness(record: Record) -> tuple[float, ...]:
    """Wrong and sure of it first, then heat that misses the object, then by how little heat is on it."""
    values = record.values
    wrong = 1 - values.get("accuracy", 1.0)
    changed = 1 - values.get("agreement", 1.0)
    missed = 1 - values.get("pointing", 1.0)
    return changed, wrong, missed, -values.get("energy", 1.0), -values.get("correlation", 1.0)


def _card(record: Record) -> dict[str, Any]:
    image = record.sample.image
    fit = record.fit
    table = map_table("turbo", 0.6)[None]
    picture = kernels.overlay(image, np.asarray(record.heatmap, np.float32)[None], fit, table, tint=False)
    for box, colour in [*((box, (60, 220, 60)) for box in record.beside), *((box, (255, 255, 255)) for box in record.sample.boxes)]:
        corners = [(round(x), round(y)) for x, y in ((box.left, box.top), (box.right, box.bottom))]
        cv2.rectangle(picture, corners[0], corners[1], colour, max(1, image.shape[1] // 320))
    height = round(image.shape[0] * WIDTH / image.shape[1])
    small = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA if image.shape[1] > WIDTH else cv2.INTER_LINEAR)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    values = record.values
    return {
        "picture": "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode(),
        "width": WIDTH,
        "height": height,
        "name": record.sample.name,
        "label": record.label,
        "predicted": record.predicted,
        "right": bool(values.get("accuracy", 1)),
        "pointed": bool(values["pointing"]) if "pointing" in values else None,
        "changed": values.get("agreement") == 0,
        "size": round(record.size) if math.isfinite(record.size) else None,
        "values": {key: f"{value:.3g}" for key, value in values.items() if key not in ("accuracy", "pointing", "agreement")},
    }
