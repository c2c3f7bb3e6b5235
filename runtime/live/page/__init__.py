"""The live page: pictures by WebSocket and MJPEG, controls, health, metrics and an interface for single pictures."""

from dkcam.runtime.live.page.server import PageSink

__all__ = ["PageSink"]
