"""docs/models.md from the figures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.measure import COUNTS
from zoo.networks import Network

Figures = Mapping[str, Any]
TITLES = {
    "classify": "Classifiers",
    "detect": "Detectors",
    "dense": "Segmentations",
    "regress": "Regressors",
    "sequence": "Readers of text lines",
}
STAGE_WORDS = {
    "about": "making the file", "found": "task and layers", "default": "export", "early": "export at the early layer", "levels": "loading",
    "tensorrt": "TensorRT-RTX", "cost": "timing", "peer": "pytorch-grad-cam", "fp16": "fp16", "int8": "int8",
}  # fmt: skip
NOT_FAILURES = ("no torch module", "there is no default file", "no file to load", "no layer lies before")

HEAD = """# Models

What `dk-export` makes of {count} networks of {families} families. `python docs/models.py --zoo zoo` wrote this page: it makes the networks
and explains each one through the same code as the command. It goes on where it was stopped; `--only NAME --again` asks about one anew.

No weights can be had without a network connection, so most are random, but with sound statistics: batch-norms have seen pictures, blocks
add something, the last layer tells pictures apart (docs/zoo/statistics.py). Those out of other people's packages are marked real. Random
weights say whether a gradient is right and what it costs, not whether a heatmap is sensible.

{summary}

Columns:
- **layer** is the default that was found without help, with its map; **early** is the first map of a stride of 8 or more.
- **parity** is the largest error of a heatmap against autograd in float64, over that map's maximum, on six pictures; at the default
  layer, then at the early one. The exporter's own limit is 1e-4, or four times what float32 itself loses.
- **kept** is the largest change of the network's own outputs, relative to their largest value.
- **1 map**, **5 maps** (detectors: 10): a run of the file beside a run of the original in ONNX Runtime on one thread, the median of
  paired ratios with its 95 % interval; **early**: one map at the early layer. That costs what the network behind it costs.
- **peer**: pytorch-grad-cam over the same torch module at the same layer, beside the original file, and the largest difference of
  its map from ours, both stretched to 0..1.
- **TensorRT**: whether TensorRT-RTX builds the original / the file / the file at the early layer.
- **levels**: both files load at all four of ONNX Runtime's levels of optimisation; the largest difference of their maps.
- **fp16**, **int8** (for CPUs): through the exporter's gate on rendered scenes; the heatmaps' mean correlation with float32, and for
  int8 the share of multiplications that stays in float32. *refused* is the gate's work: the classes of random weights lie close.
