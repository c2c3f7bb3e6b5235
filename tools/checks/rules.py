"""Rules about where a model looks, from YAML; every complaint names the line.

map:                                  # a data set's class: the model's label; classes without one are not judged
  speed limit 30: speed limit
background: no sign                   # the label of pictures without objects
regions:                              # corners as [x, y], 0..1 of the picture from the top left
  bonnet: [[0, 0.88], [1, 0.88], [1, 1], [0, 1]]
rules:
  - measure: pointing
    min: 0.8
  - name: not the bonnet
    measure: region
    region: bonnet
    max: 0.2
    severity: warn
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dkcam.errors import DataError
from dkcam.tools.checks.yaml_file import read_yaml
from dkcam.tools.corruptions import parse_corruption


@dataclass(frozen=True)
class Measure:
    """text: what it is. live: whether dk-run can take it, without boxes. least, most: the figures it can have."""

    text: str
    live: bool
    most: float = 1.0


MEASURES = {
    "pointing": Measure("share of objects that the hottest cell lies on", live=False),
    "energy": Measure("share of the heat in the object's box", live=False),
    "energy_ratio": Measure("that share over the box's share of the picture", live=False, most=math.inf),
    "iou": Measure("overlap of box and hottest fifth", live=False),
    "label_pointing": Measure("of detections: as pointing, for the labelled box that it matches", live=False),
    "label_energy": Measure("of detections: as energy, for the labelled box", live=False),
    "label_energy_ratio": Measure("of detections: as energy_ratio, for the labelled box", live=False, most=math.inf),
    "label_iou": Measure("of detections: as iou, for the labelled box", live=False),
    "overlap": Measure("of detections: intersection over union with the labelled box", live=False),
    "accuracy": Measure("share of pictures whose top class is right; of detections that match a label", live=False),
    "confidence": Measure("probability of the true class; live of the top class", live=True),
    "corrupted_confidence": Measure("the same under a corruption", live=False),
    "region": Measure("share of the heat in a region", live=True),
    "entropy": Measure("how spread the heat is, 0 one cell to 1 even", live=True),
    "jitter": Measure("the hottest cell's step from frame to frame, share of the picture", live=True, most=math.inf),
    "centroid_jitter": Measure("the step of the heat's centre", live=True, most=math.inf),
    "insertion": Measure("probability while the hottest pixels come back first", live=False),
    "deletion": Measure("probability while the hottest pixels go first", live=False),
    "stability": Measure("1 − spread of the heat over DropKey masks, over its mean", live=True),
    "agreement": Measure("share of pictures with the same top class in both models", live=False),
    "correlation": Measure("correlation of both models' heatmaps", live=False),
}
DETECTIONS = ("label_pointing", "label_energy_ratio", "label_energy", "label_iou", "overlap")
CAUSAL = ("insertion", "deletion")  # 21 runs a picture each: only where a rule asks for them
JITTER = ("jitter", "centroid_jitter")
AGAINST = ("agreement", "correlation")
SEVERITIES = ("fail", "warn")


@dataclass(frozen=True)
class Rule:
    """name: shown. label: of the model, or "all". least, most: bounds of the mean. frames: over how many frames live."""

    name: str
    measure: str
    line: int
    label: str = "all"
    least: float | None = None
    most: float | None = None
    region: str = ""
    corruption: str = ""
    severity: str = "fail"
    frames: int = 10

    @property
    def key(self) -> str:
        """Which of a record's values it judges."""
        return ":".join(part for part in (self.measure, self.region, self.corruption) if part)

    def holds(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def wanted(self) -> str:
        parts = [f"at least {self.least:g}" if self.least is not None else "", f"at most {self.most:g}" if self.most is not None else ""]
        return " and ".join(part for part in parts if part)


@dataclass(frozen=True)
class Rules:
    """labels: data-set class → the model's label, by normal names. regions: name → corners [n, 2]. source: the file's name.

    lines: where "background" and each "map: CLASS" stand in the file.
    """

    source: str = "built in"
    rules: tuple[Rule, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    background: str | None = None
    regions: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)


# Without --rules: the least one may ask of a model that looks at its objects at all.
GATHERS = Rule("heat gathers in the box", "energy_ratio", 0, least=1.5)
DEFAULT = Rules(rules=(GATHERS, Rule("top class is right", "accuracy", 0, least=0.5)))
DEFAULT_OF_DETECTORS = Rules(rules=(GATHERS, Rule("detections match labels", "accuracy", 0, least=0.5)))


def filled(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """A polygon of (x, y) in pixels as a mask [height, width]."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.rint((corners - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return mask.astype(bool)


def normal(name: str) -> str:
    """Names match without regard to case, underscores and hyphens."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def check_classes(rules: Rules, labels: Sequence[str], *, live: bool = False) -> None:
    """A class that the model does not have is a typo: a rule about it would hold for ever. live: map and background are not used.

    Errors: DataError with the line, what came and the model's labels.
    """
    known = {normal(label) for label in labels}
    asked = [(rule.line, "class", rule.label) for rule in rules.rules if rule.label != "all"]
    if not live:
        asked += [(rules.lines.get(f"map: {kind}", 0), f"map: {kind}", label) for kind, label in rules.labels.items()]
        asked += [(rules.lines.get("background", 0), "background", rules.background)] if rules.background else []
    for line, what, label in asked:
        if normal(label) in known:
            continue
        mapped = rules.labels.get(normal(label)) if what == "class" else None
        near = get_close_matches(normal(label), known, 1)
        hint = f"; map: turns it into {mapped!r}, name that" if mapped else f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{rules.source} line {line}: {what} is {label!r}, which is no class of the model{hint} (it has {_listed(labels)})")


def _listed(labels: Sequence[str], most: int = 40) -> str:
    return ", ".join(labels[:most]) + (f", … {len(labels)} in all" if len(labels) > most else "")


def read_rules(path: Path) -> Rules:
    """Errors: DataError with file, line, what came and what was expected."""
    return _Reader(path).rules(read_yaml(path, "rules (.yaml)"))


class _Reader:
    """Turns YAML nodes into rules, keeping track of lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _fail(self, node: Any, words: str) -> DataError:
        return DataError(f"{self._path} line {node.start_mark.line + 1 if node is not None else 1}: {words}")

    def _table(self, node: Any, what: str, known: Sequence[str] | None = None) -> dict[str, Any]:
        if node is None or node.id != "mapping":
            raise self._fail(node, f"{what} is no table; expected name: value lines")
        found: dict[str, Any] = {}
        for key, value in node.value:
            if key.id != "scalar":
                raise self._fail(key, f"a name in {what} is a list or a table; expected name: value lines")
            name = str(key.value)
            if known is not None and name not in known:
                raise self._fail(key, f"{name!r} is not known in {what}; expected {', '.join(known)}")
            if name in found:
                raise self._fail(key, f"{name!r} stands twice in {what}")
            found[name] = value
        return found

    def _list(self, node: Any, what: str) -> list[Any]:
        if node.id != "sequence":
            raise self._fail(node, f"{what} is no list; expected lines that begin with -")
        return list(node.value)

    def _text(self, node: Any, what: str, among: Sequence[str] | None = None) -> str:
        if node.id != "scalar" or not str(node.value).strip():
            raise self._fail(node, f"{what} is empty or no text")
        value = str(node.value).strip()
        if among is not None and value not in among:
            raise self._fail(node, f"{what} is {value!r}, expected one of {', '.join(among)}")
        return value

    def _number(self, node: Any, what: str, least: float, most: float) -> float:
        text = str(node.value) if node.id == "scalar" else f"a {node.id}"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            bounds = f"{least:g} to {most:g}" if math.isfinite(most) else f"{least:g} or more"
            raise self._fail(node, f"{what} is {text[:40]!r}, expected a number, {bounds}")
        return value

    def rules(self, node: Any) -> Rules:
        top = self._table(node, "the file", ("map", "background", "regions", "rules"))
        labels, lines = {}, {}
        for name, value in self._table(top["map"], "map").items() if "map" in top else ():
            labels[normal(name)] = self._text(value, f"map: {name}")
            lines[f"map: {normal(name)}"] = value.start_mark.line + 1
        regions = {}
        for name, value in self._table(top["regions"], "regions").items() if "regions" in top else ():
            regions[name] = self._corners(value, name)
        rules = tuple(self._rule(entry, regions) for entry in self._list(top["rules"], "rules")) if "rules" in top else ()
        if not rules:
            raise self._fail(node, "there are no rules; expected rules: with a list")
        background = self._text(top["background"], "background") if "background" in top else None
        if "background" in top:
            lines["background"] = top["background"].start_mark.line + 1
        return Rules(str(self._path), rules, labels, background, regions, lines)

    def _corners(self, node: Any, name: str) -> NDArray[np.float64]:
        corners = []
        for point in self._list(node, f"region {name}"):
            values = self._list(point, f"region {name}: a corner")
            if len(values) != 2:
                raise self._fail(point, f"region {name}: a corner has {len(values)} numbers, expected [x, y]")
            corners.append([self._number(value, f"region {name}: a corner", 0, 1) for value in values])
        if len(corners) < 3:
            raise self._fail(node, f"region {name} has {len(corners)} corners, expected 3 or more")
        return np.array(corners, np.float64)

    def _rule(self, node: Any, regions: Mapping[str, Any]) -> Rule:
        fields = self._table(node, "a rule", ("name", "measure", "class", "min", "max", "region", "corruption", "severity", "frames"))
        if "measure" not in fields:
            raise self._fail(node, f"a rule has no measure; expected one of {', '.join(MEASURES)}")
        measure = self._text(fields["measure"], "measure", tuple(MEASURES))
        most = MEASURES[measure].most
        bounds = {key: self._number(fields[key], key, 0, most) for key in ("min", "max") if key in fields}
        if not bounds:
            raise self._fail(node, f"the {measure} rule has neither min nor max")
        if len(bounds) == 2 and bounds["min"] > bounds["max"]:
            raise self._fail(fields["min"], f"min {bounds['min']:g} is above max {bounds['max']:g}")
        for extra in ("region", "corruption"):
            needed = measure == "region" if extra == "region" else measure == "corrupted_confidence"
            if needed != (extra in fields):
                raise self._fail(node, f"the {measure} rule {'needs' if needed else 'takes no'} {extra}:")
        region = self._text(fields["region"], "region", tuple(regions)) if "region" in fields else ""
        corruption = self._text(fields["corruption"], "corruption") if "corruption" in fields else ""
        if corruption:
            try:
                parse_corruption(corruption)
            except DataError as error:
                raise self._fail(fields["corruption"], str(error)) from error
        label = self._text(fields["class"], "class") if "class" in fields else "all"
        told = " ".join(part for part in (measure, region, corruption, "" if label == "all" else f"({label})") if part)
        return Rule(
            name=self._text(fields["name"], "name") if "name" in fields else told,
            measure=measure,
            line=node.start_mark.line + 1,
            label=label,
            least=bounds.get("min"),
            most=bounds.get("max"),
            region=region,
            corruption=corruption,
            severity=self._text(fields["severity"], "severity", SEVERITIES) if "severity" in fields else "fail",
            frames=int(self._number(fields["frames"], "frames", 1, 10_000)) if "frames" in fields else 10,
        )
