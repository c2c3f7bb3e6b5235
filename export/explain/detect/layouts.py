"""Which decoding a detector's outputs need: told by shapes, names and the graph behind them, or by ``--decode``.

    yolov5    [B, A, 5+n]  centre and size in pixels, objectness, classes; v7 and v3 as well
    yolov8    [B, 4+n, A]  centre and size in pixels, classes; v9, v11, v12, v5u as well; masks or key points may follow
    yolox     [B, A, 5+n]  one box a cell, decoded or in cells
    yolov10   [B, N, 6]    corners in pixels, score, class: chosen by the network (end to end); yolo26 as well
    rtdetr    [B, Q, 4+n], [B, Q, n] and [B, Q, 4], or [B, N, 6] chosen by the network  centre and size in 0..1, Sigmoid
    detr      [B, Q, n+1] and [B, Q, 4]  centre and size in 0..1, Softmax with "nothing" last
    ssd       [B, A, n] or [B, A, n+1] and [B, A, 4]  corners in 0..1; ssd-pixels: in pixels

A column of objectness is told from a class by the number of labels, by boxes a cell (three: yolov5), or by the convolution it
comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dkcam.errors import ExportError
from dkcam.export.explain.detect.layout import Columns, Layout
from dkcam.export.explain.detect.selected import unflattened, unselected
from dkcam.export.explain.detect.trace import per_picture, trace
from dkcam.export.writer import FLOATS
from dkcam.printable import printable

MOST_SELECTED = 1000  # boxes that a network gives after choosing among them
MOST_QUERIES = 2000  # of a transformer that decodes; more are the cells of maps
BEYOND = 2.0  # boxes of a picture in 0..1 stay below, boxes in pixels do not


@dataclass(frozen=True)
class Facts:
    """outputs: of the network. labels: how many classes are known to be, 0 for unknown. sample: outputs for one picture, by name."""

    outputs: Sequence[ir.Value]
    labels: int = 0
    sample: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    asked: bool = False


def find(
    outputs: Sequence[ir.Value],
    labels: int = 0,
    decode: str | None = None,
    sample: Mapping[str, NDArray[np.generic]] | None = None,
) -> Layout:
    """The one layout that fits. Errors: ExportError listing the outputs and the names ``--decode`` takes."""
    if decode is not None and decode not in READERS:
        raise ExportError(f"--decode {printable(decode)} is not known; expected one of {', '.join(READERS)}")
    found = candidates(outputs, labels, decode, sample)
    if len(found) == 1:
        return found[0]
    if decode is not None:
        raise ExportError(f"--decode {decode} does not fit the outputs {listed(outputs)}; expected {EXPECTED[decode]}")
    names = [one.name for one in found]
    what = f"could be decoded as {' or '.join(names)}" if names else "fit no detector that is known"
    raise ExportError(f"the outputs {listed(outputs)} {what}; name one of {', '.join(names or READERS)} with --decode")


def candidates(
    outputs: Sequence[ir.Value],
    labels: int = 0,
    decode: str | None = None,
    sample: Mapping[str, NDArray[np.generic]] | None = None,
) -> list[Layout]:
    """Every layout that fits; without ``decode`` none is taken where outputs could mean a classifier's scores just as well."""
    facts = Facts(outputs, labels, sample or {}, decode is not None)
    names = list(READERS) if decode is None else [decode]
    return [layout for name in names if (layout := READERS[name](facts)) is not None]


def listed(outputs: Sequence[ir.Value]) -> str:
    """Outputs with their shapes, for messages."""
    parts = []
    for output in outputs[:8]:
        dims = "unknown" if output.shape is None else "x".join(str(d) for d in output.shape)
        parts.append(f"{printable(output.name or '')} {dims}")
    return ", ".join(parts) + (f" and {len(outputs) - 8} more" if len(outputs) > 8 else "")


# one table of boxes


