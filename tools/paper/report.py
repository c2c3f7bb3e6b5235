"""The experiments' report, computed from results.json alone (and a strip of rendered pictures a figure)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from dkcam.fields import VARIANTS
from dkcam.interval import Mean, mean_of_table

TEMPLATE = Path(__file__).with_name("report.html")
PAPER = {0.5: {"plain": 0.807, "dropout": 0.983, "dropkey": 0.998}, 0.6: {"plain": 0.481, "dropout": 0.766, "dropkey": 0.878}}
COLOURS = {"plain": "#888888", "dropout": "#d08000", "dropkey": "#1060c0"}
SHOWN = ("confidence", "accuracy", "pointing", "energy_ratio", "iou")

Rows = list[dict[str, Any]]


def table_of(rows: Rows, variant: str, key: str, **where: Any) -> Mean:
    """Mean over a variant's seeds and pictures at one condition, with its interval."""
    chosen = [row["values"][key] for row in rows if _is_of(row["model"], variant) and key in row["values"] and _fits(row, where)]
    return mean_of_table(np.array(chosen)) if chosen else mean_of_table(np.zeros((0, 0)))


def _is_of(model: str, variant: str) -> bool:
    return model == variant or model.rsplit("-", 1)[0] == variant


def _fits(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(row.get(name) == value for name, value in where.items())


def places(rows: Rows, **where: Any) -> list[Any]:
    """The conditions in their order."""
    return list(dict.fromkeys(row["at"] for row in rows if _fits(row, where)))


def claims(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The paper's statements against ours: statement, verdict ("agrees", "does not agree", "undecided"), figures."""
    noise, found = results["experiments"]["noise"], []
    for back in dict.fromkeys(row["back"] for row in noise):
        for at, values in PAPER.items():
            own = {variant: table_of(noise, variant, "confidence", at=at, back=back) for variant in VARIANTS}
            found.append(
                {
                    "claim": f"Fig. 3, variance {at:g}, noise brought back by {back}: confidence dropkey > dropout > plain",
                    "verdict": _order(own["dropkey"], own["dropout"], own["plain"]),
                    "figures": "; ".join(f"{name} {_short(own[name])}, paper {values[name]}" for name in VARIANTS),
                }
            )
        for at in [at for at in places(noise, back=back) if at <= 0.1]:
            own = {variant: table_of(noise, variant, "confidence", at=at, back=back) for variant in VARIANTS}
            found.append(
                {
                    "claim": f"Fig. 3, variance {at:g}, {back} (not in the paper's table): confidence dropkey > plain",
                    "verdict": _order(own["dropkey"], own["plain"]),
                    "figures": "; ".join(f"{name} {_short(own[name])}" for name in VARIANTS),
                }
            )
    methods = results["experiments"]["methods"]
    for back in [back for back in dict.fromkeys(row["back"] for row in methods) if back != "none"]:
        own = {name: _method(methods, name, "pointing", back) for name in ("Grad-CAM", "dropout Grad-CAM", "dropkey Grad-CAM")}
        found.append(
            {
                "claim": f"Fig. 5, variance 1.5, {back}: dropkey's map stays on the object where Grad-CAM's leaves it (pointing)",
                "verdict": _order(own["dropkey Grad-CAM"], own["Grad-CAM"]),
                "figures": "; ".join(f"{name} {_short(value)}" for name, value in own.items()),
            }
        )
    shapes, contrast, small = (results["experiments"][name] for name in ("shapes", "contrast", "small"))
    for title, rows, where in (
        ("Fig. 4, rotated by 90°", shapes, {"of": "rotation", "at": _nearest(shapes, 90, of="rotation")}),
        ("Fig. 4, stretched 3:1", shapes, {"of": "stretch", "at": _nearest(shapes, 3, of="stretch")}),
        ("Fig. 6, contrast 0.1", contrast, {"at": _nearest(contrast, 0.1)}),
        ("Fig. 7, objects of 12 pixels", small, {"at": _nearest(small, 12)}),
    ):
        own = {variant: table_of(rows, variant, "pointing", **where) for variant in VARIANTS}
        if where["at"] != float(title.split()[-2 if title.endswith("pixels") else -1].rstrip("°").split(":")[0]):
            title += f" (measured at {where['at']:g})"
        found.append(
            {
                "claim": f"{title}: dropkey's map finds the object better than Grad-CAM's (pointing)",
                "verdict": _order(own["dropkey"], own["plain"]),
                "figures": "; ".join(f"{name} {_short(value)}" for name, value in own.items()),
            }
        )
    return found


def _nearest(rows: Rows, wanted: float, **where: Any) -> float:
    return float(min(places(rows, **where), key=lambda at: abs(at - wanted)))


def _method(rows: Rows, title: str, key: str, back: str) -> Mean:
    chosen = [row["values"][key] for row in rows if row["at"] == title and row["back"] == back and key in row["values"]]
    return mean_of_table(np.array(chosen)) if chosen else mean_of_table(np.zeros((0, 0)))


def _order(*falling: Mean) -> str:
    """Whether each is above the next: with intervals apart, the other way round, or neither."""
    pairs = list(pairwise(falling))
    if all(a.low > b.high for a, b in pairs):
        return "agrees"
    if any(b.low > a.high for a, b in pairs):
        return "does not agree"
    return "undecided"


def _short(value: Mean) -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})" if value.count else "–"


