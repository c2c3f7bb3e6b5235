"""``dk-run``: heatmaps over cameras, a video, pictures or the rendered drive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dkcam.tools import logs
from dkcam.tools.cli import LIST, ROTATION, Command, SecondsType, engine_options, grid_options, run_and_leave, user_errors, version_option
from dkcam.tools.config_file import config_option

SHORTEST_TOKEN = 16  # characters


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", type=click.Path(path_type=Path), help="An .onnx file of dk-export. Default: ./model.onnx, else the demo model.")
@click.option("--camera", "cameras", type=int, multiple=True, help="Camera number.")
@click.option(
    "--source", "sources", multiple=True, help="URI: clip.mp4, frames/, a.jpg, rtsp://…, http://…, v4l2:///dev/video0, demo:  [default: 0]"
)
@click.option(
    "--sink", "sinks", multiple=True, help="URI: window:, out.mp4, frames/, events.jsonl, http://127.0.0.1:8080, null:  [default: window:]"
)
@click.option("--explain", type=LIST, help="Classes to explain, e.g. stop,yield; −1 is the top class, −2 the runner-up.  [default: -1]")
@click.option(
    "--layout",
    type=click.Choice(["side", "tint"]),
    default="side",
    show_default=True,
    help="Several classes: side by side, or a colour each.",
)
@click.option(
    "--resize", type=click.Choice(["stretch", "letterbox", "crop"]), help="How frames reach the model's size. Default: the model's own."
)
@click.option("--headless", is_flag=True, help="No window; without --sink only a summary is printed.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many frames of each source.")
@click.option("--loop", is_flag=True, help="Files: from the beginning again and again, until Ctrl-C; for the page and the window.")
@click.option("--alpha", type=float, default=0.6, show_default=True, help="Opacity of the hottest place, 0 to 1.")
@click.option("--colormap", default="turbo", show_default=True, help="turbo, jet, inferno, magma, plasma, viridis or hot.")
@click.option("--rules", "rules_file", type=click.Path(path_type=Path), help="Judge every frame by these rules (YAML); see dk-check.")
@click.option(
    "--max-age",
    type=SecondsType(min=0.01),
    default=1.0,
    show_default=True,
    help="Cameras: seconds after which a picture is marked STALE.",
)
@click.option(
    "--frame-timeout",
    type=SecondsType(min=0.1, max=3600),
    default=5.0,
    show_default=True,
    help="Cameras: seconds without a frame after which the camera is opened again.",
)
@click.option(
    "--camera-memory",
    type=click.IntRange(16, 65536),
    default=256,
    show_default=True,
    metavar="MB",
    help="Network cameras: memory that decoding may take. 256 hold pictures of 24 megapixels.",
)
@click.option("--follow-redirects", is_flag=True, help="Network cameras: also to other hosts.")
@click.option("--wait", is_flag=True, help="Cameras: start also when one is not there yet, and wait for it.")
@click.option("--rotate", type=ROTATION, help="Cameras: a new .mp4 and .jsonl after this time or size: 10min, 500MB.")
@click.option(
    "--flight-recorder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Cameras: keep the last seconds in memory; written there on an alarm, on key d, on SIGUSR1.",
)
@click.option(
    "--flight-seconds", type=SecondsType(min=0.1, max=600), default=10.0, show_default=True, help="How much the flight recorder keeps."
)
@click.option(
    "--replay", type=click.Path(path_type=Path), metavar="DUMP", help="Run a dump of the flight recorder again and compare the maps."
)
@click.option(
    "--token", envvar="DKCAM_TOKEN", help="What the live page asks for; needed at any address but this machine's own. Or DKCAM_TOKEN."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="The same, from a file.")
@click.option("--log", "log_kind", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Messages on stderr.")
@click.option("-v", "--verbose", is_flag=True, help="Say more.")
@config_option
@grid_options
@engine_options
@version_option
@user_errors
def main(
    model: Path | None,
    cameras: tuple[int, ...],
    sources: tuple[str, ...],
    sinks: tuple[str, ...],
    headless: bool,
    rules_file: Path | None,
    replay: Path | None,
    token: str | None,
    token_file: Path | None,
    log_kind: str,
    verbose: bool,
    rotate: Any,
    flight_recorder: Path | None,
    camera_memory: int,
    follow_redirects: bool,
    provider_options: tuple[tuple[str, str], ...],
    **given: Any,
) -> None:
    """Draw a model's Grad-CAM heatmaps over frames, live or from files."""
    logs.configure(log_kind, verbose=verbose)
    from dkcam.errors import SinkError, SourceError
    from dkcam.runtime.kernels import is_native, native_module, why_not_native
    from dkcam.runtime.live.stream import Limits
    from dkcam.runtime.overlay import check_style
    from dkcam.runtime.recording import Rotation
    from dkcam.runtime.sources import is_live
    from dkcam.tools.run.shared import RunOptions, check_places, is_page

    check_style(given["alpha"], given["colormap"], given["layout"])
    uris = [*(str(number) for number in cameras), *sources] or ([] if replay else ["0"])
    wanted = list(sinks) or (["null:"] if headless or replay else ["window:"])
    if headless and "window:" in wanted:
        raise SinkError("--headless and --sink window: contradict each other; leave one out")
    dump = _dump(replay, uris)
    live = bool(uris) and all(is_live(uri) for uri in uris)
    if not live and any(is_live(uri) for uri in uris):
        raise SourceError("cameras never end, so files beside them would never be read; give cameras alone, or files only")
    if live and len(set(uris)) < len(uris):
        raise SourceError("a camera is given twice; give each source once")
    if not is_native():
        logs.say("note", f"OpenCV does the per-frame work, slower: {why_not_native()}")
    elif verbose:
        logs.say("info", f"per-frame work: C++ kernels, {native_module().__file__}")
    options = RunOptions(
        model=_model(model, dump),
        sources=tuple(uris),
        sinks=tuple(wanted),
        rules=_rules(rules_file),
        token=_token(token, token_file),
        rotation=Rotation(*rotate) if rotate else None,
        flight_folder=flight_recorder,
        limits=Limits(camera_memory, follow_redirects),
        provider_options=dict(provider_options),
        **given,
    )
    inputs = {options.model: "the model"} | {Path(uri): "the source" for uri in uris} | ({replay: "the dump"} if replay else {})
    check_places(inputs, wanted, len(uris))
    if dump is not None:
        if options.loop:
            raise SourceError("--loop is for files; a --replay compares once")
        from dkcam.tools.run.replay import run_replay

        held = run_replay(options, dump)
    elif live:
        from dkcam.tools.run.live import run_live

        if options.loop:
            raise SourceError(f"--loop is for files, and {uris[0]} is a camera, which never ends")
        held = run_live(options)
    else:
        from dkcam.tools.run.files import run_files

        several = any("{camera}" in uri for uri in wanted)
        cameras_only = {"--rotate": rotate, "--flight-recorder": flight_recorder, "--wait": options.wait, "{camera} in --sink": several}
        for flag, asked in cameras_only.items():
            if asked:
                raise SourceError(f"{flag} is for cameras, and {uris[0]} is a file")
        growing = [uri for uri in wanted if options.loop and uri not in ("window:", "null:") and not is_page(uri)]
        if growing:
            raise SinkError(f"--loop goes on without end, and {growing[0]} would grow with it; leave one of them out")
        held = run_files(options)
    if not held:
        sys.exit(3)


