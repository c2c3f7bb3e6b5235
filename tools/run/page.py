"""The live page as one of dk-run's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dkcam.tools.run.shared import RunOptions
from dkcam.tools.terminal import echo

if TYPE_CHECKING:
    from dkcam.runtime.controls import Controls
    from dkcam.runtime.explainer import Explains
    from dkcam.runtime.health import Health
    from dkcam.runtime.live.camera import Camera
    from dkcam.runtime.live.page import PageSink
    from dkcam.runtime.live.recovery import Recovery


def open_page(
    uri: str,
    options: RunOptions,
    controls: Controls,
    explainer: Callable[[], Explains],
    states: Callable[[], list[dict[str, Any]]],
    *,
    health: Health,
    cameras: Sequence[Camera] = (),
    recovery: Recovery | None = None,
    dump: Callable[[str], Path | None] | None = None,
) -> PageSink:
    """Serve the page and say where. Errors: SinkError for its address, and where its libraries are missing."""
    from dkcam.runtime.live.page import PageSink, check_libraries

    check_libraries(uri)
    from dkcam.runtime.live.decoder import PictureDecoder
    from dkcam.runtime.live.page.app import Context
    from dkcam.runtime.live.page.hub import Hub
    from dkcam.runtime.live.page.metrics import Metrics

    name = options.model.name
    hub, pictures = Hub(options.max_age), PictureDecoder(options.limits)
    metrics = Metrics(cameras, recovery, name, health)
    context = Context(name, controls, explainer, metrics, states, dump, hub, pictures, health)
    page = PageSink(uri, context, token=options.token)
    echo(f"live page: {page.name}")
    return page