def sections(results: Mapping[str, Any], strips: Mapping[str, str]) -> list[dict[str, Any]]:
    """title, text, plot (SVG), strip (a picture's data URI), and tables: head and rows, for Markdown and HTML alike."""
    e = results["experiments"]
    found = []
    backs = list(dict.fromkeys(row["back"] for row in e["noise"]))
    found.append(
        {
            "title": "Noise: figures 2 and 3",
            "text": "Gaussian noise on pixels scaled to 0..1. Brought back to 0..255 by cutting (clip) or by stretching the picture's own "
            "range (minmax); the paper does not say which. Confidence is the probability of the true class.",
            "plot": _plot(e["noise"], "variance", ("confidence", "pointing"), [{"back": back} for back in backs], PAPER),
            "strip": strips.get("noise"),
            "tables": [_table(f"{key}, {back}", e["noise"], "variance", key, back=back) for back in backs for key in SHOWN],
        }
    )
    for title, name, axis, where in (
        ("Rotation: figure 4", "shapes", "degrees", {"of": "rotation"}),
        ("Stretching: figure 4", "shapes", "width over height", {"of": "stretch"}),
        ("Low contrast: figure 6", "contrast", "contrast", {}),
        ("Small objects: figure 7", "small", "sign's width, px", {}),
    ):
        found.append(
            {
                "title": title,
                "text": "",
                "plot": _plot(e[name], axis, ("confidence", "pointing"), [where]),
                "strip": strips.get(where.get("of", name)),
                "tables": [_table(key, e[name], axis, key, **where) for key in SHOWN],
            }
        )
    found.append(
        {
            "title": "Methods at variance 1.5: figure 5",
            "text": "All on the first seed; plain, but for the last two. Score-CAM on fewer pictures.",
            "plot": None,
            "strip": None,
            "tables": [_methods(e["methods"], back) for back in dict.fromkeys(row["back"] for row in e["methods"])],
        }
    )
    found.append(
        {
            "title": "Masks at inference: figure 8",
            "text": "DropKey masks drawn at inference, 32 a picture; off is the default. spread: standard deviation of the heatmap over "
            "masks, over its mean. correlation: with the map without masks.",
            "plot": _plot([r for r in e["masks"] if r["at"] != "off"], "mask ratio", ("confidence", "spread"), [{}], only=("dropkey",)),
            "strip": None,
            "tables": [_masks(e["masks"])],
        }
    )
    return found


def _table(title: str, rows: Rows, axis: str, key: str, **where: Any) -> dict[str, Any]:
    others = [m for m in dict.fromkeys(row["model"] for row in rows) if m.startswith("control") and _has(rows, m, key)]
    names = [*VARIANTS, *others]
    lines = [[f"{at:g}", *(_short(table_of(rows, name, key, at=at, **where)) for name in names)] for at in places(rows, **where)]
    return {"title": title, "head": [axis, *(name.replace("control: ", "control: ") for name in names)], "rows": lines}


