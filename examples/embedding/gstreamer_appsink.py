"""A GStreamer appsink: python gstreamer_appsink.py [PIPELINE] [MODEL]. Prints a line a frame.

PIPELINE ends before the sink; the default is a test picture. Needs GStreamer's Python bindings (Debian: python3-gst-1.0).
"""

from __future__ import annotations

import sys

import numpy as np

import dkcam

try:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstApp", "1.0")
    from gi.repository import GLib, Gst, GstApp  # noqa: F401
except (ImportError, ValueError) as error:
    sys.exit(f"error: {error}; install GStreamer's Python bindings (Debian: python3-gst-1.0)")

TEST = "videotestsrc num-buffers=30 ! video/x-raw,width=639,height=360"
# the newest frame only: what the explainer is too slow for is dropped here, not queued
SINK = "videoconvert ! video/x-raw,format=BGR ! appsink name=frames max-buffers=1 drop={drop} sync=false"


def frame_of(sample: Gst.Sample) -> np.ndarray:
    """uint8 [H, W, 3] BGR: a view where rows have no gap, else a copy. Valid while the sample is."""
    structure, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    height, width = structure.get_value("height"), structure.get_value("width")
    stride = (3 * width + 3) // 4 * 4  # GStreamer's rows begin at multiples of 4 bytes
    rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(height, stride)
    return np.ascontiguousarray(rows[:, : 3 * width]).reshape(height, width, 3)


def main(pipeline: str = TEST, model: str | None = None) -> None:
    Gst.init(None)
    explainer = dkcam.load(model)
    live = "src" in pipeline and "filesrc" not in pipeline and pipeline != TEST
    running = Gst.parse_launch(f"{pipeline} ! {SINK.format(drop=str(live).lower())}")
    frames = running.get_by_name("frames")
    running.set_state(Gst.State.PLAYING)
    try:
        while (sample := frames.try_pull_sample(5 * Gst.SECOND)) is not None:
            explanation = explainer(frame_of(sample))
            top = explanation.top()[0]
            print(f"{sample.get_buffer().pts / Gst.SECOND:.3f} s  {top.label}  {top.probability:.3f}  {explanation.peak()}", flush=True)
    finally:
        running.set_state(Gst.State.NULL)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        sys.exit("usage: python gstreamer_appsink.py [PIPELINE] [MODEL]")
    try:
        main(*sys.argv[1:])
    except (dkcam.DkcamError, GLib.Error) as error:  # no such model, or no such element
        sys.exit(f"error: {error}")
