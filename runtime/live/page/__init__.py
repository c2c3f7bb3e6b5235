"""The live page: pictures by WebSocket and MJPEG, controls, health, metrics and an interface for single pictures."""

from dkcam.runtime.live.page.server import PageSink, check_libraries

__all__ = ["PageSink", "check_libraries"]
