"""Every command of every page runs, here on stand-ins: small pictures, a tiny checkpoint, an MJPEG server for every camera.

A new command is run as it stands. What cannot run here is listed in CANNOT_RUN with the reason; its flags are still checked.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import dkcam
from dkcam.export.checkpoint import save_checkpoint
from dkcam.rendered import Drive
from dkcam.runtime.explainer import DEMO_MODEL
from dkcam.tools.checks.rules import check_classes, read_rules
from dkcam.tools.config_file import read_config
from dkcam.tools.summary import nearest_sign
from tests.conftest import LABELS, tiny_checkpoint, tiny_model
from tests.export.explain.detect.networks import Yolov8, sound
from tests.export.explain.graphs import Convolutional
from tests.runtime.live.camera_server import CameraServer
from tests.test_house import commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = commands()

# what a command must hold → why it is only parsed
CANNOT_RUN = {
    "dk-train ": "training takes minutes to hours; tests/tools/test_train.py trains",
    "dk-paper ": "trains nine networks; tests/tools/paper runs the parts",
    "dk-bench": "rounds take minutes; tests/tools/bench times",
    "--engine tensorrt": "needs TensorRT; tests/engines/tensorrt builds",
    "model.engine": "needs a GPU",
    "--device cuda": "needs a GPU",
    "--loop": "goes on until Ctrl-C; tests/runtime/test_run_files.py stops it",
    "--precision": "takes minutes at this size; tests/tools/test_export_command.py has small ones",
    "$set": "goes on from a trained model",
}
ROUGH = ("dk-check gtsdb", "dk-check tusimple")  # the rules of real data sets may break on stand-ins: exit code 3
# other programs, and how their lines are checked
FOREIGN: dict[str, Callable[[list[str]], object]] = {
    "make": lambda words: subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True),
    "pip": lambda words: _extras(words),
    "python": lambda words: _script(words),
    "python3": lambda words: words[1:3] == ["-m", "venv"] or pytest.fail(f"{words} is not known"),
    "docker": lambda words: _docker(words),
    "scp": lambda words: None,  # to another machine
    "sudo": lambda words: words[1] in ("apt", "nvpmodel") or pytest.fail(f"{words} is not known"),
    "export": lambda words: None,
    "for": lambda words: None,
    "done": lambda words: None,
}
# the first words of lines that are no commands: what a command prints, a file's lines
PRINTED = (
    "demo: 300 frames",
    "top class, frames:",
    "drawn scenes:",
    "of those 154, heat peak",
    "strictly on the sign",
    "or within half a cell",
    "45 windows on cpu",
    "model  chance  Gaussian",
    "pointing    ",
    "energy    ",
    "energy_ratio    ",
    "iou    ",
    '{"frame":',
    '"explained":',
    '"latency_ms":',
    "flight-2026",
    "fail  not the time stamp",
)
FILES: dict[str, Callable[[Path, Path], object]] = {
    "map:": lambda file, shop: check_classes(read_rules(file), dkcam.load().spec.labels),
    "# /etc/dkcam.toml": lambda file, shop: read_config(click.Context(COMMANDS["dk-run"]), file),
}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    text: str

    @property
    def id(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Indented blocks between blank lines, outside of fences."""
    lines, start, fenced = page.read_text().splitlines(), 0, False
    for number, line in enumerate([*lines, ""]):
        if line.startswith("```"):
            fenced = not fenced
        if line.startswith("    ") and not fenced:
            continue
        found = lines[start:number]
        if found and (start == 0 or not lines[start - 1].strip()):
            yield Block(page, start + 1, "\n".join(each[4:] for each in found))
        start = number + 1