@dataclass(frozen=True)
class Table:
    """An output [B, A, m] or [B, m, A]. squash: of each column of the first box. source: where it comes from. cells: positions of all
    levels, 0 where scores come from no maps.
    """

    columns: Columns
    squash: Sequence[str]
    source: Sequence[ir.Value]
    cells: int

    @property
    def each(self) -> float:
        """Boxes a cell."""
        return self.columns.anchors / self.cells if self.cells else 0.0

    def part(self, start: int, count: int) -> Columns:
        return self.columns.narrowed(start, count)


def _tables(facts: Facts) -> list[Table]:
    found = []
    for output in facts.outputs:
        shape = per_picture(output)
        if output.dtype not in FLOATS or shape is None or len(shape) != 2 or min(shape) < 5:
            continue
        known = [axis for axis in (1, 2) if facts.labels and shape[axis - 1] in (4 + facts.labels, 5 + facts.labels)]
        axis = known[0] if len(known) == 1 else 1 if shape[0] < shape[1] else 2
        columns = Columns(output, axis, 0, shape[axis - 1])
        if unselected(output, columns.elements()[:1, 4]) is not None:
            continue  # chosen by the network itself: its columns are no classes
        first = trace(output, columns.elements()[0])
        squash, source = [""] * columns.count, [output] * columns.count
        for piece in first:
            for order in piece.order:
                squash[order], source[order] = piece.squash, piece.value
        last = max((number for number, one in enumerate(squash) if one), default=columns.count - 1)
        shapes = [per_picture(piece.value) or () for piece in trace(output, columns.elements()[:, last])]
        cells = sum(shape[1] * shape[2] for shape in shapes if len(shape) == 3)
        found.append(Table(columns, squash, source, cells if all(len(shape) == 3 for shape in shapes) else 0))
    return found


def _classes(table: Table, start: int, facts: Facts) -> int:
    """How many classes follow from a column on; 0 where that fits nothing known."""
    rest = table.columns.count - start
    count = facts.labels
    if not count:
        run = start
        while run < table.columns.count and table.squash[run] == table.squash[start] and table.source[run] is table.source[start]:
            run += 1
        count = run - start
    if count > rest or len(set(table.squash[start : start + count])) > 1:
        return 0
    if count == rest:
        return count
    # masks' coefficients or key points follow, squashed otherwise; one column would be the angle of boxes that are not upright
    return count if rest - count > 1 and table.squash[start + count] != table.squash[start] else 0


def _objectness(table: Table, facts: Facts) -> bool | None:
    """Whether a column of objectness stands before the classes; None where that cannot be told."""
    if table.columns.count == 5:
        return False
    one, five = (_classes(table, start, facts) for start in (4, 5))
    if facts.labels and bool(one) != bool(five):
        return bool(five)
    if table.each > 1:
        return True
    if table.each == 1 and table.columns.count > 5:
        return table.source[4] is not table.source[5]
    return None


def _yolo(facts: Facts, objectness: bool, fits: Callable[[Table], bool]) -> Table | None:
    """The one table of a YOLO network, with or without objectness, that ``fits``."""
    found = []
    for table in _tables(facts):
        told = _objectness(table, facts)
        if facts.asked and told is None:
            told = objectness
        if told is objectness and table.squash[0] != "Sigmoid" and _classes(table, 5 if objectness else 4, facts) and fits(table):
            found.append(table)
    return found[0] if len(found) == 1 else None


def _left(table: Table, column: int) -> str:
    """What is left to be done with scores of a table: logits are still to be squashed."""
    multiplied = (node := table.source[column].producer()) is not None and node.op_type == "Mul"
    return "" if table.squash[column] or multiplied else "Sigmoid"


def _in_cells(table: Table) -> bool:
    """Whether the boxes are a convolution's own numbers."""
    node = table.source[0].producer()
    return node is not None and node.op_type == "Conv"


