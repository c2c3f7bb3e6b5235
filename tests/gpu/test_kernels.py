"""The compiled CUDA kernels give the C++ kernels' bytes."""

from __future__ import annotations

import numpy as np
import pytest

from dkcam.engines.cuda import Cuda
from dkcam.runtime import kernels
from dkcam.runtime.geometry import Fit
from dkcam.runtime.gpu import GpuKernels
from dkcam.runtime.overlay import TINTS, _tint_table, map_table
from dkcam.spec import InputSpec


@pytest.fixture
def cuda() -> Cuda:
    return Cuda()


@pytest.fixture
def gpu(cuda: Cuda) -> GpuKernels:
    found = GpuKernels.of(cuda)
    assert found is not None, "dkcam was built without CUDA's compiler; install it where nvcc is"
    return found


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("kind", ["rgb8", "tensor"])
@pytest.mark.parametrize(
    ("frame", "size"), [((1080, 1920), (384, 640)), ((720, 1280), (224, 224)), ((97, 131), (64, 96)), ((64, 96), (64, 96))]
)
def test_inputs(cuda: Cuda, gpu: GpuKernels, mode: str, kind: str, frame: tuple[int, int], size: tuple[int, int]) -> None:
    way = InputSpec(kind=kind, height=size[0], width=size[1])
    picture = np.random.default_rng(0).integers(0, 256, (*frame, 3), dtype=np.uint8)
    fit = Fit(*frame, *size, mode)
    made = gpu.image(gpu.take(picture), fit, way)
    room = gpu._borrow(made.shape, made.dtype)
    with cuda.current():
        made.write(room.pointer)
        cuda.download(room.array, room.pointer)
        done = cuda.mark()
    cuda.wait(done)
    expected = kernels.network_tensor(picture, fit, way) if kind == "tensor" else kernels.network_input(picture, fit)
    assert room.array[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("tint", [False, True])
@pytest.mark.parametrize("frame", [(1080, 1920), (97, 131)])
def test_overlays(gpu: GpuKernels, mode: str, tint: bool, frame: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 256, (*frame, 3), dtype=np.uint8)
    heat = np.clip(rng.normal(size=(3, 12, 20)), 0, None).astype(np.float32)
    heat[2] = 0
    fit = Fit(*frame, 384, 640, mode)
    tables = np.stack([_tint_table(TINTS[k], 0.6) if tint else map_table("turbo", 0.6 - 0.2 * k) for k in range(3)])
    given = gpu.overlay(gpu.take(picture), heat, fit, tables, tint=tint)
    assert given.tobytes() == kernels.overlay(picture, heat, fit, tables, tint=tint).tobytes()