def entry() -> None:
    """dk-run as a process of its own."""
    run_and_leave(main)


def _model(model: Path | None, dump: Any) -> Path:
    from dkcam.runtime.explainer import DEMO_MODEL

    if model is not None:
        return model
    if dump is not None and Path(dump.model).is_file():
        return Path(dump.model)
    model = Path("model.onnx") if Path("model.onnx").is_file() else DEMO_MODEL
    logs.say("info", f"model: {'the bundled demo model' if model == DEMO_MODEL else model} (--model chooses another)")
    return model


def _dump(replay: Path | None, uris: list[str]) -> Any:
    from dkcam.errors import SourceError
    from dkcam.runtime.live.flight import Replay

    if replay is None:
        return None
    if uris:
        raise SourceError("--replay is a source of its own; leave --camera and --source out")
    return Replay(replay)


def _rules(path: Path | None) -> Any:
    if path is None:
        return None
    from dkcam.tools.checks.rules import read_rules

    return read_rules(path)


def _token(token: str | None, path: Path | None) -> str | None:
    from dkcam.errors import SinkError
    from dkcam.files import read_file

    if path is not None:
        if token is not None:
            raise SinkError("--token and --token-file are both given; leave one out")
        token = read_file(path, "a file with the page's token", SinkError, most=4096, secret=True).decode("utf-8", "replace").strip()
    if token is not None and not token.strip():
        raise SinkError("the token is empty; give one, such as that of: openssl rand -hex 16")
    if token is not None and len(token.strip()) < SHORTEST_TOKEN:
        raise SinkError(
            f"the token has {len(token)} characters, which can be guessed; expected 16 or more, such as of: openssl rand -hex 16"
        )
    return token
