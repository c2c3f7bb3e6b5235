"""The groups of measurements, each a list of rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from dkcam.engines import Engine, EngineOptions, open_bytes
from dkcam.engines.engine import draw_masks
from dkcam.rendered import Drive
from dkcam.runtime import kernels
from dkcam.runtime.explainer import Explainer
from dkcam.runtime.explanation import Explanation
from dkcam.runtime.geometry import Fit
from dkcam.runtime.overlay import draw, map_table
from dkcam.tools.bench.peers import HEAD_ALONE, PEERS, NoCompiler, Peer, opencv_overlay, tensor_of, torch_threads, usual_input
from dkcam.tools.bench.timing import Candidate, Row, Skipped, paired

Report = Callable[[str], None]
Rows = list[Row | Skipped]


@dataclass(frozen=True)
class Graphs:
    """fp32: the heatmap graph's bytes. checkpoint: where the model is one; None leaves the other graphs and peers out."""

    fp32: bytes
    device: str
    engine: EngineOptions
    checkpoint: Any = None
    size: tuple[int, int] | None = None
    calibration: Path | None = None

    def open(self, data: bytes) -> Engine:
        return open_bytes(data, "the model", self.device, self.engine)

    def other(self, **options: Any) -> bytes:
        """Another graph of the same checkpoint. Not verified: dk-export does that."""
        from dkcam.export.exporter import export, make_spec
        from dkcam.export.options import ExportOptions
        from dkcam.tools.calibration import read_calibration

        chosen = ExportOptions(size=self.size, **options)
        pictures = read_calibration(self.calibration, make_spec(self.checkpoint, chosen)) if self.calibration else None
        return export(self.checkpoint, chosen, check=False, calibration=pictures).data

    @cached_property
    def int8(self) -> bytes:
        """Calibrated once, for the device's kind."""
        return self.other(precision="int8", target="cpu" if self.open(self.fp32).device == "cpu" else "gpu")


def frames(height: int, width: int, count: int = 4) -> list[NDArray[np.uint8]]:
    """Rendered frames, uint8 BGR."""
    return [np.asarray(cv2.resize(image, (width, height)), np.uint8) for image, _ in Drive(frames=20 * count)][::20]


def every_group(graphs: Graphs, rounds: int, peers: bool, report: Report) -> Iterator[tuple[str, str, Rows]]:
    """(title, reference, rows), as they are measured."""
    groups: list[tuple[str, str, Callable[[], Rows]]] = [
        ("Inference", "heatmap in the graph", partial(_inference, graphs, rounds, peers)),
        ("Precision", "fp32", partial(_precision, graphs, rounds)),
        ("Stages at 1280x720", "preprocess", partial(_stages, graphs, rounds)),
        ("Overlay at 1920x1080", "dkcam", partial(_overlay, rounds)),
        ("1920x1080 frame to normalised input", "dkcam", partial(_downscale, graphs, rounds)),
        ("Frame to overlay at 1280x720", "dkcam", partial(_whole, graphs, rounds, peers, 720, 1280)),
        ("Frame to overlay at 1920x1080", "dkcam", partial(_whole, graphs, rounds, peers, 1080, 1920)),
    ]
    for title, reference, measure in groups:
        report(title)
        with torch_threads(graphs.engine.threads):
            rows = measure()
        yield title, reference, rows


def _skipped(names: list[str], graphs: Graphs) -> Rows:
    return (
        [Skipped(name, "needs a checkpoint (.pt), to write other graphs of the model") for name in names] if not graphs.checkpoint else []
    )


def _runs(graphs: Graphs, data: bytes, classes: int = 1) -> Candidate:
    engine = graphs.open(data)
    spec, way = engine.spec, engine.spec.input
    prepared = [kernels.network_input(frame, Fit(720, 1280, way.height, way.width))[None] for frame in frames(720, 1280)]
    chosen = -1 - np.arange(classes)
    mask = draw_masks(spec, np.random.default_rng(0))
    return lambda number: engine.run(prepared[number % len(prepared)], chosen, mask)