def logical_lines(text: str) -> list[str]:
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages' commands name."""
    shop = tmp_path_factory.mktemp("template")
    shutil.copy(DEMO_MODEL, shop / "model.onnx")
    shutil.copy(DEMO_MODEL, shop / "new.onnx")
    shutil.copy(DEMO_MODEL, shop / "old.onnx")
    save_checkpoint(shop / "model.pt", tiny_checkpoint())
    (shop / "names.txt").write_text("\n".join(LABELS))
    _onnx(sound(Yolov8()), shop / "yolo11n.onnx", (128, 160))
    _onnx(Convolutional(Pooled(len(LABELS))), shop / "network.onnx", (64, 96))
    (shop / "token.txt").write_text("0123456789abcdef")
    (shop / "token.txt").chmod(0o600)
    region = "regions:\n  sky: [[0, 0], [1, 0], [1, 0.2]]\n"
    (shop / "rules.yaml").write_text(f"{region}rules:\n  - measure: region\n    region: sky\n    max: 1\n    frames: 1\n")
    frames = [(image, boxes) for image, boxes in Drive(frames=60)]
    near = [(image, nearest_sign(tuple(boxes), *image.shape[:2])) for image, boxes in frames]
    _pictures(shop / "gtsdb", [(image, box) for image, box in near if box is not None][:24:6])
    _pictures(shop / "tusimple", [(image, None) for image, _ in frames[:2]])
    _pictures(shop / "drive", [(image, None) for image, _ in frames[:3]])
    (shop / "drive" / "boxes.csv").unlink()
    shutil.copytree(shop / "drive", shop / "frames")
    shutil.copy(shop / "drive" / "0.jpg", shop / "road.jpg")
    _video(shop / "drive.mp4", [image for image, _ in frames[:5]])
    (shop / "examples").symlink_to(ROOT / "examples")
    return shop