"""


def write(networks: Sequence[Network], results: Figures, path: Path) -> None:
    rows = results.get("networks", {})
    measured = [one for one in networks if "about" in rows.get(one.name, {})]
    parts = [
        HEAD.format(count=len(measured), families=len({one.family for one in measured}), summary=_summary(measured, rows)),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items()) + ".\n",
    ]
    for task, title in TITLES.items():
        some = [one for one in measured if one.expected == task]
        if some:
            parts += [f"## {title}\n", _what(some, rows), _costs(some, rows)]
    parts += ["## What failed, and why\n", _failures(measured, rows), "## Operators\n", _operators(measured, rows)]
    path.write_text("\n".join(parts))


def _summary(networks: Sequence[Network], rows: Figures) -> str:
    verified = [one for one in networks if _ok(rows, one, "default")]
    both = [one for one in verified if _ok(rows, one, "early")]
    worst = max((_heat(rows, one, which) for one in verified for which in ("default", "early") if _ok(rows, one, which)), default=0.0)
    right = [one for one in verified if rows[one.name]["default"]["task"] == one.expected]
    alone = [one for one in right if one.task == "auto" and not one.decode and not one.outputs]
    lines = [
        f"{len(verified)} are explained and verified, {len(both)} of them at an early layer too; "
        f"the largest error of a heatmap is {worst:.0e}.",
        f"{len(right)} have the right task, {len(alone)} of them without a flag.",
    ]
    for task, words in (("classify", "a classifier"), ("detect", "a detector")):
        costs = [rows[one.name]["cost"]["default 1"]["ratio"] for one in networks if one.expected == task and _ok(rows, one, "cost")]
        if costs:
            middle = f"{statistics.median(costs):.2f} of the plain file in the median, {max(costs):.2f} at most"
            lines.append(f"One map at the default layer of {words} costs {middle}.")
    peers = [rows[one.name]["peer"] for one in networks if _ok(rows, one, "peer")]
    if peers:
        times, apart = (statistics.median(one[what] for one in peers) for what in ("ratio", "difference"))
        lines.append(
            f"pytorch-grad-cam runs on {len(peers)} of the same torch modules and takes {times:.1f} times the plain file in the median; "
            f"its maps differ from ours by {apart:.0e} in the median."
        )
    built = [rows[one.name]["tensorrt"] for one in networks if _ok(rows, one, "tensorrt")]
    taken = [one for one in built if one["original"] == "yes" and "default" in one]
    whole = sum(one["default"] == "yes" and one.get("early", "yes") == "yes" for one in taken)
    lines.append(f"TensorRT-RTX builds {whole} of the {len(taken)} whose original it builds, at both layers.")
    for stage in ("fp16", "int8"):
        asked = [one for one in verified if stage in rows[one.name]]
        if asked:
            lines.append(f"{stage}: {sum(_ok(rows, one, stage) for one in asked)} of {len(asked)} pass the gate.")
    return "\n".join(f"- {line}" for line in lines)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _what(networks: Sequence[Network], rows: Figures) -> str:
    def row(one: Network) -> list[str]:
        figures = rows[one.name]
        about, found = figures["about"], figures.get("found", {})
        source = f"{one.source}, {one.exporter or about.get('producer', '')}" + (f", {one.weights}" if one.weights != "random" else "")
        early = f"{_short(found['early'])} {found['early_map']}" if found.get("early") else "–"
        return [
            one.name, one.family, source, str(about.get("nodes", "–")), str(len(about.get("kinds", {})) or "–"),
            f"{_short(found['layer'])} {found['map']}" if "layer" in found else "–", early,
            f"{_parity(rows, one, 'default')}, {_parity(rows, one, 'early')}", _kept(figures),
            _figure(figures, "default", lambda f: f"{f['seconds']:.0f} s"),
        ]  # fmt: skip

    titles = ["network", "family", "from", "nodes", "kinds", "layer", "early", "parity", "kept", "export"]
    return _table(titles, map(row, networks))


def _costs(networks: Sequence[Network], rows: Figures) -> str:
    def row(one: Network) -> list[str]:
        figures = rows[one.name]
        few, many = figures.get("cost", {}).get("counts", COUNTS.get(one.expected, (1, 5)))
        return [
            one.name,
            _figure(figures, "cost", lambda f: f"{f['original_ms']:.1f}"),
            *(_figure(figures, "cost", lambda f, key=key: _ratio(f.get(key))) for key in (f"default {few}", f"default {many}", "early 1")),
            _figure(figures, "peer", lambda f: f"{f['ratio']:.1f}, {f['difference']:.0e}"),
            _figure(
                figures,
                "tensorrt",
                lambda f: " / ".join("yes" if f[k] == "yes" else "no" for k in ("original", "default", "early") if k in f),
            ),
            _figure(figures, "levels", lambda f: f"{max(f.values()):.0e}"),
            _figure(figures, "fp16", _low, gate=True),
            _figure(figures, "int8", _low, gate=True),
        ]

    many = COUNTS.get(networks[0].expected, (1, 5))[1]
    return _table(
        ["network", "original, ms", "1 map", f"{many} maps", "early", "peer", "TensorRT", "levels", "fp16", "int8"], map(row, networks)
    )


def _low(figures: Figures) -> str:
    mean = figures.get("fidelity", {}).get("pearson")
    mean = mean.get("value", mean) if isinstance(mean, Mapping) else mean
    share = sum(part for _, part in figures.get("kept", []))
    return (f"{mean:.4f}" if isinstance(mean, (int, float)) else "yes") + (f", {share:.0%}" if share else "")


def _figure(figures: Figures, stage: str, shown: Callable[[Figures], str], *, gate: bool = False) -> str:
    if stage not in figures:
        return "–"
    if "failed" in figures[stage]:
        why = figures[stage]["failed"]
        return "–" if why.startswith(NOT_FAILURES) else "refused" if gate and not why.startswith("took") else "no"
    return shown(figures[stage])


def _ratio(figures: Figures | None) -> str:
    return f"{figures['ratio']:.2f} ({figures['low']:.2f}–{figures['high']:.2f})" if figures else "–"


def _ok(rows: Figures, one: Network, stage: str) -> bool:
    return stage in rows[one.name] and "failed" not in rows[one.name][stage]


def _heat(rows: Figures, one: Network, which: str) -> float:
    return float(rows[one.name][which].get("parity", {}).get("heatmap", {}).get("error", 0.0))


def _parity(rows: Figures, one: Network, which: str) -> str:
    return f"{_heat(rows, one, which):.0e}" if _ok(rows, one, which) else "no" if "failed" in rows[one.name].get(which, {}) else "–"


def _kept(figures: Figures) -> str:
    own = [row["error"] for row in figures.get("default", {}).get("unchanged", {}).values()]
    return f"{max(own):.0e}" if own else "–"


def _short(name: str) -> str:
    """The end of a long name."""
    return f"`{name if len(name) <= 32 else '…' + name[-31:]}`"


def _failures(networks: Sequence[Network], rows: Figures) -> str:
    lines = []
    for one in networks:
        for stage, figures in rows[one.name].items():
            why = figures.get("failed", "")
            if why and not why.startswith(NOT_FAILURES):
                lines.append(f"- **{one.name}**, {STAGE_WORDS.get(stage, stage)}: {why.replace('|', '/')}")
        for which, said in rows[one.name].get("tensorrt", {}).items():
            if which in ("original", "default", "early") and said != "yes":
                whose = which if which == "original" else f"file at the {which} layer"
                lines.append(f"- **{one.name}**, TensorRT-RTX on the {whose}: {said.replace('|', '/')}")
    notes = [f"- {one.name}: {one.note}." for one in networks if one.note]
    return "\n".join(lines or ["Nothing."]) + "\n\nRemarks:\n" + "\n".join(notes) + "\n"


def _operators(networks: Sequence[Network], rows: Figures) -> str:
    found = Counter(kind for one in networks for kind in rows[one.name]["about"].get("kinds", {}))
    return (
        f"{len(found)} kinds, with the number of files each is in: "
        + ", ".join(f"{kind} {count}" for kind, count in found.most_common())
        + ".\n"
    )
