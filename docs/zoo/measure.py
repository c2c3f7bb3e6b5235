"""What is asked of one network, stage by stage; each stage's figures are written down before the next begins."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from dkcam.errors import DkcamError
from zoo import product
from zoo.networks import Network
from zoo.timing import Ratio, paired

Figures = dict[str, Any]
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
COUNTS = {"detect": (1, 10)}  # maps at once, else one and five
SECONDS = 10.0  # of timing, for each comparison


@dataclass
class Measured:
    """One network's work in progress. default, early: its files with the picture as a tensor, written once verified."""

    network: Network
    path: Path
    work: Path
    kept: dict[str, bytes] = field(default_factory=dict)

    @cached_property
    def original(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def layers(self) -> list[product.Layer]:
        return product.layers(self.path, self.network)

    @cached_property
    def default(self) -> product.Layer:
        return next(one for one in reversed(self.layers) if one.default)

    @property
    def early(self) -> product.Layer | None:
        """The first map before the default with a stride of 8 or more; where there is none, one halfway."""
        before = self.layers[: next(n for n, one in enumerate(self.layers) if one.default)]
        coarse = [one for one in before if one.stride == 0 or one.stride >= 8]
        return coarse[0] if coarse else before[len(before) // 2] if before else None

    def file(self, which: str) -> bytes:
        """A file written by an earlier stage, of this run or of one before. Errors: Missing."""
        if which not in self.kept:
            place = self.work / f"{self.network.name}.{which}.onnx"
            if not place.exists():
                raise Missing(f"there is no {which} file")
            self.kept[which] = place.read_bytes()
        return self.kept[which]

    def keep(self, which: str, data: bytes) -> None:
        self.kept[which] = data
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / f"{self.network.name}.{which}.onnx").write_bytes(data)


class Missing(Exception):
    """A stage before did not come to its end."""


def about(one: Measured) -> Figures:
    """The file as it came."""
    model = onnx.load(one.path, load_external_data=False)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    kinds = Counter(node.op_type for node in model.graph.node)
    return {
        "bytes": one.path.stat().st_size,
        "nodes": len(model.graph.node),
        "kinds": dict(kinds.most_common()),
        "opset": opset,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }


def found(one: Measured) -> Figures:
    """What the product makes of it by itself."""
    early = one.early
    return {
        "layer": one.default.name,
        "map": one.default.map,
        "early": early.name if early else None,
        "early_map": early.map if early else None,
        "candidates": len(one.layers),
    }


def default(one: Measured) -> Figures:
    return _export(one, "default", None)


def early(one: Measured) -> Figures:
    if one.early is None:
        raise Missing("no layer lies before the default")
    return _export(one, "early", one.early.value)


def _export(one: Measured, which: str, layer: str | None) -> Figures:
    start = time.perf_counter()
    made = product.export(one.path, one.network, layer=layer)
    seconds = time.perf_counter() - start
    one.keep(which, made.data)
    graph = onnx.load_from_string(made.data).graph
    return {"seconds": round(seconds, 1), "nodes": len(graph.node), "bytes": len(made.data), **made.figures}


def levels(one: Measured) -> Figures:
    """Both files load at each of ONNX Runtime's levels of optimisation, and give the same map."""
    figures: Figures = {}
    for which in ("default", "early"):
        with contextlib.suppress(Missing):
            data, maps = one.file(which), {}
            for level in LEVELS:
                session = _session(data, level)
                maps[level] = session.run(["heatmap"], _feed(session, 1))[0]
            largest = max(float(np.abs(maps[LEVELS[0]]).max()), 1e-30)
            figures[which] = max(float(np.abs(value - maps[LEVELS[0]]).max()) / largest for value in maps.values())
    if not figures:
        raise Missing("no file to load")
    return figures


def cost(one: Measured) -> Figures:
    """Runs of the files against runs of the original, one thread, in pairs."""
    plain = _runner(_session(one.original, LEVELS[-1]))
    few, many = COUNTS.get(one.network.expected, (1, 5))
    figures: Figures = {"counts": [few, many]}
    session = _session(one.file("default"), LEVELS[-1])
    runs = {f"default {few}": _runner(session, few), f"default {many}": _runner(session, many)}
    with contextlib.suppress(Missing):
        runs["early 1"] = _runner(_session(one.file("early"), LEVELS[-1]), 1)
    ratios = paired(plain, runs, SECONDS)
    figures["original_ms"] = ratios.plain_ms
    figures["rounds"] = ratios.rounds
    return figures | {name: _row(ratio) for name, ratio in ratios.ratios.items()}


def peer(one: Measured) -> Figures:
    """pytorch-grad-cam over the same torch module at the same layer: its cost beside the original file's, its map beside ours."""
    from zoo import grad_cam

    if one.network.module is None or one.network.expected != "classify":
        raise Missing("no torch module that is a classifier")
    data = one.file("default")
    run, layer, alike = grad_cam.build(one.network, one.original, data, one.default.value)
    ratios = paired(_runner(_session(one.original, LEVELS[-1])), {"peer": run}, SECONDS / 2)
    return {"layer": layer, "difference": alike, **_row(ratios.ratios["peer"])}


def tensorrt(one: Measured) -> Figures:
    """Whether TensorRT-RTX builds the original and the two files."""
    figures: Figures = {"original": product.tensorrt_takes(one.original)}
    for which in ("default", "early"):
        with contextlib.suppress(Missing):
            figures[which] = product.tensorrt_takes(one.file(which))
    return figures


def fp16(one: Measured) -> Figures:
    return _low(one, "fp16", None)


def int8(one: Measured) -> Figures:
    return _low(one, "int8", "cpu")


def _low(one: Measured, precision: str, target: str | None) -> Figures:
    start = time.perf_counter()
    made = product.export(one.path, one.network, precision=precision, target=target)
    return {"seconds": round(time.perf_counter() - start, 1), "bytes": len(made.data), **made.low}


STAGES: Mapping[str, Callable[[Measured], Figures]] = {
    "about": about,
    "found": found,
    "default": default,
    "early": early,
    "levels": levels,
    "tensorrt": tensorrt,
    "cost": cost,
    "peer": peer,
    "fp16": fp16,
    "int8": int8,
}


def measure(network: Network, path: Path, work: Path, stages: Sequence[str], done: Callable[[str, Figures], None]) -> None:
    """Run stages in order; a failure is a figure too: {"failed": its reason in one line}."""
    one = Measured(network, path, work)
    for name in stages:
        try:
            figures = STAGES[name](one)
        except (DkcamError, Missing) as error:
            figures = {"failed": _line(error)}
        except Exception as error:
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {_line(error)}"}
        done(name, figures)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def _session(data: bytes, level: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _feed(session: ort.InferenceSession, count: int) -> dict[str, np.ndarray]:
    """A drawn scene, and the best ``count`` classes where the graph asks for any."""
    return product.feed(session, count)


def _runner(session: ort.InferenceSession, count: int = 1) -> Callable[[], Any]:
    feed = _feed(session, count)
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(names, feed)


def _row(ratio: Ratio) -> Figures:
    return {"ratio": round(ratio.median, 4), "low": round(ratio.low, 4), "high": round(ratio.high, 4)}
