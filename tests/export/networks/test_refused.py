"""What cannot be explained is one line, soon, with little memory, and nothing is written."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dkcam.errors import ExportError
from dkcam.export.networks.onnx_file import open_onnx
from dkcam.printable import printable
from tests.export.networks.hostile import MAKERS

CHILD = r"""
import re, sys
from pathlib import Path
from dkcam.errors import ExportError
from dkcam.export.networks.onnx_file import open_onnx
for path in sys.argv[1:]:
    try:
        open_onnx(Path(path))
    except ExportError as error:
        print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10)  # ru_maxrss has the parent's, too
"""
BOMBS = [
    "a_million_dimensions",
    "a_million_empty_weights",
    "a_thousand_products_of_matrices",
    "dimensions_without_data",
    "fifty_million_small_numbers",
    "fifty_thousand_nodes",
    "six_hundred_thousand_branches",
    "many_constants_below_the_bound",
    "three_gigabytes_beside_it",
    "too_many_composites",
    "two_million_empty_nodes",
]


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_one_line_soon(tmp_path: Path, name: str) -> None:
    make, expected = MAKERS[name]
    path = make(tmp_path / "m.onnx")
    there = sorted(tmp_path.iterdir())
    started = time.process_time()
    with pytest.raises(ExportError) as caught:
        open_onnx(path)
    taken = time.process_time() - started
    message = str(caught.value)
    assert re.search(expected, message) and "m.onnx" in message, message
    assert len(message) <= 300 or str(path) in message  # what the reader of files says has the whole path
    assert printable(message) == message
    assert sorted(tmp_path.iterdir()) == there
    assert taken < 2, f"{taken:.1f} s"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_it_takes_little_memory(tmp_path: Path) -> None:
    """All of them one after the other in a process of their own."""
    paths = []
    for name in BOMBS:
        (tmp_path / name).mkdir()
        paths.append(MAKERS[name][0](tmp_path / name / "m.onnx"))
    done = subprocess.run([sys.executable, "-c", CHILD, *map(str, paths)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    most = dict(zip(BOMBS, map(int, done.stdout.split()), strict=True))
    print(most)
    assert max(most.values()) < 500, most
