"""``dk-check``: does a model look at the objects of a data set, and nowhere it should not?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dkcam.tools.cli import Command, engine_options, grid_options, user_errors, version_option
from dkcam.tools.terminal import echo, moving_line

if TYPE_CHECKING:
    from dkcam.runtime.explainer import Explains
    from dkcam.tools.checks.dataset import Dataset
    from dkcam.tools.checks.samples import Labels


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="An .onnx or .engine file. Default: ./model.onnx, else the demo model.")
@click.option("--rules", "rules_file", type=click.Path(path_type=Path), help="Rules (YAML). Default: heat gathers in the boxes.")
@click.option("--against", type=click.Path(path_type=Path), help="A second model: what changed, picture by picture.")
@click.option("--windows", is_flag=True, help="A window around each object, 20 to 60 pixels wide there, in place of whole pictures.")
@click.option("--sequence", is_flag=True, help="The pictures are frames of one drive, in the order of their names.")
@click.option("--format", "form", type=click.Choice(["coco", "voc", "yolo", "kitti", "csv"]), help="Of the labels. Default: as they look.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for report.html and results.json.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write the verdicts as JUnit XML.")
@click.option("--max-pictures", type=click.IntRange(min=1), help="Stop after this many pictures.")
@grid_options
@engine_options
@version_option
@user_errors
def main(
    dataset: Path,
    model: Path | None,
    rules_file: Path | None,
    against: Path | None,
    windows: bool,
    sequence: bool,
    form: str | None,
    report: Path | None,
    junit: Path | None,
    max_pictures: int | None,
    grid: tuple[int, int] | None,
    background: str | None,
    device: str,
    threads: int,
    provider_options: tuple[tuple[str, str], ...],
) -> None:
    """Judge a model's heatmaps on DATASET: COCO JSON, VOC XML, YOLO or KITTI text, or CSV, with their pictures; with
    --against also plain pictures or a video.

    Exits 3 when a rule of severity fail does not hold, or none of them could be judged.
    """
    import json

    from dkcam.errors import DataError
    from dkcam.files import check_target, write_file
    from dkcam.tools.checks.detections import Tally, measure_detections
    from dkcam.tools.checks.formats import has_labels, read_dataset
    from dkcam.tools.checks.judge import failed, judge, nothing_judged, summary
    from dkcam.tools.checks.judge import junit as junit_xml
    from dkcam.tools.checks.measure import measure
    from dkcam.tools.checks.plain import open_plain, plain_samples
    from dkcam.tools.checks.report import PICTURES, document, keep_images, page
    from dkcam.tools.checks.rules import AGAINST, DEFAULT, DEFAULT_OF_DETECTORS, Rule, check_classes, read_rules
    from dkcam.tools.checks.samples import Labels, Windows, by_label, samples

    start = time.perf_counter()
    rules = read_rules(rules_file) if rules_file else DEFAULT
    plain = against is not None and form is None and dataset.exists() and not has_labels(dataset)
    if plain and windows:
        raise DataError("--windows are around objects, and these frames have no labels; leave it out")
    if plain and not rules_file:
        rules = replace(rules, rules=())
    if against is not None and not any(rule.measure in AGAINST for rule in rules.rules):
        least = (Rule("top class stays", "agreement", 0, least=0.98), Rule("heatmaps stay", "correlation", 0, least=0.97))
        rules = replace(rules, rules=(*rules.rules, *least))
    if report is not None and report.exists() and not report.is_dir():
        raise DataError(f"--report {report} is a file; expected a folder, which is made where it is missing")
    found, source = open_plain(dataset) if plain else (read_dataset(dataset, form), None)
    if report is not None:  # now, and not after minutes of measuring; --junit may lie in it
        try:
            report.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"--report {report} cannot be made ({error.strerror}); choose another folder") from error
    if junit is not None:
        check_target(junit, {dataset: "the data set"} | ({rules_file: "the rules"} if rules_file else {}), DataError)
    del found.pictures[max_pictures or len(found.pictures) :]
    if windows and grid:
        raise DataError("--windows and --grid contradict each other: windows show one object each, a grid the whole picture")
    open_model = partial(_opened, device=device, threads=threads, provider_options=provider_options, grid=grid, background=background)
    with open_model(model) as explainer, open_model(against) if against else nullcontext() as second:
        spec = explainer.spec
        _check_task(spec.task, against=against is not None, windows=windows, sequence=sequence)
        if spec.task == "detect" and not rules_file:
            rules = DEFAULT_OF_DETECTORS
        if second is not None and (second.spec.labels, second.spec.task) != (spec.labels, spec.task):
            raise DataError(f"{against} has other classes or another task than {model or 'the model'}; compare models of the same classes")
        check_classes(rules, spec.labels)
        labels = Labels(rules, spec.labels, found)
        tally = Tally() if spec.task == "detect" else None
        with _progress(source.count if source else len(found.pictures) if tally else _boxes(found, labels)) as advance:
            if tally is not None:
                measured = measure_detections(explainer, found, labels, rules, tally=tally, advance=advance)
            else:
                size = Windows(spec.input.height, spec.input.width) if windows else None
                shown = plain_samples(found, source, max_pictures) if source else samples(found, labels, size)
                measured = measure(explainer, shown, rules, against=second, advance=advance)
            records = list(keep_images(measured, PICTURES if report else 0))
        used = explainer.device
    if not records and tally is not None and tally.missed:
        raise DataError(f"the detector found none of the {tally.missed} labelled boxes of {dataset}, and nothing else of their classes")
    if not records:
        raise DataError(
            f"no picture of {dataset} can be judged: its classes ({by_label(labels.unmatched) or 'none'}) are not the model's "
            f"({', '.join(spec.labels[:8])}, …); give --rules with a map:"
        )
    verdicts = judge(records, rules, spec.labels, sequence=sequence or (source is not None and source.fps is not None))
    about = {
        "passed": not failed(verdicts),
        "dataset": str(dataset),
        "format": found.format,
        "model": str(model or ("model.onnx" if Path("model.onnx").is_file() else "the bundled demo model")),
        "model_sha256": explainer.engine.sha256,
        "against": str(against) if against else None,
        "rules_file": rules.source,
        "device": used,
        "windows": windows,
        "pictures": len(records) if source else len(found.pictures),
        "samples": len(records),
        "detections": {**asdict(tally), "text": tally.line()} if tally is not None else None,
        "unmatched": by_label(labels.unmatched),
        "problem_counts": found.counts(),
    }
    results = document(records, verdicts, summary(records), about, found.problems)
    _print(results, verdicts)
    if report is not None:
        write_file(report / "results.json", (json.dumps(results, indent=1, ensure_ascii=False) + "\n").encode(), DataError)
        write_file(report / "report.html", page(records, results), DataError)
        echo(f"wrote {report / 'report.html'}")
    if junit is not None:
        write_file(junit, junit_xml(verdicts, found.counts(), time.perf_counter() - start), DataError)
        echo(f"wrote {junit}")
    if nothing_judged(verdicts):
        echo("nothing was checked: no rule of severity fail could be judged", err=True)
    if failed(verdicts):
        sys.exit(3)


@contextmanager
def _opened(
    model: Path | None,
    *,
    device: str,
    threads: int,
    provider_options: tuple[tuple[str, str], ...],
    grid: tuple[int, int] | None,
    background: str | None,
) -> Iterator[Explains]:
    from dkcam.engines import EngineOptions, open_engine
    from dkcam.runtime.explainer import DEMO_MODEL, Explainer
    from dkcam.runtime.grid import grid_explainer
    from dkcam.tools.cli import progress_line

    if model is None:
        model = Path("model.onnx") if Path("model.onnx").is_file() else DEMO_MODEL
        echo(f"model: {'the bundled demo model' if model == DEMO_MODEL else model} (--model chooses another)", err=True)
    with progress_line() as report:
        engine = open_engine(model, device, EngineOptions(threads, provider_options=dict(provider_options), report=report))
    try:
        yield grid_explainer(Explainer(engine), grid, background)
    finally:
        engine.close()


def _check_task(task: str, *, against: bool, windows: bool, sequence: bool) -> None:
    """Errors: DataError for what cannot be judged."""
    from dkcam.errors import DataError

    if task == "regress":
        raise DataError("dk-check judges classifiers and detectors; this model's task is regress, whose outputs have no boxes to be on")
    for flag, given, why in (
        ("--against", against, "it compares the top class of pictures"),
        ("--windows", windows, "a detector looks for its objects itself"),
        ("--sequence", sequence, "it follows one object, and a detector has several"),
    ):
        if task == "detect" and given:
            raise DataError(f"{flag} is for classifiers ({why}), and this model is a detector; leave it out")


def _boxes(dataset: Dataset, labels: Labels) -> int:
    return sum(max(1, sum(labels.of(box.label) is not None for box in picture.boxes)) for picture in dataset.pictures)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    done = count(1)
    with moving_line("text", "bar", "percent", "remaining") as show:
        show("checking", 0, total)
        yield lambda: show("checking", next(done), total)


def _print(results: dict[str, Any], verdicts: Any) -> None:
    from dkcam.tools.checks.table import lines

    echo(*lines(results))
    if results["unmatched"]:
        echo(f"classes the model does not have, left out: {results['unmatched']}")
    for kind, several in results["problem_counts"].items():
        first = next(problem for problem in results["problems"] if problem["kind"] == kind)
        echo(f"labels with problems: {kind} {several} (first: {first['where']}: {first['text']})")
    for verdict in verdicts:
        echo(f"{verdict.outcome:>7}  {verdict.line()}")
