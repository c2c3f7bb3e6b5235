"""The embedded picture gives what the network gives for a picture that was prepared by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from dkcam.export.networks.network import Network
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.networks.picture import PictureFlags
from dkcam.export.passes.picture_in import embed
from dkcam.export.writer import Writer
from tests.export.networks.files import FLOAT, dims, model, random, run, weights

Array = NDArray[Any]
MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])


def network(layout: str, channels: int, kind: int = FLOAT, name: str = "x", cast: str = "first") -> onnx.ModelProto:
    """A convolution of a picture [B, 6, 8], in each layout and type; "cast" is where a picture of whole numbers becomes floats."""
    shape: list[int | str | None] = ["n", channels, 6, 8] if layout == "nchw" else ["n", 6, 8, channels]
    nodes, value = [], name
    steps = ["cast"] if kind != FLOAT else []
    steps += ["transpose"] if layout == "nhwc" else []
    for step in reversed(steps) if cast == "last" else steps:
        if step == "cast":
            nodes.append(helper.make_node("Cast", [value], [f"{value}.f"], to=FLOAT))
        else:
            nodes.append(helper.make_node("Transpose", [value], [f"{value}.f"], perm=[0, 3, 1, 2]))
        value += ".f"
    nodes.append(helper.make_node("Conv", [value, "w"], ["y"], "conv"))
    return model(nodes, {name: (kind, shape)}, {"y": (FLOAT, None)}, weights(w=random(4, channels, 3, 3)))


def opened_from(proto: onnx.ModelProto, **more: Any) -> Network:
    """``open_model`` uses up what it is given."""
    return open_model(onnx.ModelProto.FromString(proto.SerializeToString()), "model", **more)


def prepared(rgb: Array, layout: str, channels: str, *, scale: float = 1 / 255, mean: Array = MEAN, std: Array = STD) -> Array:
    """By the definition: (value · scale − mean) / std, then channels, then layout."""
    values = rgb.astype(np.float64)
    if channels == "gray":
        values = values @ np.array([0.299, 0.587, 0.114])[:, None]
    values = (values * scale - mean) / std
    if channels == "bgr":
        values = values[..., ::-1]
    return np.ascontiguousarray(values if layout == "nhwc" else values.transpose(0, 3, 1, 2), np.float32)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("name", ["x", "image"])
def test_bytes_are_prepared_inside(layout: str, channels: str, name: str) -> None:
    proto = network(layout, 1 if channels == "gray" else 3, name=name)
    given = {"mean": (0.5,), "std": (0.25,)} if channels == "gray" else {"mean": tuple(MEAN), "std": tuple(STD)}
    flags = PictureFlags(**given, channels=None if channels == "gray" else channels)
    opened = opened_from(proto, picture=flags, dynamic=("batch",), batch=(1, 4))
    image = embed(Writer(opened.graph, 18), opened.image, opened.picture)
    assert list(opened.graph.inputs) == [image] and image.name == "image"
    assert image.dtype == ir.DataType.UINT8 and dims(image) == ["batch", 6, 8, 3]
    (first,) = [use.node for use in image.uses()]
    assert first.op_type == "Cast", "TensorRT takes bytes into a cast alone"
    rgb = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    embedded = ir.to_proto(opened.model)
    onnx.checker.check_model(embedded, full_check=True)
    own = prepared(rgb, layout, channels, mean=np.array(given["mean"]), std=np.array(given["std"]))
    (wanted,), (found,) = run(proto, **{name: own}), run(embedded, image=rgb)
    assert np.abs(wanted - found).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_normalised_tensor_comes_in_as_channels_rows_columns(layout: str) -> None:
    proto = network(layout, 3)
    opened = opened_from(proto)
    image = embed(Writer(opened.graph, 18), opened.image, opened.picture, "tensor")
    assert image.dtype == ir.DataType.FLOAT and dims(image) == [1, 3, 6, 8]
    given = random(1, 3, 6, 8)
    (wanted,) = run(proto, x=given if layout == "nchw" else np.ascontiguousarray(given.transpose(0, 2, 3, 1)))
    (found,) = run(ir.to_proto(opened.model), image=given)
    assert np.array_equal(wanted, found)


@pytest.mark.parametrize("cast", ["first", "last"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32])
def test_a_network_of_whole_numbers_is_fed_floats(kind: int, layout: str, cast: str) -> None:
    proto = network(layout, 3, kind, cast=cast)
    opened = opened_from(proto)
    assert opened.picture.inside and opened.picture.scale == 1
    image = embed(Writer(opened.graph, 18), opened.image, opened.picture)
    made = ir.to_proto(opened.model)
    whole = {value.dtype for node in opened.graph for value in node.outputs} - {ir.DataType.FLOAT}
    assert not whole, "TensorRT refuses whole numbers inside"
    assert [node.op_type for node in opened.graph].count("Cast") == 1 and image.dtype == ir.DataType.UINT8
    rgb = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), dtype=np.uint8)
    own = rgb if layout == "nhwc" else rgb.transpose(0, 3, 1, 2)
    (wanted,) = run(proto, x=np.ascontiguousarray(own.astype(helper.tensor_dtype_to_np_dtype(kind))))
    (found,) = run(made, image=rgb)
    assert np.array_equal(wanted, found)


def test_a_network_of_bytes_that_does_arithmetic_on_them_gets_bytes() -> None:
    nodes = [helper.make_node("Gather", ["x", "back"], ["bgr"], axis=3), helper.make_node("Cast", ["bgr"], ["y"], to=FLOAT)]
    proto = model(nodes, {"x": (TensorProto.UINT8, [1, 6, 8, 3])}, {"y": (FLOAT, None)}, weights(back=np.array([2, 1, 0])))
    opened = opened_from(proto)
    embed(Writer(opened.graph, 18), opened.image, opened.picture)
    rgb = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), dtype=np.uint8)
    (found,) = run(ir.to_proto(opened.model), image=rgb)
    assert np.array_equal(found, rgb[..., ::-1].astype(np.float32))


def test_half_precision_is_cast_once_at_the_end() -> None:
    kind = TensorProto.FLOAT16
    proto = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (kind, [1, 3, 6, 8])}, {"y": (kind, None)})
    opened = opened_from(proto, picture=PictureFlags(mean=(0.5,), std=(0.5,)))
    embed(Writer(opened.graph, 18), opened.image, opened.picture)
    assert [node.op_type for node in opened.graph] == ["Cast", "Transpose", "Mul", "Sub", "Cast", "Relu"]
    rgb = np.random.default_rng(0).integers(0, 256, (1, 6, 8, 3), dtype=np.uint8)
    (found,) = run(ir.to_proto(opened.model), image=rgb)
    wanted = np.maximum(prepared(rgb, "nchw", "rgb", mean=np.array([0.5]), std=np.array([0.5])), 0)
    assert found.dtype == np.float16 and np.abs(found - wanted).max() < 1e-3


def test_a_value_inside_that_has_the_fixed_name_gives_it_up() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["image"]), helper.make_node("Neg", ["image"], ["y"])]
    opened = opened_from(model(nodes, {"x": (FLOAT, [1, 3, 6, 8])}, {"y": (FLOAT, None)}))
    image = embed(Writer(opened.graph, 18), opened.image, opened.picture, "tensor")
    assert image.name == "image" and [value.name for node in opened.graph for value in node.outputs] == ["image.inner", "y"]
    onnx.checker.check_model(ir.to_proto(opened.model), full_check=True)
