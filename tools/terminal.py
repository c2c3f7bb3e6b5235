"""Everything a command prints, but for its log (``logs``). ruff refuses click.echo, print and rich anywhere else: what is printed
here is escaped, and rich's markup is off, so that no label and no file name can do more than be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from dkcam.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress


def echo(*lines: object, err: bool = False) -> None:
    """Lines on stdout, or on stderr. A line break inside of one is escaped like all control characters."""
    for line in lines:
        click.echo(printable(line), err=err)


def echo_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> None:
    """A table on stdout. left: headings of columns of words; the others are figures and stand to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left")
    for heading in headings:
        table.add_column(Text(printable(heading)), justify="left" if heading in left else "right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


@contextmanager
def moving_line(*columns: str, transient: bool = False) -> Iterator[Callable[..., Any]]:
    """A line on stderr that moves. columns: of "spinner", "text", "bar", "percent", "of", "elapsed", "remaining", "left".

    Gives a function (text, step, steps, left); steps None is unknown. Nothing is shown before its first call.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    kinds: dict[str, Callable[[], ProgressColumn]] = {
        "spinner": SpinnerColumn,
        "text": lambda: TextColumn("{task.description}", markup=False),
        "bar": BarColumn,
        "percent": lambda: TextColumn("{task.percentage:>3.0f} %", markup=False),
        "of": MofNCompleteColumn,
        "elapsed": TimeElapsedColumn,
        "remaining": TimeRemainingColumn,
        "left": lambda: TextColumn("{task.fields[left]}", markup=False),
    }
    bar: Progress
    with Progress(*(kinds[name]() for name in columns), console=Console(stderr=True), transient=transient) as bar:
        task = bar.add_task("", total=None, left="", visible=False)

        def report(text: str, step: int = 0, steps: int | None = None, left: str = "") -> None:
            bar.update(task, description=printable(text), completed=step, total=steps, left=left, visible=True)

        yield report
