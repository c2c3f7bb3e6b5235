"""What dk-run says of the C++ kernels, and of their absence."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dkcam.runtime import kernels
from dkcam.tools.run_command import main


@pytest.mark.parametrize(
    ("found", "compiler", "expected"),
    [
        (set(), None, "there is no C++ compiler; after apt install g++"),
        ({"dkcam._native_build_failed"}, None, "there is no C++ compiler"),
        (
            {"dkcam._native_build_failed"},
            "/usr/bin/g++",
            "failed when it was installed, and there is a compiler (/usr/bin/g++) now: pip install -v",
        ),
        (set(), "/usr/bin/g++", "was built without its C++ kernels; there is a compiler (/usr/bin/g++)"),
        ({"dkcam.runtime._native"}, "/usr/bin/g++", "do not load (undefined symbol: x); install dkcam again"),
    ],
)
def test_missing_kernels_are_told_with_their_cause(
    monkeypatch: pytest.MonkeyPatch, found: set[str], compiler: str | None, expected: str
) -> None:
    monkeypatch.setattr(kernels, "_native", None)
    monkeypatch.setattr(kernels, "_import_error", "undefined symbol: x")
    monkeypatch.setattr(kernels, "find_spec", lambda name: name if name in found else None)
    monkeypatch.setattr(kernels.shutil, "which", lambda name: compiler if name == "g++" else None)
    assert expected in kernels.why_not_native() and "\n" not in kernels.why_not_native()


def test_dk_run_says_what_does_the_per_frame_work(monkeypatch: pytest.MonkeyPatch, model_file: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 60, 3), np.uint8))
    words = ["--model", str(model_file), "--source", str(tmp_path / "a.png"), "--headless"]
    if kernels.is_native():
        assert "per-frame work: C++ kernels, " in CliRunner().invoke(main, [*words, "-v"]).stderr
        assert kernels.why_not_native() == "" and "per-frame work" not in CliRunner().invoke(main, words).stderr
    monkeypatch.setattr(kernels, "_native", None)
    assert "note: OpenCV does the per-frame work, slower: " in CliRunner().invoke(main, words).stderr
