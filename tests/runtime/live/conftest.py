from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.live.camera_server import CameraServer


@pytest.fixture
def server() -> Iterator[CameraServer]:
    made = CameraServer()
    yield made
    made.kill()