def _inference(graphs: Graphs, rounds: int, peers: bool) -> Rows:
    candidates = {"heatmap in the graph": _runs(graphs, graphs.fp32)}
    missing = _skipped(["classification alone", "5 classes", "32 masks", "128 masks"], graphs)
    if graphs.checkpoint:
        candidates["classification alone"] = _runs(graphs, graphs.other(outputs=("logits",)))
        if graphs.checkpoint.config.classes >= 5:
            candidates["5 classes"] = _runs(graphs, graphs.fp32, 5)
        if graphs.checkpoint.config.variant == "dropkey":
            for count in (32, 128):
                candidates[f"{count} masks"] = _runs(graphs, graphs.other(samples=count))
    if peers:
        missing += _skipped(list(HEAD_ALONE), graphs)
        for name, make in HEAD_ALONE.items() if graphs.checkpoint else ():
            missing += _try(name, partial(_torch, graphs, make), candidates)
    return [*paired(candidates, "heatmap in the graph", rounds), *missing]


def _torch(graphs: Graphs, make: Callable[[Any], Callable[[Any], Any]]) -> Candidate:
    """On prepared input, as the graphs are."""
    engine = graphs.open(graphs.fp32)
    module = graphs.checkpoint.module()
    module = module if engine.device == "cpu" else _on_gpu(module)
    heatmap, inputs = make(module), [tensor_of(frame, engine.spec, module) for frame in frames(720, 1280)]
    return lambda number: heatmap(inputs[number % len(inputs)]).cpu()


def _precision(graphs: Graphs, rounds: int) -> Rows:
    candidates = {"fp32": _runs(graphs, graphs.fp32)}
    if graphs.checkpoint:
        candidates["fp16"] = _runs(graphs, graphs.other(precision="fp16"))
        candidates["int8"] = _runs(graphs, graphs.int8)
    return [*paired(candidates, "fp32", rounds), *_skipped(["fp16", "int8"], graphs)]


def _stages(graphs: Graphs, rounds: int) -> Rows:
    explainer, pictures = Explainer(graphs.open(graphs.fp32)), frames(720, 1280)
    prepared = [explainer.prepare(picture) for picture in pictures]
    said = [explainer.infer(each) for each in prepared]
    count = len(pictures)
    return list(
        paired(
            {
                "preprocess": lambda n: explainer.prepare(pictures[n % count]),
                "infer": lambda n: explainer.infer(prepared[n % count]),
                "overlay": lambda n: draw(_over(said[n % count], pictures[n % count]), said[n % count]),
                "all": lambda n: _explained(explainer, pictures[n % count]),
            },
            "preprocess",
            rounds,
        )
    )


def _overlay(rounds: int) -> Rows:
    pictures, rng = frames(1080, 1920), np.random.default_rng(0)
    spot, everywhere = np.zeros((1, 12, 20), np.float32), rng.random((1, 12, 20), dtype=np.float32) + 0.2
    spot[0, 4:8, 9:14] = rng.random((4, 5))
    fit, table = Fit(1080, 1920, 384, 640), map_table("turbo", 0.6)[None]
    candidates: dict[str, Candidate] = {
        "dkcam": lambda n: kernels.overlay(pictures[n % 4], everywhere, fit, table, tint=False),
        "dkcam, heat on a fifth of the frame": lambda n: kernels.overlay(pictures[n % 4], spot, fit, table, tint=False),
        "OpenCV: resize, applyColorMap, addWeighted": lambda n: opencv_overlay(pictures[n % 4], everywhere[0]),
    }
    missing: Rows = []
    try:
        from pytorch_grad_cam.utils.image import show_cam_on_image

        candidates["pytorch-grad-cam's show_cam_on_image"] = lambda n: show_cam_on_image(
            pictures[n % 4].astype(np.float32) / 255, cv2.resize(everywhere[0], (1920, 1080))
        )
    except ImportError:
        missing.append(Skipped("pytorch-grad-cam's show_cam_on_image", "not installed (pip install grad-cam)"))
    return [*paired(candidates, "dkcam", rounds), *missing]


