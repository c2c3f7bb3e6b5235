"""How a command's process ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEFT = """
import sys, threading, time, click
from dkcam.tools.cli import run_and_leave
@click.command()
def command():
    click.echo("said", nl=False)
    threading.Thread(target=time.sleep, args=(60,), daemon=%s).start()
    %s
run_and_leave(command)
"""


@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("raise click.UsageError('no')", 2)])
def test_a_thread_that_hangs_neither_keeps_the_process_nor_changes_its_end(daemon: bool, end: str, code: int) -> None:
    words = [sys.executable, "-c", LEFT % (daemon, end)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (code, "said")


def test_a_bug_keeps_its_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT % (True, "1 / 0")], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
