"""What counts as hanging, and what does not."""

from __future__ import annotations

import logging
import time

import pytest

from dkcam.runtime.health import HANG_S, Health


@pytest.fixture(autouse=True)
def heard() -> None:
    logging.getLogger("dkcam").propagate = True


def passed(health: Health, seconds: float) -> None:
    for _ in range(round(seconds / 0.25)):
        health.tick(0.25)


def test_a_call_that_lasts_is_named_once_and_its_return_too(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    with health.busy("engine"):
        passed(health, HANG_S)
        assert health.stuck() == {} and health.stages() == {"engine": 0.0}
        passed(health, 5)
        assert health.stuck() == {"engine": HANG_S + 5}
    assert health.stuck() == {}
    passed(health, 1)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["engine hangs: no answer for 3.2 s", "engine is back, after 8.0 s"]


def test_a_model_that_is_slow_and_works_hangs_nowhere_once_that_is_known(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    for _ in range(20):
        with health.busy("engine"):
            passed(health, 2.0)
    assert not caplog.records
    for _ in range(20):
        with health.busy("engine"):
            passed(health, 5.0)
    assert len(caplog.records) <= 2 * 5  # until that is what is usual
    caplog.clear()
    with health.busy("engine"):
        passed(health, 11)
        assert set(health.stuck()) == {"engine"}
    for _ in range(20):
        with health.busy("engine"):
            passed(health, 0.25)
    with health.busy("engine"):
        passed(health, HANG_S + 0.25)
        assert set(health.stuck()) == {"engine"}  # and what is quick again is held to that


def test_one_long_hang_does_not_become_what_is_usual() -> None:
    health = Health()
    for seconds in (0.25, 0.25, 600.0):
        with health.busy("sink a.mp4"):
            passed(health, seconds)
    with health.busy("sink a.mp4"):
        passed(health, HANG_S + 0.25)
        assert set(health.stuck()) == {"sink a.mp4"}


def test_what_is_no_longer_waited_for_is_neither_stuck_nor_back(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    health.begin("camera 0 reader", "reading")
    passed(health, 4)
    health.drop("reading")
    passed(health, 4)
    assert health.stuck() == {} and [record.getMessage() for record in caplog.records] == ["camera 0 reader hangs: no answer for 3.2 s"]


def test_several_at_once_and_the_longest_counts() -> None:
    health = Health()
    first = health.begin("engine")
    passed(health, 2)
    with health.busy("engine"):
        passed(health, 2)
        assert health.stuck() == {"engine": 4.0} and list(health.inside().values()) == ["engine", "engine"]
    health.end(first)
    health.end(first)
    assert not health.inside()


def test_a_process_that_was_stopped_hangs_nowhere_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    with health.busy("engine"), health.busy("writer"):
        health.tick(60.0)
        assert health.stuck() == {}
    assert "this process did not run for 60 s" in caplog.text and "hangs" not in caplog.text


def test_time_passes_while_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health()
    with health.watched():
        end = time.monotonic() + 10
        while health._now == 0.0 and time.monotonic() < end:
            time.sleep(0.01)
    assert 0 < health._now < 10
