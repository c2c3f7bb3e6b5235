"""Detectors of every layout, from a picture to boxes and heat, against plain code and autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from dkcam.export.checking.detect_reference import DetectReference
from dkcam.export.checking.interpreter import evaluate
from dkcam.export.derivative.sweep import sweep
from dkcam.export.explain import cam
from dkcam.export.explain.detect.plan import DetectPlan, plan, together, write
from dkcam.export.networks.network import Network
from dkcam.export.reference import Answer
from dkcam.export.writer import Writer, shape_of
from tests.export.explain.detect import networks
from tests.export.explain.detect.running import finished, run, traced
from tests.marks import some

Array = NDArray[Any]
HEIGHT, WIDTH = 64, 96


@dataclass(frozen=True)
class Case:
    """A network, its outputs' names, and what plan is told."""

    make: Callable[[], nn.Module]
    name: str
    outputs: tuple[str, ...] = ("output",)
    told: dict[str, Any] = field(default_factory=dict)


PAIR = ("scores", "boxes")
CASES = {
    "yolov8": Case(networks.Yolov8, "yolov8"),
    "yolov8 plain": Case(lambda: networks.Yolov8(deep=False, plain=True, act=nn.ReLU), "yolov8"),
    "yolov8 of one level": Case(lambda: networks.Yolov8(levels=1), "yolov8"),
    "yolov5": Case(networks.Yolov5, "yolov5"),
    "yolox": Case(networks.Yolox, "yolox"),
    "yolox decoded": Case(lambda: networks.Yolox(decoded=True), "yolox"),
    "yolox multiplied": Case(lambda: networks.Yolox(decoded=True, product=True), "yolov8", told={"labels": 5}),
    "yolov10": Case(networks.Chosen, "yolov10"),
    "ssd": Case(networks.Ssd, "ssd", PAIR, {"decode": "ssd"}),
    "ssd in pixels": Case(lambda: networks.Ssd(squash=False, scale=64.0), "ssd-pixels", PAIR, {"decode": "ssd-pixels", "labels": 5}),
    "detr": Case(networks.Detr, "detr", PAIR, {"labels": 5}),
    "rtdetr": Case(lambda: networks.Detr(nothing=False), "rtdetr", PAIR, {"labels": 5}),
}
LOCAL = [name for name in CASES if "detr" not in name]


def opened(case: Case, batch: int | str = 1) -> tuple[Network, DetectPlan]:
    network = traced(networks.sound(case.make()), (HEIGHT, WIDTH), case.outputs, batch)
    return network, plan(network.model, network.outputs, network.size, **case.told)


def explained(network: Network, found: DetectPlan, method: str = "gradcam", count: int | str = "K", each: bool = False) -> onnx.ModelProto:
    """The network with its boxes and heat, its own values still there by name."""
    graph = network.graph
    batch = network.image.shape[0]  # type: ignore[index]
    classes = ir.Value(name="classes", shape=ir.Shape([batch, count] if each else [count]), type=ir.TensorType(ir.DataType.INT64))
    graph.inputs.append(classes)
    return finished(network.model, write(Writer(graph, 18), found, classes, method).outputs)


def picture(batch: int, seed: int = 0) -> Array:
    """Rectangles of colour: more boxes stand out than in noise."""
    random = np.random.default_rng(seed)
    found = random.random((batch, 3, HEIGHT, WIDTH), np.float32) * 0.3
    for one in found:
        for _ in range(6):
            y, x = random.integers(0, HEIGHT - 8), random.integers(0, WIDTH - 8)
            one[:, y : y + random.integers(8, 40), x : x + random.integers(8, 40)] += random.random((3, 1, 1), np.float32)
    return found


def expected(network: Network, found: DetectPlan, method: str, image: Array, classes: Array) -> Answer:
    """By the reference, for ``classes`` [K] or [B, K]."""
    reference = DetectReference(network.model, found, found.layers, method)
    tables = [one.value.name or "" for one in (found.layout.scores, found.layout.boxes, found.layout.objectness) if one is not None]
    values = reference.values(image, list(dict.fromkeys(tables)))
    asked = np.broadcast_to(classes, (len(image), classes.shape[-1]))
    chosen = [reference.chosen(values, at, one) for at, one in enumerate(asked)]
    answer = reference.answer(image, asked[0], chosen)
    there = np.array([[one is not None for one in row] for row in chosen])
    answer.values["explained"] = np.where(there, answer.values["explained"], np.maximum(asked, -1))  # type: ignore[index]
    return answer


