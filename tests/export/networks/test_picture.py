"""How a network wants its picture, by what the file says, by flags, and by what is assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from dkcam.errors import ExportError
from dkcam.export.networks.metadata import labels_of, size_of
from dkcam.export.networks.onnx_file import open_model
from dkcam.export.networks.picture import IMAGENET_MEAN, IMAGENET_STD, PictureFlags, PictureInput
from tests.export.networks.files import FLOAT, classifier, model, random, weights


def of(proto: onnx.ModelProto, flags: PictureFlags | None = None) -> PictureInput:
    return open_model(proto, "model.onnx", picture=flags or PictureFlags()).picture


def begins(*nodes: onnx.NodeProto, dims: tuple[int, ...] = (1, 3, 8, 8), kind: int = FLOAT, **arrays: object) -> onnx.ModelProto:
    """A classifier whose picture goes through ``nodes`` first, from "picture" to "x"."""
    given = weights(**{name: np.asarray(array) for name, array in arrays.items()})
    proto = classifier(inputs={"picture": (kind, dims)}, initializers=given)
    kept = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *kept])
    return proto


def test_nothing_said_is_imagenet_and_says_so() -> None:
    picture = of(classifier())
    assert picture == PictureInput("nchw", ir.DataType.FLOAT, "rgb", 1 / 255, IMAGENET_MEAN, IMAGENET_STD, assumed=True)
    grey = of(
        model(
            [helper.make_node("Conv", ["x", "w"], ["y"])], {"x": (FLOAT, [1, 1, 8, 8])}, {"y": (FLOAT, None)}, weights(w=random(2, 1, 3, 3))
        )
    )
    assert grey == PictureInput("nchw", ir.DataType.FLOAT, "gray", 1 / 255, (0.0,), (1.0,), assumed=True)


@pytest.mark.parametrize(
    ("metadata", "resize"),
    [
        ({"author": "Ultralytics", "task": "detect"}, "letterbox"),
        ({"author": "Ultralytics", "task": "classify"}, "crop"),
        ({"stride": "32", "names": "['car']"}, "letterbox"),  # YOLOv5
    ],
)
def test_ultralytics_divides_by_255(metadata: dict[str, str], resize: str) -> None:
    picture = of(classifier(metadata=metadata))
    assert (picture.scale, picture.mean, picture.std, picture.assumed) == (1 / 255, (0, 0, 0), (1, 1, 1), False)
    assert (picture.resize, picture.letterbox) == (resize, 114)


def test_flags_come_first() -> None:
    flags = PictureFlags(mean=(0.5, 0.4, 0.3), std=(0.2,), channels="bgr", resize="letterbox", letterbox=0)
    picture = of(classifier(metadata={"author": "Ultralytics", "task": "classify"}), flags)
    assert (picture.scale, picture.mean, picture.std) == (1 / 255, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (picture.channels, picture.resize, picture.letterbox, picture.assumed) == ("bgr", "letterbox", 0, False)


@pytest.mark.parametrize(
    ("flags", "scale"),
    [
        (PictureFlags(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)), 1.0),
        (PictureFlags(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), 1 / 255),
        (PictureFlags(std=(255.0,)), 1.0),
        (PictureFlags(mean=(127.5,), scale=2.0), 2.0),
    ],
)
def test_the_range_follows_from_the_numbers(flags: PictureFlags, scale: float) -> None:
    picture = of(classifier(), flags)
    assert picture.scale == scale and not picture.assumed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (PictureFlags(mean=(0.1, 0.2)), r"--mean 0.1,0.2: expected three numbers \(R,G,B\) or one for all"),
        (PictureFlags(std=(0.1, 0.0, 1.0)), "--std 0.1,0,1: expected numbers above 0"),
        (PictureFlags(mean=(float("nan"),)), "--mean nan: expected"),
        (PictureFlags(scale=0.0), "--scale 0: expected a number above 0"),
        (PictureFlags(channels="rbg"), "--channels rbg: model.onnx expects rgb or bgr"),
    ],
)
def test_flags_that_do_not_fit(flags: PictureFlags, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        of(classifier(), flags)


@pytest.mark.parametrize(
    ("proto", "scale"),
    [
        (begins(helper.make_node("Div", ["picture", "by"], ["x"]), by=np.float32(255)), 1.0),
        (begins(helper.make_node("Mul", ["by", "picture"], ["x"]), by=np.full((1, 3, 1, 1), 1 / 255, np.float32)), 1.0),
        (
            begins(
                helper.make_node("Sub", ["picture", "mean"], ["a"]),
                helper.make_node("Div", ["a", "std"], ["x"]),
                mean=np.array([123.7, 116.3, 103.5], np.float32).reshape(3, 1, 1),
                std=np.array([58.4, 57.1, 57.4], np.float32).reshape(3, 1, 1),
            ),
            1.0,
        ),
        (begins(helper.make_node("Sub", ["picture", "mean"], ["x"]), mean=np.float32(127)), 1.0),
        (
            begins(
                helper.make_node("Div", ["picture", "by"], ["a"]),
                helper.make_node("Sub", ["a", "one"], ["x"]),
                by=np.float32(127.5),
                one=np.float32(1),
            ),
            1.0,
        ),
        (
            begins(
                helper.make_node("Sub", ["picture", "mean"], ["a"]),
                helper.make_node("Div", ["a", "std"], ["x"]),
                mean=np.array(IMAGENET_MEAN, np.float32).reshape(1, 3, 1, 1),
                std=np.array(IMAGENET_STD, np.float32).reshape(1, 3, 1, 1),
            ),
            1 / 255,
        ),
        (
            begins(
                helper.make_node("Mul", ["picture", "two"], ["a"]),
                helper.make_node("Sub", ["a", "one"], ["x"]),
                two=np.float32(2),
                one=np.float32(1),
            ),
            1 / 255,
        ),
        (
            begins(
                helper.make_node("Div", ["picture", "by"], ["a"]),
                helper.make_node("Transpose", ["a"], ["x"], perm=[0, 3, 1, 2]),
                dims=(1, 8, 8, 3),
                by=np.array([255, 255, 255], np.float32),
            ),
            1.0,
        ),
        (
            begins(
                helper.make_node("Transpose", ["picture"], ["rows"], perm=[0, 2, 3, 1]),
                helper.make_node("Sub", ["rows", "mean"], ["a"]),
                helper.make_node("Transpose", ["a"], ["x"], perm=[0, 3, 1, 2]),
                mean=np.array([123.7, 116.3, 103.5], np.float32),
            ),
            1.0,
        ),
        (
            begins(
                helper.make_node("Cast", ["picture"], ["f"], to=FLOAT),
                helper.make_node("Transpose", ["f"], ["x"], perm=[0, 3, 1, 2]),
                dims=(1, 8, 8, 3),
                kind=TensorProto.UINT8,
            ),
            1.0,
        ),
    ],
    ids=["/255", "·1/255", "imagenet·255", "caffe", "/127.5-1", "imagenet", "·2-1", "nhwc/255", "caffe in rows", "uint8"],
)
def test_preprocessing_inside_the_graph_tells_the_range(proto: onnx.ModelProto, scale: float) -> None:
    picture = of(proto)
    assert (picture.inside, picture.scale, picture.assumed) == (True, scale, False)
    assert (picture.mean, picture.std) == ((0, 0, 0), (1, 1, 1))


def test_arithmetic_with_more_than_a_number_a_channel_is_no_preprocessing() -> None:
    """A positional table that is added says nothing about the range."""
    picture = of(begins(helper.make_node("Add", ["picture", "table"], ["x"]), table=random(1, 3, 8, 8)))
    assert picture.assumed and not picture.inside


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("{0: 'person', 1: 'traffic light'}", ("person", "traffic light")),
        ('{1: "b", 0: "a\'s"}', ("a's", "b")),
        (r"['a\n', 'é']", ("a\n", "é")),
        ("{}", None),
        ("{0: person}", None),
        ("{0: 'a' 1: 'b'}", None),
        ("{99999: 'a'}", None),
        ("['a';'b']", None),
        ("[" * 100_000, None),
        ("__import__('os').system('true')", None),
        ("{0: ''.__class__}", None),
        ("['" + "\\" * 200_001 + "']", None),
    ],
)
def test_names(text: str, labels: tuple[str, ...] | None) -> None:
    assert labels_of({"names": text}) == labels


@pytest.mark.parametrize(
    ("text", "size"), [("[480, 640]", (480, 640)), ("640", (640, 640)), ("(32,64)", (32, 64)), ("", None), ("[1, 2, 3]", None), ("a", None)]
)
def test_sizes(text: str, size: tuple[int, int] | None) -> None:
    assert size_of({"imgsz": text}) == size


def test_labels_are_read_in_time(tmp_path: Path) -> None:
    import time

    started = time.process_time()
    assert len(labels_of({"names": str({i: f"class {i}" for i in range(60_000)})}) or ()) == 60_000
    labels_of({"names": "{" + "0:'" * 400_000 + "}"})
    assert time.process_time() - started < 2
