"""The CUDA kernels: they compile for every GPU, and their source run on the processor gives the C++ kernels' bytes.

tests/gpu compares the compiled ones on a GPU.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dkcam.runtime import kernels
from dkcam.runtime.geometry import Fit
from dkcam.runtime.overlay import TINTS, _tint_table, map_table
from dkcam.spec import InputSpec
from tests.cpp_ext.emulated import COMPILER, FOLDER, Emulated, emulated
from tests.marks import slow

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def gpu() -> Emulated:
    if not kernels.is_native() or not COMPILER:
        pytest.skip("needs g++")
    return emulated()


def rows(picture: np.ndarray) -> tuple[int, int, int, int]:
    return picture.ctypes.data, picture.strides[0], picture.shape[0], picture.shape[1]


@pytest.mark.parametrize(
    ("frame", "size"), [((270, 483), (96, 160)), ((97, 131), (64, 96)), ((64, 96), (64, 96)), ((65, 97), (64, 96)), ((33, 4000), (32, 32))]
)
def test_shrinking_gives_the_processors_bytes(gpu: Emulated, frame: tuple[int, int], size: tuple[int, int]) -> None:
    source = np.random.default_rng(0).integers(0, 256, (*frame, 3), dtype=np.uint8)
    fit = Fit(*frame, *size)
    out = np.zeros((*size, 3), np.uint8)
    gpu.cuda_shrink(rows(source), rows(out), 0)
    assert out.tobytes() == kernels.network_input(source, fit).tobytes()
    planes = np.zeros((3, *size), np.float32)
    gpu.cuda_shrink_normalised(rows(source), planes.ctypes.data, (size[0] * size[1], size[1]), size, MEAN, STD, 0)
    way = InputSpec(kind="tensor", height=size[0], width=size[1], mean=MEAN, std=STD)
    assert planes.tobytes() == kernels.network_tensor(source, fit, way).tobytes()


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("tint", [False, True])
@pytest.mark.parametrize("frame", [(90, 161), (33, 130)])
def test_overlays_give_the_processors_bytes(gpu: Emulated, mode: str, tint: bool, frame: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (*frame, 3), dtype=np.uint8)
    heat = np.clip(rng.normal(size=(3, 6, 10)), 0, None).astype(np.float32)
    heat[2] = 0
    fit = Fit(*frame, 96, 160, mode)
    tables = np.stack([_tint_table(TINTS[k], 0.6) if tint else map_table("turbo", 0.6 - 0.2 * k) for k in range(3)])
    out = np.zeros((frame[0], frame[1] * (1 if tint else 3), 3), np.uint8)
    gpu.cuda_overlay(
        rows(picture),
        heat.ctypes.data,
        heat.shape,
        tables.ctypes.data,
        rows(out),
        (fit.height, fit.width),
        fit.scale,
        fit.offset,
        tint,
        0,
    )
    assert out.tobytes() == kernels.overlay(picture, heat, fit, tables, tint=tint).tobytes()


def test_sizes_that_do_not_fit_are_refused(gpu: Emulated) -> None:
    small, large = np.zeros((32, 32, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError):
        gpu.cuda_shrink(rows(small), rows(large), 0)
    with pytest.raises(ValueError):  # more weights than a block has room for
        gpu.cuda_shrink(rows(np.zeros((32, 32 * 128, 3), np.uint8)), rows(small), 0)


@slow
@pytest.mark.skipif(not shutil.which("nvcc") or not shutil.which("cmake"), reason="needs CUDA's compiler and cmake")
def test_the_kernels_compile_for_every_gpu(tmp_path: Path) -> None:
    subprocess.run(["cmake", "-S", FOLDER, "-B", tmp_path, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON"], check=True, capture_output=True)
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    command = next(entry["command"] for entry in commands if entry["file"].endswith("kernels.cu"))
    expected = ["sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90"]
    newest = subprocess.run(["nvcc", "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    if "sm_120" in newest:
        expected += ["sm_100", "sm_120", "compute_120"]
    assert [name for name in expected if name not in command] == []
    subprocess.run(["cmake", "--build", tmp_path, "--target", "dkcam_kernels_cuda"], check=True, capture_output=True)
    symbols = subprocess.run(["nm", tmp_path / "libdkcam_kernels_cuda.a"], check=True, capture_output=True, text=True).stdout
    assert all(f" T dkcam_cuda_{name}\n" in symbols for name in ("shrink", "shrink_normalised", "overlay"))
