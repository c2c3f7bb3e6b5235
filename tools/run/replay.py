"""dk-run over a dump of the flight recorder: the same inputs again, compared with what was said then."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from dkcam.tools.run.shared import RunOptions, close_all, open_explainer, settle_process
from dkcam.tools.terminal import echo


def run_replay(options: RunOptions, dump: object) -> bool:
    """Whether every map is the same within tolerance. Errors: DkcamError."""
    from dkcam.errors import SourceError
    from dkcam.runtime.delivery import Explained, result_of
    from dkcam.runtime.live.flight import TOLERANCE, Replay, difference
    from dkcam.runtime.sinks import open_sink

    assert isinstance(dump, Replay)
    grid = tuple(dump.grid) if dump.grid else None
    options = replace(options, resize=dump.resize, grid=grid, background=dump.background)
    settle_process()
    explainer = open_explainer(options, lanes=1)
    if explainer.engine.sha256 != dump.sha256:
        raise SourceError(
            f"{dump.path} was recorded with another model (sha256 {dump.sha256[:12]}…, {options.model} is "
            f"{explainer.engine.sha256[:12]}…); give that one with --model"
        )
    outputs = []
    style = options.controls().settings.style
    finished, maps, scores, count = False, 0.0, 0.0, 0
    try:
        for uri in options.sinks:
            outputs.append(open_sink(uri, 10.0))
        wanted = any(sink.pictures for sink in outputs)
        for again in dump.frames(explainer):
            start = time.perf_counter()
            said = explainer.infer(again.prepared, again.classes, masks=again.masks)
            maps = max(maps, difference(said.heatmap, again.heatmap))
            scores = max(scores, float(np.abs(said.figures - again.scores).max(initial=0.0)))
            done = Explained(again.frame, said, 0.0, 0.0, (time.perf_counter() - start) * 1e3, start)
            result = result_of(done, style=style, watch=None, picture=wanted, fps=None, dropped=0)
            for sink in outputs:
                sink.write(result)
            count += 1
            if count == options.max_frames:
                break
        finished = True
    finally:
        close_all(outputs, finished)
    allowed = TOLERANCE[explainer.spec.provenance.precision]
    echo(
        f"{dump.path.name} ({dump.cause}): {count} frames on {explainer.device}; heatmaps differ by {maps:.1e} of their maximum at most "
        f"(allowed {allowed:g}), scores by {scores:.1e}"
    )
    if maps > allowed:
        echo("the maps are not those that were recorded")
    return maps <= allowed
