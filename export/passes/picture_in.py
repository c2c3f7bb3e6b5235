"""The picture's way in: the graph's input becomes ``image``, and what the network wants of it is done inside the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from dkcam.export.networks.branches import free_name, names_of
from dkcam.export.networks.picture import PictureInput
from dkcam.export.writer import Writer, shape_of

NAME = "image"
LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B, as OpenCV and PIL make grey
BACK = {"nchw": (0, 3, 1, 2), "nhwc": (0, 2, 3, 1)}  # from NHWC to nchw, from NCHW to nhwc


def embed(writer: Writer, image: ir.Value, picture: PictureInput, kind: str = "rgb8") -> ir.Value:
    """Replaces the graph's input ``image`` by a new one of that name, which is returned; other values of the name get another.

    kind: "rgb8", uint8 [B, H, W, 3] RGB, to which scale, mean, std, channel order and layout are applied inside; "tensor", float32
    [B, C, H, W], normalised and ordered in the network's own way. Contract: the graph is in the order it runs.
    """
    graph = writer.graph
    writer.part = "picture"
    _make_room(graph, image)
    shape = shape_of(image)
    batch, (channels, rows, columns) = shape[0], (shape[axis] for axis in picture.axes)
    whole = kind == "rgb8"
    new = ir.Value(
        name=NAME,
        shape=ir.Shape([batch, rows, columns, 3] if whole else [batch, channels, rows, columns]),
        type=ir.TensorType(ir.DataType.UINT8 if whole else ir.DataType.FLOAT),
    )
    value = new
    if whole:
        value = _normalised(writer, new, picture)
    elif picture.layout == "nhwc":
        value = writer.transpose(new, *BACK["nhwc"])
    graph.inputs[list(graph.inputs).index(image)] = new
    _feed(writer, image, value)
    graph.sort()
    return new


def _normalised(writer: Writer, image: ir.Value, picture: PictureInput) -> ir.Value:
    """float32 in the network's layout, of uint8 [B, H, W, 3]."""
    # cast first, transpose after: TensorRT takes a uint8 input only into a cast
    value = writer.op("Cast", image, to=int(ir.DataType.FLOAT))
    if picture.channels == "gray":
        value = writer.sum(writer.mul(value, writer.constant(LUMINANCE, np.float32)), 3)
    if picture.layout == "nchw":
        value = writer.transpose(value, *BACK["nchw"])
    axis = picture.axes[0]
    factor, shift = (
        picture.scale / np.array(picture.std, np.float64),
        np.array(picture.mean, np.float64) / np.array(picture.std, np.float64),
    )
    if (factor != 1).any():
        value = writer.op("Mul", value, _channels(writer, factor, axis))
    if shift.any():
        value = writer.op("Sub", value, _channels(writer, shift, axis))
    if picture.channels == "bgr":
        value = writer.op("Gather", value, writer.ints(2, 1, 0), axis=axis)
    return value


def _channels(writer: Writer, numbers: np.ndarray, axis: int) -> ir.Value:
    return writer.constant(numbers.reshape((-1, 1, 1) if axis == 1 else (-1,)), np.float32)


def _feed(writer: Writer, image: ir.Value, value: ir.Value) -> None:
    """All that read ``image`` read ``value`` (float32), in the type that it had.

    Where the network itself makes floats of whole numbers, it gets floats: whole numbers inside are what TensorRT refuses.
    """
    assert image.dtype is not None
    if image.dtype == ir.DataType.FLOAT:
        image.replace_all_uses_with(value)
        return
    for node in _readers(image):
        if node.op_type == "Transpose" and "perm" in node.attributes and all(one.op_type == "Cast" for one in _readers(node.outputs[0])):
            moved = writer.transpose(value, *node.attributes["perm"].as_ints())
            for cast in _readers(node.outputs[0]):
                _cast(writer, cast, moved)
        elif node.op_type == "Cast":
            _cast(writer, node, value)
    for node in _readers(image):  # what has lost its own readers
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            writer.graph.remove(node, safe=True)
    if image.uses():
        image.replace_all_uses_with(writer.op("Cast", value, to=int(image.dtype)))


def _readers(value: ir.Value) -> list[ir.Node]:
    return list(dict.fromkeys(use.node for use in value.uses()))


def _cast(writer: Writer, cast: ir.Node, value: ir.Value) -> None:
    """The output of a Cast made from float32 instead."""
    to = cast.attributes["to"].as_int()
    if to == ir.DataType.FLOAT and not cast.outputs[0].is_graph_output():
        cast.outputs[0].replace_all_uses_with(value)
        writer.graph.remove(cast, safe=True)
    else:
        cast.replace_input_with(0, value)


def _make_room(graph: ir.Graph, image: ir.Value) -> None:
    taken = names_of(graph) | {NAME}
    for value in [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]:
        if value.name == NAME:
            value.name = free_name(f"{NAME}.inner", taken)
