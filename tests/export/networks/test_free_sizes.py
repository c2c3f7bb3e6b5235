"""Names of free dimensions, and what of a graph may be folded while sizes are free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from dkcam.errors import ExportError
from dkcam.export.networks.free_sizes import Names, sizes
from dkcam.export.networks.onnx_file import open_onnx
from dkcam.export.writer import factors
from tests.export.networks.files import FLOAT, classifier, dims, kinds, model, random, same, weights, write

BOTH = ("batch", "size")


@pytest.mark.parametrize(
    ("dynamic", "dimension", "name"),
    [
        (("batch",), lambda b, h, w: 64 * b, "64*batch"),
        (("batch",), lambda b, h, w: h // 32, 7),
        (("size",), lambda b, h, w: h, "height"),
        (("size",), lambda b, h, w: (h // 32) * (w // 32), "height*width/1024"),
        (("size",), lambda b, h, w: h // 2 - 3, "height/2 - 3"),
        (("size",), lambda b, h, w: 21 * (h // 32) * (w // 32) + 1, "21*height*width/1024 + 1"),
        (BOTH, lambda b, h, w: b * (h // 8) * (w // 8), "batch*height*width/64"),
        (BOTH, lambda b, h, w: 1, 1),
        (("size",), lambda b, h, w: h * h, None),
        (("size",), lambda b, h, w: min(h, 300), None),
        (("size",), lambda b, h, w: None, None),
    ],
)
def test_a_dimension_is_named_by_what_it_is_made_of(
    dynamic: tuple[str, ...], dimension: Callable[[int, int, int], int | None], name: int | str | None
) -> None:
    looked = sizes((1, 224, 256), dynamic, 128)
    assert Names(looked, dynamic).name(tuple(dimension(*size) for size in looked)) == name


def test_products_are_names_that_the_writer_takes_apart() -> None:
    looked = sizes((1, 224, 256), BOTH, 128)
    name = Names(looked, BOTH).name(tuple(21 * b * (h // 32) * (w // 32) for b, h, w in looked))
    number, names = factors(name or 0)
    assert number == factors("21*batch*height*width/1024")[0] and set(names) == {"batch", "height", "width"}


def test_the_stride_is_what_makes_a_dimension_whole() -> None:
    looked = sizes((1, 256, 256), ("size",), 128)
    names = Names(looked, ("size",))
    assert names.stride(tuple(3 * (h // 32) for _, h, _ in looked)) == 32
    assert names.stride(tuple(h * 2 for _, h, _ in looked)) == 1


def halves(dimension: int, last: list[str]) -> list[object]:
    """The upper half of one axis, its size read from the shape."""
    return [
        helper.make_node("Shape", ["relu"], ["s"]),
        helper.make_node("Gather", ["s", "which"], ["size"], axis=0),
        helper.make_node("Div", ["size", "two"], ["half"]),
        helper.make_node("Slice", ["relu", "half", "size", "which", "one"], last, "slice"),
    ]


@pytest.mark.parametrize("axis", [1, 2])
def test_what_depends_on_channels_is_folded_what_depends_on_size_is_not(tmp_path: Path, axis: int) -> None:
    given = weights(which=np.array([axis]), two=np.array([2]), one=np.array([1]))
    nodes = [helper.make_node("Conv", ["x", "w"], ["relu"]), *halves(axis, ["y"])]
    proto = model(nodes, {"x": (FLOAT, ["b", 3, "h", "w"])}, {"y": (FLOAT, None)}, [*given, *weights(w=random(4, 3, 1, 1))])  # type: ignore[list-item]
    path = write(tmp_path / "model.onnx", proto)
    network = open_onnx(path, size=(8, 8), dynamic=BOTH)
    assert ("Shape" in kinds(network)) == (axis == 2)
    assert dims(network.outputs[0]) == ["batch", 2 if axis == 1 else 4, "height" if axis == 1 else "height/2", "width"]
    assert network.multiple == axis
    for size in ((8, 8), (12, 20)):
        assert same(path, network, batch=3, size=size) == 0


def test_what_only_seems_to_be_constant_is_not_folded(tmp_path: Path) -> None:
    """min(height, 64) is 64 at every size from 64 on, and at no smaller one."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=2, end=3),
        helper.make_node("Min", ["s", "most"], ["end"]),
        helper.make_node("Slice", ["x", "zero", "end", "axis"], ["y"], "slice"),
    ]
    proto = model(
        nodes,
        {"x": (FLOAT, ["b", 3, "h", "w"])},
        {"y": (FLOAT, None)},
        weights(most=np.array([64]), zero=np.array([0]), axis=np.array([2])),
    )
    path = write(tmp_path / "model.onnx", proto)
    network = open_onnx(path, size=(128, 128), dynamic=("size",))
    assert "Min" in kinds(network) and dims(network.outputs[0])[2] in (None, 64)
    assert same(path, network, size=(32, 32)) == 0


def test_what_content_decides_stays_unknown(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    path = write(tmp_path / "model.onnx", model(nodes, {"x": (FLOAT, [1, 3, 8, 8])}, {"y": (7, None)}))
    assert dims(open_onnx(path).outputs[0]) == [4, None]


def test_a_network_of_one_size_is_refused_with_the_operator(tmp_path: Path) -> None:
    extra = [helper.make_node("Add", ["relu", "places"], ["features"], "add")]
    path = write(tmp_path / "vit.onnx", classifier(("b", 3, 8, 8), extra=extra, initializers=weights(places=random(1, 4, 8, 8))))
    open_onnx(path, dynamic=("batch",))
    with pytest.raises(
        ExportError,
        match=r"--dynamic size: vit.onnx does not take other sizes: 'Add' \(node 'add'\) cannot take \[1, 4, 8, 136\], \[1, 4, 8, 8\]",
    ):
        open_onnx(path, dynamic=("size",))


def test_sizes_may_be_free_in_a_file_of_fixed_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "fixed.onnx", classifier((1, 3, 8, 8)))
    network = open_onnx(path, dynamic=BOTH)
    assert dims(network.image) == ["batch", 3, "height", "width"] and dims(network.outputs[0]) == ["batch", 5]
    assert isinstance(network.image.shape, ir.Shape)
