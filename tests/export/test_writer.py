"""The writer's shapes where some are free."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from dkcam.export.writer import Dimension, Writer, shape_of


def given(*shape: Dimension) -> tuple[Writer, ir.Value]:
    value = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    return Writer(ir.Graph([value], [], nodes=[], opset_imports={"": 18}), 18), value


@pytest.mark.parametrize(
    ("have", "to", "expected"),
    [
        (["batch", 12, "H", "W"], [-1, 12], ["H*W*batch", 12]),
        (["K", "batch", 6], [-1, 3, 2], ["K*batch", 3, 2]),
        ([2, "batch", 6], [-1, 6], ["2*batch", 6]),
        ([2, 3, 4], [-1, 4], [6, 4]),
        (["K", 4], [2, -1, 2], [2, "K", 2]),
        ([2, 3], [1, -1, 6, 1], [1, 1, 6, 1]),
    ],
)
def test_the_rest_of_a_shape(have: list[Dimension], to: list[int], expected: list[Dimension]) -> None:
    writer, value = given(*have)
    assert shape_of(writer.reshape(value, to)) == expected


def test_a_product_of_free_sizes_is_split_again() -> None:
    writer, value = given("batch", 12, "H", "W")
    flat = writer.reshape(value, writer.dims(value, 0, 2), -1)
    assert shape_of(flat) == ["batch", 12, "H*W"]
    assert shape_of(writer.reshape(flat, writer.dims(value, 0, 2), writer.dims(value, 2, 3), -1)) == ["batch", 12, "H", "W"]
    assert shape_of(writer.reshape(flat, -1, [3, 4], writer.dims(flat, 2))) == ["batch", 3, 4, "H*W"]
