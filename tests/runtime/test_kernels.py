"""The per-frame kernels against plain float64 arithmetic, with C++ and with OpenCV."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from dkcam.engines.engine import graph_input
from dkcam.runtime import kernels
from dkcam.runtime.geometry import Fit
from dkcam.runtime.overlay import _tint_table, map_table
from dkcam.spec import InputSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(params=["native", "opencv"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "opencv":
        monkeypatch.setattr(kernels, "_native", None)
    elif not kernels.is_native():
        pytest.skip("dkcam was built without a C++ compiler")
    return str(request.param)


@pytest.fixture(params=[1, 3], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(request.param)
    yield
    cv2.setNumThreads(before)


def normalised(height: int, width: int, **others: object) -> InputSpec:
    return InputSpec(**{"kind": "tensor", "height": height, "width": width, "mean": MEAN, "std": STD} | others)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 1.5)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)


def area_matrix(inputs: int, outputs: int) -> np.ndarray:
    """Each output's share of each input, float64 [outputs, inputs]."""
    bounds = np.arange(outputs + 1) * inputs / outputs
    cells = np.arange(inputs)
    covered = np.minimum(cells + 1, bounds[1:, None]) - np.maximum(cells, bounds[:-1, None])
    return np.clip(covered, 0, None) * outputs / inputs


@pytest.mark.parametrize(
    ("frame", "size"),
    [((540, 960), (192, 320)), ((97, 131), (64, 96)), ((64, 96), (64, 96)), ((65, 96), (64, 96)), ((71, 20000), (32, 32))],
)
def test_shrinking_averages_areas(frame: tuple[int, int], size: tuple[int, int]) -> None:
    source = picture(*frame)
    expected = np.einsum(
        "yi,ijc,xj->yxc", area_matrix(frame[0], size[0]), source[..., ::-1].astype(float), area_matrix(frame[1], size[1]), optimize=True
    )
    given = kernels.network_input(source, Fit(*frame, *size))
    assert given.dtype == np.uint8 and float(np.abs(given - expected).max()) <= 1
    floats = kernels.network_tensor(source, Fit(*frame, *size), normalised(*size))
    exact = ((given / 255 - MEAN) / STD).transpose(2, 0, 1)
    assert floats.dtype == np.float32 and float(np.abs(floats - exact).max()) <= 1e-5


