"""What strangers' files may do to a terminal: be read, nothing else."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import click
import onnx
import pytest
from click.testing import CliRunner

from dkcam.tools import logs
from dkcam.tools.check_command import main as check
from dkcam.tools.cli import Command, user_errors
from dkcam.tools.export_command import main as export
from dkcam.tools.run_command import main as run
from dkcam.tools.terminal import echo, echo_table

TITLE = "\x1b]0;owned\x07"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


@pytest.fixture
def evil_model(model_file: Path, tmp_path: Path) -> Path:
    """A model whose labels rename the window, clear it, and forge a line."""
    model = onnx.load(model_file)
    (entry,) = [entry for entry in model.metadata_props if entry.key == "dkcam.spec"]
    labels = [f"{TITLE}{k}\nerror: forged\x9b2J\u202e" for k in range(5)]
    entry.value = json.dumps({**json.loads(entry.value), "labels": labels})
    path = tmp_path / "evil.onnx"
    onnx.save(model, path)
    return path


def clean(text: str) -> bool:
    return not CONTROL.search(text) and not any(line.startswith("error: forged") for line in text.splitlines())


def test_labels_of_a_model_are_shown_and_not_obeyed(evil_model: Path, tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    done = CliRunner().invoke(run, ["--model", str(evil_model), "--source", "demo:frames=3", "--headless", "--sink", str(lines)])
    assert done.exit_code == 0, done.output
    assert clean(done.output) and r"\x1b]0;owned\x07" in done.stdout and r"\nerror: forged\x9b2J\u202e" in done.stdout
    text = lines.read_text()
    assert clean(text) and json.loads(text.splitlines()[0])["top"][0]["label"].startswith(TITLE)


def test_causes_and_names_in_errors_are_escaped(evil_model: Path, tmp_path: Path) -> None:
    for words in (
        ["--source", f"{TITLE}.mp4", "--headless"],
        ["--model", f"{TITLE}.onnx", "--source", "demo:frames=1", "--headless"],
        ["--model", str(evil_model), "--source", "demo:frames=1", "--headless", "--explain", "nothing"],
        ["--source", "demo:frames=1", f"{TITLE}.jpg"],
        ["--config", f"{TITLE}.toml"],
        [f"--{TITLE}"],
    ):
        done = CliRunner().invoke(run, words)
        assert done.exit_code in (1, 2) and "owned" in done.output and clean(done.output), done.output
        done = CliRunner().invoke(run, [*words, "--log", "json"])
        assert done.exit_code in (1, 2) and clean(done.output), done.output


def test_classes_and_rules_of_a_check_are_escaped(evil_model: Path, tmp_path: Path) -> None:
    (tmp_path / "road.csv").write_text(f"file,x1,y1,x2,y2,class_name\n{TITLE}.jpg,1,2,3,4,{TITLE}\n")
    for rules in ('rules:\n  - measure: "\\e]0;owned\\a"\n', 'rules:\n  - measure: accuracy\n    min: 1\n    class: "\\e]0;owned\\a"\n'):
        (tmp_path / "rules.yaml").write_text(rules)
        done = CliRunner().invoke(check, [str(tmp_path / "road.csv"), "--rules", str(tmp_path / "rules.yaml"), "--model", str(evil_model)])
        assert done.exit_code == 1 and clean(done.output), done.output


def test_markup_in_a_file_name_is_text(checkpoint_file: Path) -> None:
    """rich would take [/x] for a tag, and fail."""
    target = checkpoint_file.parent / "[bold]a[" / "x].onnx"
    target.parent.mkdir()
    done = CliRunner().invoke(export, [str(checkpoint_file), "-o", str(target), "--size", "64x64", "--no-verify"])
    assert done.exit_code == 0 and "[bold]a[/x].onnx" in done.stdout, done.output


def test_lines_tables_and_what_moves(capsys: pytest.CaptureFixture[str]) -> None:
    echo(TITLE, "two\nlines")
    echo(TITLE, err=True)
    echo_table(f"{TITLE}[red]", (f"head{TITLE}", "b"), [(f"[bold]{TITLE}", "1\x9b")])
    out, err = capsys.readouterr()
    assert out.startswith("\\x1b]0;owned\\x07\ntwo\\nlines\n") and clean(out) and clean(err) and "[bold]" in out and "[red]" in out


@pytest.mark.parametrize("kind", ["text", "json"])
def test_the_log_escapes_messages_and_tracebacks(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(kind)
    try:
        logs.say("error", f"{TITLE}\u202e\x9b")
        try:
            raise ValueError(f"{TITLE}\x9b")
        except ValueError:
            logs.log.exception("a camera says %s", TITLE)
    finally:
        logs.configure()
    err = capsys.readouterr().err
    assert clean(err) and "owned" in err and "Traceback" in err
    if kind == "json":
        first, second = map(json.loads, err.splitlines())
        assert first["message"] == f"{TITLE}\u202e\x9b" and second["message"] == f"a camera says {TITLE}" and TITLE in second["traceback"]


def test_refusals_of_flags_are_escaped() -> None:
    @click.command(cls=Command)
    @click.option("--size", type=int)
    @user_errors
    def command(size: int) -> None: ...

    for words in ([TITLE], [f"--{TITLE}"], ["--size", TITLE]):
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 2 and "owned" in done.output and clean(done.output)


def test_a_moving_line_shows_a_file_name_as_text() -> None:
    code = "from dkcam.tools.terminal import moving_line\nwith moving_line('text', 'of') as show:\n"
    code += "    show(chr(27) + ']0;owned' + chr(7) + '[/x]', 1, 2)\n"
    ours, theirs = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # its end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert done.wait() == 0 and b"\x1b]0;" not in shown and rb"\x1b]0;owned\x07[/x]" in shown


def test_only_one_module_prints() -> None:
    """ruff holds it: click.echo, print and rich stand in tools/terminal.py alone, and click.echo in the log."""
    root = Path(__file__).parents[2]
    for code in (
        "import click\n\nclick.echo('x')\n",
        "from click import echo\n\necho('x')\n",
        "print('x')\n",
        "from rich.console import Console\n\nConsole()\n",
    ):
        done = subprocess.run(
            ["ruff", "check", "--config", str(root / "pyproject.toml"), "--stdin-filename", str(root / "tools" / "new.py"), "-"],
            input=code,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        )
        assert done.returncode == 1 and ("TID251" in done.stdout or "T201" in done.stdout), done.stdout