def _downscale(graphs: Graphs, rounds: int) -> Rows:
    pictures, spec = frames(1080, 1920), graphs.open(graphs.fp32).spec
    normalised = replace(spec.input, kind="tensor")
    fit = Fit(1080, 1920, spec.input.height, spec.input.width)

    candidates: dict[str, Candidate] = {
        "dkcam": lambda n: kernels.network_tensor(pictures[n % 4], fit, normalised),
        "OpenCV INTER_AREA and NumPy": lambda n: usual_input(pictures[n % 4], spec),
    }
    return list(paired(candidates, "dkcam", rounds))


def _over(explanation: Explanation, picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """What to draw over, as the pipeline chooses it: the frame in GPU memory where it lies there."""
    return None if explanation.on_gpu else picture


def _explained(explainer: Explainer, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    explanation = explainer(picture)
    return explanation.overlay(_over(explanation, picture))


def _whole(graphs: Graphs, rounds: int, peers: bool, height: int, width: int) -> Rows:
    pictures = frames(height, width)
    explainer = Explainer(graphs.open(graphs.fp32))
    candidates: dict[str, Candidate] = {
        "dkcam": lambda n: _explained(explainer, pictures[n % 4]),
        "the engine alone": _runs(graphs, graphs.fp32),
    }
    missing = _skipped(["dkcam, int8"], graphs)
    if graphs.checkpoint:
        low = Explainer(graphs.open(graphs.int8))
        candidates["dkcam, int8"] = lambda n: _explained(low, pictures[n % 4])
    if peers:
        missing += _skipped(list(PEERS), graphs)
        for name, make in PEERS.items() if graphs.checkpoint else ():

            def open_peer(make: Callable[..., Peer] = make) -> Candidate:
                module = graphs.checkpoint.module()
                return partial(
                    _on,
                    make(module if explainer.device == "cpu" else _on_gpu(module), explainer.spec, graphs.fp32, graphs.engine.threads),
                    pictures,
                )

            missing += _try(name, open_peer, candidates)
    return [*paired(candidates, "dkcam", max(rounds // 2, 3)), *missing]


def _try(name: str, make: Callable[[], Candidate], candidates: dict[str, Candidate]) -> Rows:
    """Add a candidate that runs; else say why it does not."""
    try:
        run = make()
        run(0)
    except ImportError as error:
        return [Skipped(name, f"not installed ({error})")]
    except NoCompiler as error:
        return [Skipped(name, str(error))]
    except Exception as error:  # whatever another project raises, the rest is still worth measuring
        return [Skipped(name, f"failed: {' '.join(str(error).split())[:100]}")]
    candidates[name] = run
    return []


def _on_gpu(module: Any) -> Any:
    """Peers run on the same GPU as the engine, where torch can use it."""
    import torch

    return module.cuda() if torch.cuda.is_available() else module


def _on(run: Peer, pictures: list[NDArray[np.uint8]], number: int) -> Any:
    return run(pictures[number % len(pictures)])


def first_frame(model: Path, device: str, threads: int) -> dict[str, float]:
    """A fresh process from its start to the first overlay: seconds, and its largest memory in MB."""
    code = (
        "import resource, sys, time; start = time.perf_counter(); import numpy, dkcam; "
        f"explainer = dkcam.load(sys.argv[1], {device!r}, threads={threads}); frame = numpy.zeros((720, 1280, 3), numpy.uint8); "
        "explainer(frame).overlay(frame); unit = 1 if sys.platform == 'darwin' else 1024; "
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return {"seconds": seconds, "peak_memory_mb": megabytes}