def yolov5(facts: Facts) -> Layout | None:
    table = _yolo(facts, True, lambda table: not _in_cells(table) and (table.each != 1 or facts.asked))
    if table is None:
        return None
    classes = table.part(5, _classes(table, 5, facts))
    return Layout("yolov5", classes, table.part(0, 4), table.part(4, 1), squash=_left(table, 5))


def yolov8(facts: Facts) -> Layout | None:
    table = _yolo(facts, False, lambda table: not _in_cells(table))
    if table is None:
        return None
    return Layout("yolov8", table.part(4, _classes(table, 4, facts)), table.part(0, 4), squash=_left(table, 4), iou=0.7)


def yolox(facts: Facts) -> Layout | None:
    table = _yolo(facts, True, lambda table: table.each == 1)
    if table is None:
        return None
    unit = "cells" if _in_cells(table) else "pixels"
    classes = table.part(5, _classes(table, 5, facts))
    return Layout("yolox", classes, table.part(0, 4), table.part(4, 1), unit=unit, squash=_left(table, 5), iou=0.65)


def _selected(facts: Facts) -> tuple[Columns, Columns, bool] | None:
    """(scores, boxes, whether those come out of a Sigmoid) behind a table [B, N, 6 or more] that the network has chosen itself."""
    for output in facts.outputs:
        shape = per_picture(output)
        if output.dtype not in FLOATS or shape is None or len(shape) != 2 or shape[1] < 6 or shape[0] > MOST_SELECTED:
            continue
        table = Columns(output, 2, 0, 6)
        scores = unselected(output, table.elements()[:1, 4])
        boxes = unselected(output, table.elements()[:1, 0])
        if scores is not None:
            scores = unflattened(scores)
        many, inner = (None if value is None else per_picture(value) for value in (scores, boxes))
        if scores is not None and boxes is not None and many is not None and len(many) == 2 and inner == (many[0], 4):
            squash = {piece.squash for piece in trace(boxes, np.arange(4))}
            return Columns(scores, 2, 0, many[1]), Columns(boxes, 2, 0, 4), squash == {"Sigmoid"}
    return None


def yolov10(facts: Facts) -> Layout | None:
    found = _selected(facts)
    if found is None or found[2]:
        return None
    return Layout("yolov10", found[0], found[1], form="xyxy", suppress=False, paired=True)


# scores and boxes apart


@dataclass(frozen=True)
class Pair:
    """scores [B, A, n] and boxes [B, A, 4]. squash: of the scores, in the network. centred: whether boxes come out of a Sigmoid."""

    scores: Columns
    boxes: Columns
    squash: str
    centred: bool


def _pair(facts: Facts) -> Pair | None:
    """The one pair of tables among the outputs."""
    tables = [(output, shape) for output in facts.outputs if (shape := per_picture(output)) is not None and len(shape) == 2]
    tables = [(output, shape) for output, shape in tables if output.dtype in FLOATS]
    found = []
    for boxes, inner in tables:
        if inner[1] != 4:
            continue
        squash = {piece.squash for piece in trace(boxes, np.arange(4))}
        for scores, shape in tables:
            if scores is boxes or shape[0] != inner[0] or (shape[1] == 4 and not _named_box(boxes)):
                continue
            given = {piece.squash for piece in trace(scores, np.arange(shape[1]))}
            if len(given) == 1:
                table = Columns(scores, 2, 0, shape[1])
                found.append(Pair(table, Columns(boxes, 2, 0, 4), given.pop(), squash == {"Sigmoid"}))
    return found[0] if len(found) == 1 else None


def _named_box(value: ir.Value) -> bool:
    return any(part in (value.name or "").lower() for part in ("box", "loc", "rect"))


def _known(facts: Facts) -> bool:
    """Whether the number of labels decides: it is known, and nobody has named the decoding."""
    return bool(facts.labels) and not facts.asked