class Pooled(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _onnx(module: nn.Module, path: Path, size: tuple[int, int]) -> None:
    """As a user's own framework writes it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(module.eval(), (torch.rand(1, 3, *size),), str(path), dynamo=False, opset_version=17, input_names=["images"])


def _pictures(folder: Path, found: list[tuple[np.ndarray, Any]]) -> None:
    folder.mkdir()
    rows = ["file,x1,y1,x2,y2,class_name"]
    for number, (image, box) in enumerate(found):
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
        if box is not None:
            rows.append(f"{number}.jpg,{box.left},{box.top},{box.right},{box.bottom},{box.label}")
        else:
            rows.append(f"{number}.jpg,500,400,700,500,vehicle")
    (folder / "boxes.csv").write_text("\n".join(rows))


def _video(path: Path, pictures: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, pictures[0].shape[1::-1])
    for picture in pictures:
        writer.write(picture)
    writer.release()


@pytest.fixture(scope="module")
def cameras() -> Iterator[list[str]]:
    made = [CameraServer(50), CameraServer(50)]
    yield [server.uri for server in made]
    for server in made:
        server.kill()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.id)
def test_what_a_page_tells_to_type(
    block: Block, template: Path, tmp_path: Path, cameras: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(template, shop, symlinks=True)
    monkeypatch.chdir(shop)
    for begin, check in FILES.items():
        if block.text.startswith(begin):
            (shop / "block").write_text(block.text)
            check(shop / "block", shop)
            return
    if not any(_first(line) in (*COMMANDS, *FOREIGN) for line in logical_lines(block.text)):
        if not all(line.strip().startswith(PRINTED) for line in logical_lines(block.text)):
            _python(block.text)
        return
    for line in logical_lines(block.text):
        words = shlex.split(line, comments=True)
        if not words or line.strip().startswith(PRINTED):
            continue
        if words[0] in COMMANDS:
            _command(line, words, cameras)
        elif words[0] in FOREIGN:
            FOREIGN[words[0]](words)
        else:
            pytest.fail(f"{line!r} is no command that this test knows; add it to FOREIGN, or to PRINTED if something prints it")


def _first(line: str) -> str:
    return line.split()[0]


def _command(line: str, words: list[str], cameras: list[str]) -> None:
    name, given = words[0], [word for word in words[1:] if word not in ("...", "…")]
    COMMANDS[name].make_context(name, list(given))  # a misspelt flag fails here
    if any(part in line for part in CANNOT_RUN):
        return
    if name == "dk-run":
        given = _stand_in(given, cameras)
    if "--replay" in given:
        _recorded(Path(given[given.index("--replay") + 1]), cameras)
    done = CliRunner().invoke(COMMANDS[name], given)
    allowed = (0, 3) if line.strip().startswith(ROUGH) else (0,)
    assert done.exit_code in allowed, f"{line}\n{done.output}" + "".join(map(str, done.exc_info or ()))


def _stand_in(words: list[str], cameras: list[str]) -> list[str]:
    """The same with an MJPEG server for every camera, a free port for the page, and an end."""
    free = iter(cameras)
    found: list[str] = []
    for flag, word in zip(["", *words], words, strict=False):
        if flag == "--camera" or (flag == "--source" and re.match(r"(rtsp|http)s?://|csi:|v4l2:", word)):
            found[-1:] = ["--source", next(free)]
        elif flag == "--sink" and word.startswith("http://"):
            found.append("http://127.0.0.1:0")
        else:
            found.append(word)
    shows = any(word.startswith("http://") for word in found)
    found += ["--max-frames", "4"] if shows else []
    return found if "--sink" in found or "--headless" in found else [*found, "--headless"]


def _recorded(dump: Path, cameras: list[str]) -> None:
    """A dump of the flight recorder of that name, from a rule that breaks."""
    Path("broken.yaml").write_text("rules:\n  - measure: confidence\n    min: 1\n    frames: 1\n")
    given = ["--source", cameras[0], "--headless", "--max-frames", "40", "--rules", "broken.yaml", "--flight-recorder", "recorded/"]
    assert CliRunner().invoke(COMMANDS["dk-run"], given).exit_code == 3
    dump.parent.mkdir(exist_ok=True)
    next(iter(sorted(Path("recorded").glob("*.zip")))).rename(dump)


def _python(text: str) -> None:
    """Run, with what comes before it on the page; frames on a GPU are only parsed."""
    tree = ast.parse(text)
    if "on_gpu" in text:
        return
    frame = cv2.imread("road.jpg")
    names: dict[str, Any] = {"frame": frame, "dkcam": dkcam, "rgb": cv2.resize(frame, (320, 192))[:, :, ::-1]}
    names |= {"module": tiny_model("plain"), "names": list(LABELS)}
    given = {*names, "__builtins__"}
    exec(compile(tree, "page", "exec"), names)
    assert set(names) - given


def _extras(words: list[str]) -> None:
    """What pip is asked for exists, and dkcam comes from its folder."""
    known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1], re.MULTILINE)
    for word in words[2:]:
        own = re.fullmatch(r"\.\[(.+)\]", word)
        assert not own or set(own[1].split(",")) <= set(known), words
        assert not word.startswith("dkcam"), words


def _docker(words: list[str]) -> None:
    """There is a Dockerfile; what follows the image's name is for dk-run."""
    entry = re.search(r'ENTRYPOINT \["dk-run", (.*)\]', (ROOT / "Dockerfile").read_text())
    assert entry is not None and "dkcam" in words and words[1] in ("build", "run"), words
    given = words[words.index("dkcam") + 1 :] if words[1] == "run" else []
    COMMANDS["dk-run"].make_context("dk-run", [*shlex.split(entry[1].replace(",", " ")), *given])


def _script(words: list[str]) -> None:
    small = ["--pictures", "2"] if words[1].endswith("shortcut.py") else []
    subprocess.run([sys.executable, *words[1:], *small], check=True, capture_output=True)


def test_the_lists_hold_nothing_that_no_page_says() -> None:
    lines = [line for block in BLOCKS for line in logical_lines(block.text)]
    assert len([line for line in lines if _first(line) in COMMANDS]) > 30
    for part in (*CANNOT_RUN, *ROUGH):
        assert any(part in line for line in lines), part
    for begin in (*PRINTED, *FILES, *FOREIGN):
        assert any(line.strip().startswith(begin) for line in lines), begin


OTHERS = {
    "--universal",
    "--strict",
    "--no-build-isolation",
    "--group-add",
    "--repo",
    "--gpus",
    "--no-deps",
    "--system-site-packages",
    "--loadEngine",
    "--rm",
    "--device",
    "-p",
    "-e",
    "-t",
    "-m",
    "-r",
    "-hex",
    "-o",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_inside_sentences_exist(page: Path) -> None:
    """Of the command in the same backticks; else of any."""
    everything = {flag for command in COMMANDS.values() for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        command = COMMANDS.get(span.split()[0]) if span.split() else None
        known = {flag for param in command.params for flag in param.opts} if command else everything
        for flag in re.findall(r"(?:^|\s)(--?[a-zA-Z][\w-]*)", span):
            assert (
                flag in known or flag in ("--help", "-h", "--version", "--zoo", "--only", "--again") or (command is None and flag in OTHERS)
            ), f"{flag} in {span}"


@pytest.mark.parametrize(
    ("file", "text"),
    [("docs/live.md", "ExecStart=/opt/dkcam/bin/dk-run (.*)"), ("Dockerfile", r'ENTRYPOINT \["dk-run", (.*)\]\nCMD \[(.*)\]')],
    ids=["systemd", "Docker"],
)
def test_services_start_the_command_as_it_is(file: str, text: str, tmp_path: Path) -> None:
    found = re.search(text, (ROOT / file).read_text())
    assert found is not None
    given = shlex.split(" ".join(found.groups()).replace(",", " "))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "dkcam.toml").write_text("headless = true\n")
    COMMANDS["dk-run"].make_context("dk-run", [word.replace("/etc/", f"{tmp_path}/etc/") for word in given])
