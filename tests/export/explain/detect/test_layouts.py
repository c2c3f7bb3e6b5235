"""Which decoding is taken for which outputs, and what is said where none or several fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dkcam.errors import ExportError
from dkcam.export.explain.detect.layouts import EXPECTED, READERS, candidates, find
from dkcam.export.explain.detect.plan import plan
from tests.export.explain.detect import networks
from tests.export.explain.detect.running import traced
from tests.export.explain.graphs import Convolutional, graph_of

PAIR = ("logits", "boxes")


def outputs_of(module: nn.Module, *names: str) -> Any:
    return traced(networks.sound(module), (64, 96), names or ("output",)).outputs


def names(found: Any) -> list[str]:
    return [one.name for one in found]


def test_objectness_is_told_without_labels() -> None:
    assert names(candidates(outputs_of(networks.Yolov8()))) == ["yolov8"]
    assert names(candidates(outputs_of(networks.Yolov5()))) == ["yolov5"]
    assert names(candidates(outputs_of(networks.Yolox()))) == ["yolox"]
    assert find(outputs_of(networks.Yolox())).unit == "cells"
    assert find(outputs_of(networks.Yolox(decoded=True))).unit == "pixels"


def test_labels_that_do_not_fit_are_not_bent() -> None:
    assert candidates(outputs_of(networks.Yolov8()), labels=7) == []


class More(nn.Module):
    """yolov8 with columns after the classes. squash: of the last ones."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.inner, self.more = networks.Yolov8(levels=1), nn.Conv2d(3, count, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x), self.more(x).flatten(2)], 1)


@pytest.mark.parametrize("labels", [0, networks.CLASSES])
def test_columns_after_the_classes(labels: int) -> None:
    found = find(outputs_of(More(6)), labels)
    assert (found.name, found.scores.start, found.scores.count) == ("yolov8", 4, networks.CLASSES)
    assert candidates(outputs_of(More(1)), labels) == []  # an angle: boxes that are not upright


def test_boxes_in_pixels_are_told_by_a_sample() -> None:
    outputs = outputs_of(networks.Ssd(), "scores", "boxes")
    with pytest.raises(ExportError, match=r"scores 1x252x6, boxes 1x252x4 could be decoded as ssd or ssd-pixels; name one of .*--decode"):
        find(outputs)
    assert find(outputs, sample={"boxes": np.array([[[0.1, -0.1, 1.4, 1.0]]])}).name == "ssd"
    assert find(outputs, sample={"boxes": np.array([[[1.0, 3.0, 60.0, 64.0]]])}).name == "ssd-pixels"
    assert find(outputs, decode="ssd").unit == "picture"


def test_backgrounds_are_counted_as_the_labels_count() -> None:
    outputs = outputs_of(networks.Ssd(), "scores", "boxes")
    five, six = (find(outputs, labels, "ssd") for labels in (networks.CLASSES, networks.CLASSES + 1))
    assert (five.classes.start, five.classes.count, five.first) == (1, 5, 0)
    assert (six.classes.start, six.classes.count, six.first) == (1, 5, 1)


def test_logits_of_queries_need_a_number_of_labels_or_a_name() -> None:
    outputs = outputs_of(networks.Detr(), *PAIR)
    assert names(candidates(outputs)) == ["detr", "rtdetr"]
    assert find(outputs, networks.CLASSES).name == "detr" and find(outputs, networks.CLASSES + 1).name == "rtdetr"
    assert find(outputs, decode="rtdetr").classes.count == networks.CLASSES + 1
    assert find(outputs_of(networks.Detr(squash=True), *PAIR)).squash == ""


def test_a_network_that_chose_itself() -> None:
    found = find(outputs_of(networks.Chosen()))
    assert found.paired and not found.suppress and found.scores.anchors == 126


@pytest.mark.parametrize("end", [nn.Sequential(nn.Flatten(), nn.Linear(12 * 16 * 24, 5)), nn.Conv2d(12, 5, 1)], ids=["classes", "map"])
def test_other_tasks_are_no_detectors(end: nn.Module) -> None:
    outputs = list(graph_of(Convolutional(end)).graph.outputs)
    assert candidates(outputs) == []
    with pytest.raises(ExportError, match=f"fit no detector that is known; name one of {', '.join(READERS)} with --decode"):
        find(outputs)


@pytest.mark.parametrize("name", READERS)
def test_a_name_that_does_not_fit_says_what_would(name: str) -> None:
    outputs = list(graph_of(Convolutional(nn.Conv2d(12, 5, 1))).graph.outputs)
    with pytest.raises(ExportError) as error:
        find(outputs, decode=name)
    assert EXPECTED[name] in str(error.value) and "scores 1x5x" in str(error.value)


def test_an_unknown_name() -> None:
    with pytest.raises(ExportError, match="--decode yolov99 is not known; expected one of yolov5, "):
        find([], decode="yolov99")


def test_a_free_size_is_refused() -> None:
    network = traced(networks.sound(networks.Yolov8()), (64, 96), ["output"])
    with pytest.raises(ExportError, match="explained at one size, the network's is heightx96; give --size"):
        plan(network.model, network.outputs, ("height", 96))