def compared(name: str, found: Array, expected: Array, scale: float, limit: float) -> None:
    worst = float(np.abs(found.astype(np.float64) - expected).max(initial=0))
    assert worst <= limit * scale, f"{name} is off by {worst}, of {scale}"


QUESTIONS = np.array([-1, -2, -3, -5, -10, -11, -99, 0, 1, 2, 3, 4, 7])


@pytest.mark.parametrize(
    ("kind", "batch"),
    [
        *((kind, 2) for kind in LOCAL),
        *some([(kind, batch) for kind in ("yolov8", "yolox", "yolov10") for batch in (1, "free")], [("yolov8", "free")]),
    ],
)
def test_boxes_and_heat_are_those_of_plain_code(kind: str, batch: int | str) -> None:
    reference_of, found = opened(CASES[kind], batch)
    assert found.layout.name == CASES[kind].name
    assert len(found.heads) == len(found.raw.levels) and all(head.windows for head in found.heads)
    network, again = opened(CASES[kind], batch)
    proto = explained(network, again)
    image = picture(1 if batch == 1 else 2)
    feed = {"image": image, "classes": QUESTIONS}
    double = {name: v.numpy() for name, v in evaluate(proto, feed, [o.name for o in proto.graph.output]).items()}
    truth = expected(reference_of, found, "gradcam", image, QUESTIONS)
    there = truth.values["scores"] > 0
    assert there[:, :3].all() and not there[:, 5:7].any() and (truth.values["explained"][:, 5:7] == -1).all()
    np.testing.assert_array_equal(double["explained"], truth.values["explained"])
    compared("scores", double["scores"], truth.values["scores"], 1, 1e-12)
    compared("boxes", double["boxes"], truth.values["boxes"], 1, 1e-6)  # one over the picture's size has no exact float32
    for b, k in np.ndindex(there.shape):
        size = float(truth.magnitudes["heatmap"][b, k])
        assert (size > 0) == there[b, k]
        compared(f"heat {b} {k}", double["heatmap"][b, k], truth.values["heatmap"][b, k], size, 1e-6)
    for level in (0, 1, 2, 99) if batch == 2 else (99,):
        single = run(proto, feed, level)
        np.testing.assert_array_equal(single["explained"], double["explained"])
        for name in ("scores", "boxes"):
            compared(name, single[name], double[name], 1, 1e-5)
        compared("heatmap", single["heatmap"], double["heatmap"], float(double["heatmap"].max()), 1e-4)


@pytest.mark.parametrize("kind", some(["yolov8", "yolov5", "yolox", "yolox multiplied", "yolov10", "ssd"], ["yolov8", "yolov5", "ssd"]))
def test_networks_of_one_class(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "CLASSES", 1)
    monkeypatch.setitem(CASES[kind].told, "labels", 1)
    original, found = opened(CASES[kind])
    assert found.raw.classes == 1 and all(head.windows for head in found.heads)
    assert all(size[1:] != (1, 1) or size[0] == 1 for size in found.places.size)
    network, again = opened(CASES[kind])
    asked = np.array([-1, -2, 0])
    feed = {"image": picture(1), "classes": asked}
    single = run(explained(network, again), feed)
    truth = expected(original, found, "gradcam", feed["image"], asked)
    assert (truth.values["scores"] > 0).all()
    np.testing.assert_array_equal(single["explained"], [[0, 0, 0]])
    compared("scores", single["scores"], truth.values["scores"], 1, 1e-5)
    compared("boxes", single["boxes"], truth.values["boxes"], 1, 1e-5)
    compared("heatmap", single["heatmap"], truth.values["heatmap"], float(truth.values["heatmap"].max()), 1e-4)