def detr(facts: Facts) -> Layout | None:
    pair = _pair(facts)
    if pair is None or not pair.centred:
        return None
    if pair.squash == "Sigmoid" or (not pair.squash and facts.labels + 1 != pair.scores.count and _known(facts)):
        return None
    left = "" if pair.squash else "Softmax"
    last = pair.scores.count - 1
    return Layout("detr", pair.scores, pair.boxes, unit="picture", squash=left, background=last, suppress=False, conf=0.5)


def _queries(columns: Columns, facts: Facts) -> bool:
    return facts.asked or columns.anchors <= MOST_QUERIES


def rtdetr(facts: Facts) -> Layout | None:
    chosen = _selected(facts)
    if chosen is not None and chosen[2]:
        return Layout("rtdetr", chosen[0], chosen[1], unit="picture", suppress=False, paired=True)
    table = next((table for table in _tables(facts) if table.squash[0] == "Sigmoid" and table.columns.axis == 2), None)
    if table is not None and _queries(table.columns, facts):
        classes = table.part(4, _classes(table, 4, facts))
        return Layout("rtdetr", classes, table.part(0, 4), unit="picture", squash=_left(table, 4), suppress=False)
    pair = _pair(facts)
    if pair is None or not pair.centred:
        return None
    if pair.squash == "Softmax" or (not pair.squash and facts.labels != pair.scores.count and _known(facts)):
        return None
    if not _queries(pair.scores, facts):
        return None
    return Layout("rtdetr", pair.scores, pair.boxes, unit="picture", squash="" if pair.squash else "Sigmoid", suppress=False)


def ssd(facts: Facts) -> Layout | None:
    return _ssd(facts, "ssd", "picture")


def ssd_pixels(facts: Facts) -> Layout | None:
    return _ssd(facts, "ssd-pixels", "pixels")


def _ssd(facts: Facts, name: str, unit: str) -> Layout | None:
    pair = _pair(facts)
    if pair is None or pair.centred:
        return None
    sample = facts.sample.get(pair.boxes.value.name or "")
    if not facts.asked and sample is not None and (unit == "pixels") != bool(np.abs(sample).max() > BEYOND):
        return None
    if not pair.squash and facts.labels not in (pair.scores.count, pair.scores.count - 1):
        return None
    softmax = pair.squash == "Softmax" or (not pair.squash and facts.labels == pair.scores.count - 1)
    first = softmax or facts.labels == pair.scores.count - 1
    left = "" if pair.squash else "Softmax" if softmax else "Sigmoid"
    counted = int(first and facts.labels == pair.scores.count)  # labels that count the background as one
    return Layout(name, pair.scores, pair.boxes, form="xyxy", unit=unit, squash=left, background=0 if first else None, first=counted)


Reader = Callable[[Facts], "Layout | None"]

READERS: dict[str, Reader] = {
    "yolov5": yolov5,
    "yolov8": yolov8,
    "yolox": yolox,
    "yolov10": yolov10,
    "detr": detr,
    "rtdetr": rtdetr,
    "ssd": ssd,
    "ssd-pixels": ssd_pixels,
}

EXPECTED = {
    "yolov5": "one table [B, A, 5+n]: x, y, w, h in pixels, objectness, n classes",
    "yolov8": "one table [B, 4+n, A] or [B, A, 4+n]: x, y, w, h in pixels, n classes",
    "yolox": "one table [B, A, 5+n] with one box a cell: x, y, w, h, objectness, n classes",
    "yolov10": "one table [B, N, 6]: x1, y1, x2, y2, score, class, chosen by TopK",
    "detr": "logits [B, Q, n+1] and boxes [B, Q, 4] that come out of a Sigmoid",
    "rtdetr": "scores [B, Q, n] and boxes [B, Q, 4] that come out of a Sigmoid, both as [B, Q, 4+n], or [B, N, 6] of them",
    "ssd": "scores [B, A, n] and decoded boxes [B, A, 4]: x1, y1, x2, y2 in 0..1 of the picture",
    "ssd-pixels": "scores [B, A, n] and decoded boxes [B, A, 4]: x1, y1, x2, y2 in pixels",
}
