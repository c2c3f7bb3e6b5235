"""Verdicts: each rule's mean over the records it is about, with an interval, against its bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from dkcam.cells import peak
from dkcam.interval import Mean, mean, mean_or_share
from dkcam.printable import printable
from dkcam.tools.checks.measure import CONTROLS, PLACES, Record, by_key, control, labels_of
from dkcam.tools.checks.rules import AGAINST, CAUSAL, DETECTIONS, JITTER, MEASURES, Rule, Rules, normal
from dkcam.tools.metrics.place import centroid
from dkcam.tools.metrics.temporal import jitter

SIZES = ((0, 24), (24, 40), (40, 64), (64, math.inf))  # of objects in the model's pixels
YES_OR_NO = ("pointing", "label_pointing", "accuracy", "agreement")
FIGURES = ("pointing", "energy_ratio", "energy", "iou", *DETECTIONS, "accuracy", "confidence", "entropy", "stability", *CAUSAL, *AGAINST)


@dataclass(frozen=True)
class Verdict:
    """outcome: "pass", "warn", "fail" or "skipped" (nothing to judge, said in ``why``)."""

    rule: Rule
    value: Mean
    outcome: str
    why: str = ""

    def line(self) -> str:
        """What a person reads."""
        if self.outcome == "skipped":
            return f"{self.rule.name}: skipped, {self.why}"
        about = "" if self.rule.label == "all" else f" of {self.rule.label}"
        return f"{self.rule.name}: {self.rule.measure}{about} is {self.value} over {self.value.count}, expected {self.rule.wanted}"


def judge(records: Sequence[Record], rules: Rules, labels: Sequence[str], *, sequence: bool = False) -> list[Verdict]:
    """One verdict a rule. sequence: the pictures are frames of one drive, in order. The rules' classes are the model's
    (``check_classes``).
    """
    return [_judge(records, rule, labels, sequence) for rule in rules.rules]


def _judge(records: Sequence[Record], rule: Rule, labels: Sequence[str], sequence: bool) -> Verdict:
    nothing = Mean(math.nan, math.nan, math.nan, 0)
    label = next((name for name in labels if normal(name) == normal(rule.label)), "all")
    if rule.measure in JITTER:
        if not sequence:
            return Verdict(rule, nothing, "skipped", "the pictures are no sequence; --sequence says that they are")
        value = _jitter([record for record in records if label in ("all", record.label)], rule.measure)
        found = Mean(value, value, value, 0 if math.isnan(value) else len(records))
    else:
        values = by_key(records, rule.key, label)
        found = _mean(values, rule.key)
    if not found.count:
        return Verdict(rule, found, "skipped", f"no picture has a figure for it ({MEASURES[rule.measure].text})")
    return Verdict(rule, found, "pass" if rule.holds(found.value) else rule.severity)


def _jitter(records: Sequence[Record], measure: str) -> float:
    """Class by class, so that a step never leads from one object to another; the objects' own motion is subtracted."""
    squares = []
    for label in dict.fromkeys(record.label for record in records):
        own = [record for record in records if record.label == label]
        points = [_peak(record) if measure == "jitter" else centroid(record.heatmap) for record in own]
        objects = [_middle(record) for record in own]
        value = jitter(points, objects if any(objects) else None)
        if not math.isnan(value):
            squares.append((value**2, len(own)))
    return math.sqrt(sum(s * n for s, n in squares) / sum(n for _, n in squares)) if squares else math.nan


def _middle(record: Record) -> tuple[float, float] | None:
    """The first object's centre, 0..1 of the input."""
    if not record.sample.boxes:
        return None
    box = record.sample.boxes[0]
    return record.fit.to_cells((box.left + box.right) / 2, (box.top + box.bottom) / 2, (1, 1))


def _peak(record: Record) -> tuple[float, float] | None:
    """The hottest cell's centre, 0..1 of the input."""
    found = peak(record.heatmap)
    return found and (found[0] / record.heatmap.shape[1], found[1] / record.heatmap.shape[0])


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Figures over all, by class, by size, and the controls' beside them; each a mean with interval and count."""
    parts: dict[str, Sequence[Record]] = {"all": records}
    for label in labels_of(records):
        parts[label] = [record for record in records if record.label == label]
    sizes = {_range(low, high): [r for r in records if low <= r.size < high] for low, high in SIZES}
    return {
        "all": _figures(records),
        "classes": {name: _figures(part) for name, part in parts.items() if name != "all"},
        "sizes": {name: _figures(part) for name, part in sizes.items() if part},
        "controls": {
            name: {key: _as_dict(_mean(control(records, name, key), key)) for key in PLACES}
            for name in CONTROLS
            if control(records, name, "pointing")
        },
    }


def _figures(records: Sequence[Record]) -> dict[str, Any]:
    found = {key: _mean(by_key(records, key), key) for key in (*FIGURES, *_regions(records))}
    return {"records": len(records)} | {key: _as_dict(value) for key, value in found.items() if value.count}


def _regions(records: Sequence[Record]) -> list[str]:
    return sorted({key for record in records for key in record.values if key.startswith(("region:", "corrupted_confidence:"))})


def _mean(values: Sequence[tuple[float, str]], key: str) -> Mean:
    numbers, names = [value for value, _ in values], [name for _, name in values]
    return mean_or_share(numbers, names) if key in YES_OR_NO else mean(numbers, names)


def _as_dict(value: Mean) -> dict[str, float]:
    return {"mean": _short(value.value), "low": _short(value.low), "high": _short(value.high), "count": value.count}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _range(low: float, high: float) -> str:
    return f"{low:g} px and more" if high == math.inf else f"{low:g} to {high:g} px"


def failed(verdicts: Sequence[Verdict]) -> bool:
    return any(verdict.outcome == "fail" for verdict in verdicts) or nothing_judged(verdicts)


def nothing_judged(verdicts: Sequence[Verdict]) -> bool:
    """Whether there are rules of severity fail and none of them could be judged: such a run has checked nothing."""
    strict = [verdict for verdict in verdicts if verdict.rule.severity == "fail"]
    return bool(strict) and all(verdict.outcome == "skipped" for verdict in strict)


def junit(verdicts: Sequence[Verdict], problems: Mapping[str, int], seconds: float) -> bytes:
    """JUnit XML as CI systems read it: a test case a rule; warnings pass, with their words in system-out. Where no rule of
    severity fail could be judged these are errors.
    """
    void = {id(verdict) for verdict in verdicts if nothing_judged(verdicts) and verdict.rule.severity == "fail"}
    suite = ElementTree.Element(
        "testsuite",
        name="dk-check",
        tests=str(len(verdicts)),
        failures=str(sum(verdict.outcome == "fail" for verdict in verdicts)),
        errors=str(len(void)),
        skipped=str(sum(verdict.outcome == "skipped" and id(verdict) not in void for verdict in verdicts)),
        time=f"{seconds:.3f}",
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname=f"dk-check.{verdict.rule.measure}", name=printable(verdict.rule.name))
        words = printable(verdict.line())  # XML has no control characters
        if verdict.outcome == "fail":
            ElementTree.SubElement(case, "failure", message=words, type=verdict.rule.measure).text = words
        elif verdict.outcome == "skipped":
            ElementTree.SubElement(case, "error" if id(verdict) in void else "skipped", message=printable(verdict.why))
        else:
            ElementTree.SubElement(case, "system-out").text = f"{verdict.outcome}: {words}"
    if problems:
        words = ", ".join(f"{kind} {count}" for kind, count in problems.items())
        ElementTree.SubElement(suite, "system-err").text = f"labels with problems: {words}"
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"
