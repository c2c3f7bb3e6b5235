"""The C library, linked from C, with and without AVX2: every form gives the Python module's bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dkcam.runtime import kernels
from dkcam.runtime.geometry import Fit
from dkcam.runtime.overlay import map_table

FOLDER = Path(__file__).resolve().parents[2] / "cpp_ext"


@pytest.mark.skipif(not kernels.is_native(), reason="dkcam was built without a C++ compiler")
@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("cc"), reason="needs cmake and a C compiler")
@pytest.mark.parametrize("simd", ["ON", "OFF"])
def test_a_c_program_gets_the_same_bytes(tmp_path: Path, simd: str) -> None:
    build = tmp_path / "build"
    subprocess.run(["cmake", "-S", FOLDER, "-B", build, f"-DDKCAM_SIMD={simd}", "-DDKCAM_CUDA=OFF"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    program = tmp_path / "pipeline"
    words = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{FOLDER}/include", f"{Path(__file__).parent}/pipeline.c"]
    subprocess.run([*words, f"{build}/libdkcam_kernels.a", "-lstdc++", "-lm", "-lpthread", "-o", program], check=True)
    rng = np.random.default_rng(0)
    frame, heat = rng.integers(0, 256, (270, 483, 3), dtype=np.uint8), rng.random((1, 3, 5), dtype=np.float32)
    table, fit = map_table("turbo", 0.6), Fit(270, 483, 96, 160)
    (tmp_path / "in").write_bytes(frame.tobytes() + heat.tobytes() + table.tobytes())
    subprocess.run([program, tmp_path / "in", tmp_path / "out"], check=True)
    expected = kernels.network_input(frame, fit).tobytes() + kernels.overlay(frame, heat, fit, table[None], tint=False).tobytes()
    assert (tmp_path / "out").read_bytes() == expected
