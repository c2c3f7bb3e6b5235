"""Parity: the exported file against autograd of the torch module, on pictures that a camera could send."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dkcam.engines import Engine, open_bytes
from dkcam.engines.engine import Outputs, draw_masks, graph_input
from dkcam.export.camera import CONDITIONS, camera_pictures
from dkcam.export.checkpoint import Checkpoint
from dkcam.export.checkpoint_graph import write_graph
from dkcam.export.model import scaled
from dkcam.export.parity import Parity, Row, dependence, judge, worse
from dkcam.export.pictures import Pictures
from dkcam.export.reference import Reference
from dkcam.export.sizes import STRIDE
from dkcam.spec import ModelSpec

PER_CLASS = {"explained", "weights", "heatmap", "heatmap_std", "gradient"}
RUNS = 4  # of a graph that explains a fixed number of classes, for one batch of pictures
# gradients for one batch of pictures, masks times classes: through the head alone they are cheap, through the backbone not
HEAD_GRADIENTS, BACKBONE_GRADIENTS = 128, 8
# a float32 error is one draw of many: where all of a picture's maps hang on one attention weight, torch may be lucky in all
DRAWS = 3
MOST_VALUES = 2**25  # of one output's gradients: 128 MB in the graph


def verify(data: bytes, checkpoint: Checkpoint, spec: ModelSpec, calibration: Pictures | None = None) -> Parity:
    """Run the file, the module in float64 and the module in float32 on the same pictures; judge every map the file gives."""
    engine = open_bytes(data, "the new file")
    exact, plain = Reference(checkpoint.module(), spec), Reference(checkpoint.module(), spec, dtype=torch.float32)
    probe = open_bytes(write_graph(checkpoint, spec, probes=True), "the probe") if _crosses_backbone(spec) else None
    height, width = spec.input.height, spec.input.width
    if "size" in spec.input.dynamic:
        height, width = height + STRIDE, width + 2 * STRIDE  # a size the graph was not described with
    batch = min(spec.input.batch[1], 2) if "batch" in spec.input.dynamic else spec.input.batch[0]
    rng = np.random.default_rng(0)
    count = -(-max(len(CONDITIONS), batch) // batch) * batch
    if calibration is None:
        pictures = camera_pictures(rng, height, width, count)
    else:
        found = [_sized(image, height, width) for image in calibration.spread(count).images]
        pictures = [("calibration", found[i % len(found)]) for i in range(count)]
    mask = draw_masks(spec, rng, height, width)
    rows: dict[tuple[str, str], Row] = {}
    maps: dict[int, list[NDArray[np.generic]]] = {}
    judged: set[int] = set()
    score = score_error = 0.0
    deal = deal_classes(rng, spec, batch, height, width)
    for start in range(0, count, batch):
        kinds = [kind for kind, _ in pictures[start : start + batch]]
        image = graph_input(np.stack([picture for _, picture in pictures[start : start + batch]]), spec.input)
        classes = next(deal)
        given = _run(engine, image, classes, mask)
        if probe is not None:
            seen = probe.run(image, classes[: spec.explanation.count or 1], mask)
            exact.single = plain.relu_inputs(image)
            exact.seen = plain.seen = [seen[f"relu_{i}"] for i in range(sum(name.startswith("relu_") for name in seen))]
        chosen = np.clip(given["explained"], 0, len(spec.labels) - 1) if "explained" in given else None
        truth = exact.answer(image, classes, mask, chosen)
        plain.bands = exact.bands
        followed = truth.values["explained"] if chosen is None else chosen
        singles = [plain.answer(image, classes, mask, followed, nudge) for nudge in range(DRAWS)]
        score = max(score, truth.score)
        if truth.scores is not None:
            score_error = max(score_error, *(float(np.abs(truth.scores - single.scores).max()) for single in singles))
        for at, kind in enumerate(kinds):
            for name in spec.explanation.outputs:
                row = judge(name, kind, given, truth, singles, classes, spec.labels, at)
                rows[name, kind] = worse(rows.get((name, kind)), row)
        if PER_CLASS & set(spec.explanation.outputs):
            judged |= set(followed.ravel().tolist())
        for k, wanted in enumerate(classes.tolist() if "heatmap" in given else []):
            maps.setdefault(wanted, []).extend(given["heatmap"][:, k])
    counts = {kind: sum(kind == other for other, _ in pictures) for kind in dict(pictures)}
    ordered = tuple(rows[name, kind] for name in spec.explanation.outputs for kind in counts)
    return Parity(ordered, dependence(maps), exact.kinks, exact.units, score, score_error, counts, len(judged))


def deal_classes(rng: np.random.Generator, spec: ModelSpec, batch: int, height: int, width: int) -> Iterator[NDArray[np.int64]]:
    """What to explain on each batch of pictures: int64 [K], the ranks −1 and −2 and as many class numbers as are cheap.

    The numbers are dealt from shuffled packs of all classes, so that none comes twice before each has come once. For a
    graph that explains exactly K, a multiple of K.
    """
    count = len(spec.labels)
    if not PER_CLASS & set(spec.explanation.outputs):
        while True:
            yield np.array([-1])
    masks, fixed = spec.masks.samples if spec.masks else 1, spec.explanation.count
    tokens = (height // STRIDE) * (width // STRIDE)
    number = BACKBONE_GRADIENTS // masks
    if not _crosses_backbone(spec):
        number = min(HEAD_GRADIENTS // masks, MOST_VALUES // (masks * batch * tokens * 4 * scaled(512, spec.network.model_width)))
    number = max(number, 2)
    if fixed is not None:
        number = min(max(number, fixed), RUNS * fixed)
    pack: list[int] = []
    for turn in itertools.count():
        both = [-1, -2][:count]
        ranks = both if number > 2 else [both[turn % len(both)]]
        numbers = min(number - len(ranks), count)
        if len(pack) < numbers:
            pack += [one for one in rng.permutation(count).tolist() if one not in pack]
        wanted, pack = ranks + pack[:numbers], pack[numbers:]
        yield np.array(wanted + [-1] * (-len(wanted) % (fixed or 1)), np.int64)


def _run(engine: Engine, image: NDArray[Any], classes: NDArray[np.int64], mask: NDArray[np.bool_] | None) -> Outputs:
    """All classes at once, or as many at a time as the graph explains."""
    fixed = engine.spec.explanation.count or len(classes)
    parts = [engine.run(image, classes[start : start + fixed], mask) for start in range(0, len(classes), fixed)]
    return {name: np.concatenate([part[name] for part in parts], 1) if name in PER_CLASS else parts[0][name] for name in parts[0]}


def _crosses_backbone(spec: ModelSpec) -> bool:
    """Whether a gradient passes convolutions on its way to the layer; from layer4's output to the scores there is none."""
    return spec.explanation.layers[0] != "layer4" and bool(
        set(spec.explanation.outputs) & {"weights", "heatmap", "heatmap_std", "gradient"}
    )


def _sized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return image if image.shape[:2] == (height, width) else np.asarray(cv2.resize(image, (width, height)), np.uint8)
