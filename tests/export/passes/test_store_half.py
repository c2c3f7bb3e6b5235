"""Weights stored as float16: the same numbers in half the file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from dkcam.export.passes.store_half import LEAST, store_half
from dkcam.export.writer import array_of
from tests.export.passes.networks import LEVELS, NETWORKS, file_of, image, network, run


def halved(name: str) -> ir.Model:
    """The network with weights that float16 holds exactly."""
    model = network(name)
    for value in model.graph.initializers.values():
        array = array_of(value)
        if array is not None and array.dtype == np.float32 and array.ndim > 1:
            value.const_value = ir.tensor(array.astype(np.float16).astype(np.float32), name=value.name)
    return model


def stored(model: ir.Model) -> int:
    """Bytes of constants."""
    return sum(array.nbytes for array in map(array_of, model.graph.initializers.values()) if array is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_numbers_are_the_same_in_half_the_file(name: str) -> None:
    given, model = halved(name), halved(name)
    arrays = [array for array in map(array_of, model.graph.initializers.values()) if array is not None]
    large = [array.size for array in arrays if array.size >= LEAST and array.ndim > 1 and array.dtype == np.float32]
    assert store_half(model) == len(large) > 0
    assert stored(model) == stored(given) - 2 * sum(large)
    for level in LEVELS:
        # without optimisation the runtime does not arrange weights behind a Cast for its fastest kernels: another order of sums
        expected = run(given, image(), level)["scores"]
        apart = 2e-6 if level == "ORT_DISABLE_ALL" else 0
        np.testing.assert_allclose(run(model, image(), level)["scores"], expected, rtol=0, atol=apart * np.abs(expected).max())


def test_other_weights_stay() -> None:
    model = network("plain")
    before = file_of(model)
    assert store_half(model) == 0 and file_of(model) == before


def test_twice_changes_nothing() -> None:
    model = halved("unet")
    store_half(model)
    before = file_of(model)
    assert store_half(model) == 0 and file_of(model) == before