@pytest.mark.parametrize("method", some(cam.METHODS, ["gradcam", "gradcam++", "layercam"]))
@pytest.mark.parametrize("kind", some(["yolov8", "yolov5", "ssd"], ["yolov8"]))
def test_every_method(kind: str, method: str) -> None:
    original, found = opened(CASES[kind], 2)
    network, again = opened(CASES[kind], 2)
    proto = explained(network, again, method)
    feed = {"image": picture(2, 3), "classes": QUESTIONS}
    double = evaluate(proto, feed, ["heatmap", "scores"])
    truth = expected(original, found, method, feed["image"], QUESTIONS)
    assert truth.values["heatmap"].max() > 0
    for b, k in np.ndindex(truth.values["scores"].shape):
        size = max(float(truth.magnitudes["heatmap"][b, k]), 1e-12)
        compared(f"heat {b} {k}", double["heatmap"][b, k].numpy(), truth.values["heatmap"][b, k], size, 1e-6)


@pytest.mark.parametrize("batch", some([1, "free"], ["free"]))
def test_each_picture_has_its_own_questions(batch: int | str) -> None:
    original, found = opened(CASES["yolov8"], batch)
    network, again = opened(CASES["yolov8"], batch)
    proto = explained(network, again, each=True, count=4)
    size = 1 if batch == 1 else 2
    asked = np.array([[-2, 4, -1, 7], [0, -1, -3, 2]])[:size]
    feed = {"image": picture(size, 5), "classes": asked}
    single = run(proto, feed)
    truth = expected(original, found, "gradcam", feed["image"], asked)
    np.testing.assert_array_equal(single["explained"], truth.values["explained"])
    compared("scores", single["scores"], truth.values["scores"], 1, 1e-5)
    compared("heatmap", single["heatmap"], truth.values["heatmap"], float(truth.values["heatmap"].max()), 1e-4)


@pytest.mark.parametrize("kind", ["detr", "rtdetr"])
def test_queries_have_no_windows(kind: str) -> None:
    """Their seeds go to whole maps, at any layer; the last map is the default."""
    original, found = opened(CASES[kind], 2)
    assert not found.heads and [shape_of(layer.value) for layer in found.layers] == [[2, 20, 2, 3]]
    network, again = opened(CASES[kind], 2)
    classes = ir.Value(name="classes", shape=ir.Shape(["K"]), type=ir.TensorType(ir.DataType.INT64))
    network.graph.inputs.append(classes)
    writer = Writer(network.graph, 18)
    said = write(writer, again, classes)
    (layer,) = again.layers
    maps = cam.explain(writer, layer, sweep(writer, said.seeds, [layer.value])[layer.value], "gradcam")
    proto = finished(network.model, {**said.outputs, "heatmap": maps.heatmap})
    feed = {"image": picture(2), "classes": QUESTIONS}
    double = {name: v.numpy() for name, v in evaluate(proto, feed, ["boxes", "scores", "explained", "heatmap"]).items()}
    truth = expected(original, found, "gradcam", feed["image"], QUESTIONS)
    assert truth.values["heatmap"].max() > 0 and (truth.values["scores"] > 0).any()
    np.testing.assert_array_equal(double["explained"], truth.values["explained"])
    compared("boxes", double["boxes"], truth.values["boxes"], 1, 1e-9)
    compared("heatmap", double["heatmap"], truth.values["heatmap"], float(truth.magnitudes["heatmap"].max()), 1e-6)


def test_whole_maps_say_the_same_as_windows() -> None:
    """The seeds of whole maps, swept back to the levels' maps."""
    network, found = opened(CASES["yolox"])
    classes = ir.Value(name="classes", shape=ir.Shape(["K"]), type=ir.TensorType(ir.DataType.INT64))
    network.graph.inputs.append(classes)
    writer = Writer(network.graph, 18)
    said, whole = write(writer, found, classes), write(writer, found, classes, windows=False)
    assert "heatmap" not in whole.outputs
    arrived = sweep(writer, whole.seeds, [layer.value for layer in found.layers])
    maps = [cam.explain(writer, layer, arrived[layer.value], "gradcam").heatmap for layer in found.layers]
    proto = finished(network.model, {"windows": said.outputs["heatmap"], "whole": together(writer, maps)})
    got = evaluate(proto, {"image": picture(1), "classes": np.array([-1, -2, -3])}, ["windows", "whole"])
    assert float(got["whole"].max()) > 0
    assert torch.allclose(got["windows"], got["whole"], rtol=0, atol=1e-6 * float(got["whole"].max()))