def _has(rows: Rows, model: str, key: str) -> bool:
    return any(row["model"] == model and key in row["values"] for row in rows)


def _methods(rows: Rows, back: str) -> dict[str, Any]:
    keys = ("pointing", "energy_ratio", "iou", "confidence", "accuracy")
    names = list(dict.fromkeys(row["at"] for row in rows if row["back"] == back))
    lines = [[name, *(_short(_method(rows, name, key, back)) for key in keys)] for name in names]
    return {"title": "without noise" if back == "none" else f"variance 1.5, {back}", "head": ["method", *keys], "rows": lines}


def _masks(rows: Rows) -> dict[str, Any]:
    keys = ("confidence", "accuracy", "pointing", "energy_ratio", "spread", "correlation")
    lines = [[str(at), *(_short(table_of(rows, "dropkey", key, at=at)) for key in keys)] for at in places(rows)]
    return {"title": "dropkey", "head": ["mask ratio", *keys], "rows": lines}


def _plot(
    rows: Rows,
    axis: str,
    keys: Sequence[str],
    parts: Sequence[Mapping[str, Any]],
    paper: Mapping[float, Mapping[str, float]] | None = None,
    only: Sequence[str] = VARIANTS,
) -> str:
    """Lines with intervals as SVG, a panel a figure and part."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "dkcam"  # the same bytes every time
    pyplot.rcParams["svg.fonttype"] = "none"
    figure, axes = pyplot.subplots(1, len(keys) * len(parts), figsize=(4.2 * len(keys) * len(parts), 3.1), squeeze=False)
    for place, (part, key) in zip(axes[0], [(part, key) for part in parts for key in keys], strict=True):
        for variant in only:
            at = places([row for row in rows if _is_of(row["model"], variant)], **part)
            found = [table_of(rows, variant, key, at=value, **part) for value in at]
            line = [mean.value for mean in found]
            place.plot(at, line, "o-", ms=3, color=COLOURS[variant], label=variant)
            place.fill_between(at, [mean.low for mean in found], [mean.high for mean in found], color=COLOURS[variant], alpha=0.15, lw=0)
            if paper and key == "confidence":
                place.plot(list(paper), [values[variant] for values in paper.values()], "x", color=COLOURS[variant])
        place.set(
            xlabel=axis, ylabel=key, title=" ".join(str(value) for value in part.values()), ylim=(0, None if key == "spread" else 1.02)
        )
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return out.getvalue()[out.getvalue().index("<svg") :]


def markdown(results: Mapping[str, Any]) -> str:
    """The report without pictures."""
    about = results["about"]
    lines = [f"# {TITLE}", "", about_text(about), "", "## Against the paper", ""]
    lines += [f"- **{claim['verdict']}**: {claim['claim']}. {claim['figures']}." for claim in claims(results)]
    for section in sections(results, {}):
        lines += ["", f"## {section['title']}", ""] + ([section["text"], ""] if section["text"] else [])
        for table in section["tables"]:
            lines += [f"**{table['title']}**", "", "| " + " | ".join(table["head"]) + " |", "|---" * len(table["head"]) + "|"]
            lines += ["| " + " | ".join(row) + " |" for row in table["rows"]] + [""]
    return "\n".join(lines) + "\n"


TITLE = "Optimized Dropkey-Based Grad-CAM: the experiments again"


def about_text(about: Mapping[str, Any]) -> str:
    """What was run, in two sentences."""
    return (
        f"Liu et al., Sensors 2023, 23, 8351. {about['seeds']} seed{'s' if about['seeds'] > 1 else ''} of each variant, each fine-tuned on "
        f"{about['training_pictures']} pictures from the demo model's weights (dropkey training made them, which gives dropkey a start); "
        f"tested on {about['pictures']}. Means with 95 % intervals over pictures and seeds. {about['note']}"
    )


def page(results: Mapping[str, Any], strips: Mapping[str, str]) -> bytes:
    """report.html, one file. strips: name → data URI of a row of pictures."""
    from jinja2 import Environment, FileSystemLoader

    template = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True).get_template(TEMPLATE.name)
    about = results["about"]
    rendered = template.render(title=TITLE, about=about_text(about), claims=claims(results), sections=sections(results, strips))
    return rendered.encode()
