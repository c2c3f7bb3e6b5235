"""The one place that knows how dkcam's exporter is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from dkcam.engines.onnx_file import read_spec, spec_of
from dkcam.engines.tensorrt.build import build_plan, first_error, make_logger
from dkcam.engines.tensorrt.library import load_tensorrt
from dkcam.engines.tensorrt.profile import Profile
from dkcam.errors import DkcamError
from dkcam.export.camera import camera_pictures
from dkcam.export.checking.original import open_original
from dkcam.export.network_export import describe, export_network, with_sample
from dkcam.export.networks.network import Network as Opened
from dkcam.export.networks.onnx_file import open_onnx
from dkcam.export.networks.picture import PictureFlags
from dkcam.export.options import ExportOptions
from dkcam.export.prepare import list_candidates
from zoo.networks import Network

MAPS = ("heatmap", "heatmap_std", "weights", "gradient")
FIXED = ("logits", "probabilities", "explained", "features", "boxes", "scores")


@dataclass(frozen=True)
class Layer:
    """name: as a user would say it. value: of the graph. stride: pixels a cell, 0 where sizes are free."""

    name: str
    value: str
    map: str
    stride: float
    default: bool


@dataclass(frozen=True)
class Made:
    """data: the file. figures: of its verification. low: of its precision's gate."""

    data: bytes
    figures: Mapping[str, Any]
    low: Mapping[str, Any]


@lru_cache(maxsize=1)
def _open(path: Path, network: Network) -> Opened:
    way = network.way or {}
    flags = PictureFlags(mean=way.get("mean"), std=way.get("std"), scale=way.get("scale"), channels=way.get("channels"))
    return open_onnx(path, size=network.size if _free(path) else None, picture=flags)


def _free(path: Path) -> bool:
    """Whether the file leaves its size open."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    image = next(value for value in model.graph.input if value.name not in weights)
    return any(not side.dim_value for side in list(image.type.tensor_type.shape.dim)[1:])


def _options(network: Network, **more: Any) -> ExportOptions:
    return ExportOptions(input="tensor", task=network.task, decode=network.decode or None, outputs=network.outputs or None, **more)


def layers(path: Path, network: Network) -> list[Layer]:
    """Candidates in the order they are computed. Errors: DkcamError."""
    opened = with_sample(_open(path, network))
    prepared, _ = describe(opened.copy(), _options(network))
    found = list_candidates(prepared, opened.size)
    return [Layer(one.name, one.value, "x".join(map(str, one.map)), min(one.stride), one.default) for one in found]


def export(path: Path, network: Network, *, layer: str | None = None, precision: str = "fp32", target: str | None = None) -> Made:
    """A file with its picture as a tensor, so that nothing but the heatmap is added to the network. Errors: DkcamError."""
    options = _options(network, layer=layer, precision=precision, target=target)
    made = export_network(_open(path, network), options, original=open_original(path))
    spec, parity = made.spec, made.parity
    figures: dict[str, Any] = {
        "task": spec.task,
        "layers": list(spec.explanation.layers),
        "classes": len(spec.labels),
        "notes": list(made.notes),
    }
    if parity is not None:
        worst = {
            row.output: {"error": row.error, "limit": row.limit, "float32": row.float32, "maps": row.maps} for row in parity.by_output()
        }
        figures["parity"] = {name: row for name, row in worst.items() if name in (*MAPS, *FIXED)}
        figures["unchanged"] = {name: row for name, row in worst.items() if name not in (*MAPS, *FIXED)}
        figures |= {"kinks": parity.kinks, "units": parity.units, "input_dependence": parity.input_dependence}
    low: dict[str, Any] = {}
    if made.low is not None:
        low["kept"] = [[one.name, round(one.share, 4)] for one in made.low.kept]
        low["fidelity"] = {
            name: value for name, value in (made.low.fidelity.figures() if made.low.fidelity else {}).items() if _number(value)
        }
    return Made(made.data, figures, low)


def _number(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def feed(session: ort.InferenceSession, count: int) -> dict[str, np.ndarray]:
    """A drawn scene in the session's own layout, and the best ``count`` classes where the graph asks for any."""
    given: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        if value.name == "classes":
            spec = spec_of(session.get_modelmeta().custom_metadata_map, "the file")
            given["classes"] = -1 - np.arange(count, dtype=np.int64) % spec.ranks  # of one class, the same map several times
            continue
        shape = [side if isinstance(side, int) else None for side in value.shape]
        last = shape[3] in (1, 3) and shape[1] not in (1, 3)
        channels = (shape[3] if last else shape[1]) or 3
        rows, columns = shape[1:3] if last else shape[2:4]
        rows, columns = rows or SIZES.get("size", (224, 224))[0], columns or SIZES.get("size", (224, 224))[1]
        ((_, picture),) = camera_pictures(np.random.default_rng(3), rows, columns, 1)
        image = picture.astype(np.float32) / 255
        image = image if channels == 3 else image.mean(2, keepdims=True)
        given[value.name] = np.ascontiguousarray((image if last else image.transpose(2, 0, 1))[None].repeat(shape[0] or 1, 0))
    return given


SIZES: dict[str, tuple[int, int]] = {}
"""size: of the network that is measured, for files that leave it free."""


def tensorrt_takes(data: bytes) -> str:
    """ "yes", or TensorRT-RTX's first complaint."""
    library = load_tensorrt()
    try:
        spec = read_spec(data, "the file")
    except DkcamError:
        return _takes_foreign(library.module, data)
    try:
        build_plan(library, data, "the file", spec, Profile.of(spec, None))
    except DkcamError as error:
        return str(error)[:300]
    return "yes"


def _takes_foreign(trt: Any, data: bytes) -> str:
    """As ``build_plan``, for a file that dkcam has not written."""
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data):
        return f"{parser.get_error(0).node_operator()}: {parser.get_error(0).desc()}"[:300] if parser.num_errors else "refused"
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    free = False
    for number in range(network.num_inputs):
        value = network.get_input(number)
        shape = list(value.shape)
        if -1 in shape:
            rows, columns = SIZES.get("size", (224, 224))
            last = shape[3] in (1, 3) and shape[1] not in (1, 3)
            usual = (1, rows, columns, shape[3]) if last else (1, shape[1] if shape[1] > 0 else 3, rows, columns)
            usual = tuple(own if own > 0 else side for own, side in zip(shape, usual, strict=True))
            profile.set_shape(value.name, usual, usual, usual)
            free = True
    if free:
        config.add_optimization_profile(profile)
    try:
        plan = builder.build_serialized_network(network, config)
    except (RuntimeError, MemoryError) as error:
        return first_error(logger, str(error))[:300]
    return "yes" if plan is not None else first_error(logger, "no reason given")[:300]
