"""``dk-paper``: the paper's experiments with trained models, as figures with intervals."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dkcam.tools.cli import Command, progress_line, user_errors, version_option
from dkcam.tools.terminal import echo

QUICK_NOTE = (
    "This is the quick run: few pictures, wide intervals, and too little training for plain and dropout to adapt to those weights; "
    "compare variants in the full run."
)


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for report.html, report.md and results.json.")
@click.option("--quick", is_flag=True, help="One seed, few pictures: under 5 minutes on 2 cores.")
@click.option(
    "--data", default="rendered:", show_default=True, help="As dk-train's DATA: rendered:, or a folder with gtsrb_train and gtsdb."
)
@click.option(
    "--models", type=click.Path(path_type=Path), help="Folder of trained models, VARIANT-SEED.pt; missing ones are trained there."
)
@click.option("--seeds", type=click.IntRange(1, 20), help="Models of each variant.  [default: 3, quick 1]")
@click.option("--report-only", is_flag=True, help="Write the report again from OUTPUT/results.json, measuring nothing.")
@click.option("--threads", type=click.IntRange(0, 512), default=0, help="CPU threads for inference.  [default: one per core]")
@version_option
@user_errors
def main(output: Path, quick: bool, data: str, models: Path | None, seeds: int | None, report_only: bool, threads: int) -> None:
    """Train or load plain, dropout and dropkey models and repeat the experiments of Sensors 2023, 23, 8351."""
    from dkcam.errors import DataError, install
    from dkcam.files import write_file

    if output.exists() and not output.is_dir():
        raise DataError(f"-o {output} is a file; expected a folder, which is made where it is missing")
    if report_only:
        _write_again(output)
        return
    try:
        import matplotlib  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise DataError(f"dk-paper needs {error.name}; {install('cpu,export,paper')}") from error
    from dkcam.tools.paper.experiments import FULL, QUICK, Setup, run_all
    from dkcam.tools.paper.models import Training, open_models, random_models, train_models
    from dkcam.tools.paper.pictures import draw
    from dkcam.tools.paper.strips import strips
    from dkcam.tools.scenes.example import SignSize

    plan = QUICK if quick else FULL
    training = Training(seeds or (1 if quick else 3), 2400 if quick else 16_000)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"-o {output} cannot be made ({error.strerror}); choose another folder") from error
    paths = train_models(data, models or output / "models", training, lambda words: echo(words, err=True))
    opened = open_models(paths, threads)
    setup = Setup(
        opened,
        random_models(paths, threads),
        draw(data, plan.pictures),
        lambda size, count: draw(data, count, SignSize(size, size)),
        plan,
    )
    found = {}
    with progress_line() as report:
        for name, rows in run_all(setup, lambda what: report(what, 0, 0)):
            found[name] = rows
    kind = "rendered scenes" if data == "rendered:" else "windows of real road frames that no training saw"
    results = {
        "about": {
            "seeds": training.seeds,
            "training_pictures": training.pictures,
            "data": kind,
            "pictures": f"{plan.pictures} {kind} with a sign ({plan.fewer} beside figure 3)",
            "quick": quick,
            "note": QUICK_NOTE if quick else "",
        },
        "experiments": found,
    }
    write_file(output / "results.json", (json.dumps(results, separators=(",", ":")) + "\n").encode(), DataError)
    write_file(output / "strips.json", json.dumps(strips(opened)).encode(), DataError)
    _write_again(output)


def _write_again(output: Path) -> None:
    """The report from what was measured."""
    from dkcam.errors import DataError
    from dkcam.files import exists, read_file, write_file
    from dkcam.tools.paper.report import claims, markdown, page

    try:
        results = json.loads(read_file(output / "results.json", "what dk-paper measured (results.json)", DataError))
        strips = json.loads(read_file(output / "strips.json", "pictures", DataError)) if exists(output / "strips.json") else {}
        pages = {"report.md": markdown(results).encode(), "report.html": page(results, strips)}
        found = claims(results)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{output / 'results.json'} is damaged ({error}); run dk-paper -o {output} again") from error
    for name, data in pages.items():
        write_file(output / name, data, DataError)
    for claim in found:
        echo(f"{claim['verdict']:>14}  {claim['claim']}: {claim['figures']}")
    echo(f"wrote {output / 'report.html'}, report.md and results.json")
