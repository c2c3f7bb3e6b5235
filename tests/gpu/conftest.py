from __future__ import annotations

import pytest

from dkcam.engines.tensorrt.library import find_gpu


@pytest.fixture(autouse=True)
def needs_gpu() -> None:
    """These tests need an NVIDIA GPU; on other machines tests/emulated_gpu.py stands in for it elsewhere."""
    if find_gpu() is None:
        pytest.skip("needs an NVIDIA GPU")