@pytest.mark.parametrize("mode", ["letterbox", "crop"])
@pytest.mark.parametrize("frame", [(540, 960), (40, 60), (300, 90)])
def test_normalising_is_the_same_in_every_mode(mode: str, frame: tuple[int, int]) -> None:
    source, fit = picture(*frame), Fit(*frame, 64, 96, mode)
    exact = ((kernels.network_input(source, fit) / 255 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(kernels.network_tensor(source, fit, normalised(64, 96)), exact, atol=1e-5)


@pytest.mark.parametrize("mode", ["stretch", "letterbox"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
def test_any_way_in(channels: str, mode: str) -> None:
    """A scale other than 1/255, another order, other bars: all of it in plain arithmetic on the uint8 picture."""
    source, fit = picture(90, 70), Fit(90, 70, 64, 96, mode)
    mean, std = (103.5, 116.25, 123.75), (57.5, 57.25, 58.5)
    way = normalised(64, 96, channels=channels, scale=1.0, mean=mean, std=std, fill=17)
    shown = kernels.network_input(source, fit, 17).astype(float)
    if mode == "letterbox":
        assert (shown[:, 0] == 17).all() and (shown[:, -1] == 17).all()
    if channels == "gray":
        expected = ((shown @ [0.299, 0.587, 0.114] - mean[0]) / std[0])[None]
    else:
        expected = ((shown - mean) / std).transpose(2, 0, 1)[:: 1 if channels == "rgb" else -1]
    given = kernels.network_tensor(source, fit, way)
    assert given.flags.c_contiguous and given.dtype == np.float32
    np.testing.assert_allclose(given, expected, atol=2e-5)
    np.testing.assert_allclose(graph_input(shown.astype(np.uint8)[None], way)[0], expected, atol=2e-5)


def test_frames_that_are_views_need_no_care() -> None:
    big = picture(120, 200)
    for view in (big[10:110, 20:180], big[::-1], big[:, ::-1], big[:, :, ::-1], big.transpose(1, 0, 2), big[::2, ::2]):
        fit, heat, tables = Fit(*view.shape[:2], 32, 32), np.ones((1, 1, 1), np.float32), map_table("turbo", 0.5)[None]
        copy = view.copy()
        np.testing.assert_array_equal(kernels.network_input(view, fit), kernels.network_input(copy, fit))
        np.testing.assert_array_equal(
            kernels.overlay(view, heat, fit, tables, tint=False), kernels.overlay(copy, heat, fit, tables, tint=False)
        )


def painted(frame: np.ndarray, heat: np.ndarray, fit: Fit, table: np.ndarray) -> np.ndarray:
    """The overlay in float64: only levels and the result are rounded."""
    level = np.rint(fit.spread((heat * np.float32(255 / heat.max())).astype(np.float32)).astype(float)).astype(int) if heat.max() > 0 else 0
    entries = table[np.broadcast_to(level, frame.shape[:2])]
    added = np.stack([(entries >> shift) & 255 for shift in (0, 8, 16)], axis=-1)
    return np.minimum(np.rint(frame * ((entries >> 24)[..., None] + 1.0) / 256) + added, 255)


@pytest.mark.parametrize("mode", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("frame", [(270, 480), (61, 127), (33, 5), (1, 1)])
@pytest.mark.parametrize("kind", ["everywhere", "a spot", "nowhere", "one cell"])
def test_the_overlay_is_its_formula(mode: str, frame: tuple[int, int], kind: str) -> None:
    source, fit = picture(*frame), Fit(*frame, 64, 96, mode)
    heat = np.zeros((2, 4, 6), np.float32) if kind != "one cell" else np.full((2, 1, 1), 3, np.float32)
    if kind == "everywhere":
        heat = np.random.default_rng(0).random((2, 4, 6), dtype=np.float32) * 7 + 1
    elif kind == "a spot":
        heat[0, 1, 2], heat[1, 3, 5] = 0.1, 400
    tables = np.stack([map_table("turbo", 0.6), map_table("hot", 1.0)])
    given = kernels.overlay(source, heat, fit, tables, tint=False)
    assert given.shape == (frame[0], 2 * frame[1], 3) and given.dtype == np.uint8
    for k in range(2):
        difference = np.abs(given[:, k * frame[1] : (k + 1) * frame[1]] - painted(source, heat[k], fit, tables[k]))
        # a level that lies between two may be rounded either way: one table entry apart
        assert float(np.percentile(difference, 99)) <= 1 and float(difference.max()) <= 8
    if kind == "nowhere":
        np.testing.assert_array_equal(given[:, : frame[1]], source)


def test_tints_lie_over_each_other() -> None:
    source, fit = picture(90, 160), Fit(90, 160, 64, 96)
    heat = np.random.default_rng(3).random((3, 4, 6), dtype=np.float32)
    tables = np.stack([_tint_table(colour, 0.5) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))])
    given = kernels.overlay(source, heat, fit, tables, tint=True)
    expected = source
    for k in range(3):
        expected = kernels.overlay(expected, heat[k : k + 1], fit, tables[k : k + 1], tint=False)
    assert given.shape == source.shape
    np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_heatmap_that_is_not_finite_draws_nothing_wild(bad: float) -> None:
    source, heat = picture(40, 60), np.zeros((1, 2, 3), np.float32)
    heat[0, 0, 0] = bad
    given = kernels.overlay(source, heat, Fit(40, 60, 64, 96), map_table("turbo", 0.6)[None], tint=False)
    np.testing.assert_array_equal(given, source)
