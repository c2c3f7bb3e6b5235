from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import dkcam

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["export", "engines", "runtime", "tools"])
def test_the_package_sees_the_folders_through_relative_links(name: str) -> None:
    link = ROOT / "src" / "dkcam" / name
    assert link.is_symlink()
    assert link.readlink() == Path("../../") / name
    assert link.resolve() == ROOT / name


def test_the_jetson_page_names_every_dependency() -> None:
    """It installs with --no-deps, to keep JetPack's OpenCV."""
    text = (ROOT / "docs/jetson.md").read_text()
    line = next(line for line in text.splitlines() if line.strip().startswith("pip install") and " jinja2 " in line)
    needed = re.findall(r'^    "([a-z0-9-]+)', (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0], re.M)
    assert len(needed) >= 7 and "opencv-python" in needed
    given = {re.split("[<>=]", word.strip("'"))[0] for word in line.split()[2:]}
    assert set(needed) - {"opencv-python"} <= given


@pytest.mark.parametrize(
    "words",
    ["import dkcam", "import dkcam; dkcam.load", "from dkcam.tools.run_command import main", "from dkcam.tools.export_command import main"],
)
def test_running_needs_no_torch(words: str) -> None:
    check = f"{words}\nimport sys\nassert not {{'torch', 'onnx'}} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("command", ["export_command", "run_command", "train_command", "bench_command", "check_command", "paper_command"])
def test_help_loads_nothing_heavy(command: str) -> None:
    check = f"import sys\nfrom dkcam.tools.{command} import main\nassert not {{'torch', 'cv2', 'numpy', 'onnxruntime'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def commands() -> dict[str, click.Command]:
    """Of pyproject.toml's scripts: each module's ``main``."""
    table = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n[")[0]
    return {name: import_module(module).main for name, module in re.findall(r'^(\S+) = "(.+):\w+"$', table, re.MULTILINE)}


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_knows_its_version(name: str) -> None:
    done = CliRunner().invoke(commands()[name], ["--version"], prog_name=name)
    assert done.exit_code == 0 and done.output == f"{name} of dkcam {dkcam.__version__}\n"


def test_nobody_is_sent_to_a_registry_for_dkcam() -> None:
    """dkcam is published on none: what lies there under its name is somebody else's."""
    folders = ("export", "engines", "runtime", "tools", "src", "docs", "examples", "cpp_ext")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".html", ".js", ".h")]
    advice = re.compile(r"pip install (-\S+ )*['\"]?dkcam\b")
    assert len(files) > 100 and not [str(path) for path in [*files, ROOT / "README.md"] if advice.search(path.read_text())]
