"""Who gets a connection when many want one, and who has to wait after wrong tokens."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest

from dkcam.runtime.live.page import access
from dkcam.runtime.live.page.access import Guesses
from dkcam.runtime.live.page.places import MOST_KNOWN, MOST_OF_ONE, MOST_STRANGERS, OWN, Places, most_of, place_of
from tests.runtime.live.camera_server import wait_until
from tests.runtime.live.test_page import TOKEN, Feed, bearer, receive


@dataclass(eq=False)
class Guest:
    address: str
    known: bool = False
    idle: bool = True
    gone: bool = field(default=False)

    def leave(self) -> None:
        self.gone = True


def entered(places: Places, *guests: Guest) -> list[Guest]:
    for guest in guests:
        places.enter(guest)
    return list(guests)


def test_a_new_one_is_never_refused_and_who_crowds_gives_way() -> None:
    places = Places()
    honest = entered(places, Guest("10.0.0.1"))
    crowd = entered(places, *(Guest("10.0.0.66") for _ in range(1000)))
    assert not honest[0].gone and [guest.gone for guest in crowd] == [True] * (1000 - MOST_OF_ONE) + [False] * MOST_OF_ONE
    many = entered(places, *(Guest(f"10.0.{number}.1") for number in range(1, 200)))
    assert not many[-1].gone and sum(not guest.gone for guest in honest + crowd + many) == MOST_STRANGERS
    assert sum(not guest.gone for guest in crowd) <= 1  # first those of the address that held most


def test_strangers_cannot_take_the_places_of_who_is_known() -> None:
    places = Places()
    known = entered(places, *(Guest("10.0.0.1", known=True, idle=False) for _ in range(MOST_KNOWN)))
    entered(places, *(Guest(f"10.1.{k}.1") for k in range(MOST_STRANGERS)))
    assert sum(guest.gone for guest in known) == 1  # the newest: there is room for so many
    places = Places()
    watching = entered(places, Guest("10.0.0.1", known=True, idle=False))
    resting = entered(places, *(Guest("10.0.0.2", known=True) for _ in range(200)))
    assert not watching[0].gone and not resting[-1].gone and sum(not guest.gone for guest in resting) == MOST_KNOWN - 1


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("127.0.0.1", OWN),
        ("127.8.8.8", OWN),
        ("::1", OWN),
        ("::ffff:127.0.0.1", OWN),
        ("192.168.1.5", "192.168.1.5"),
        ("::ffff:192.168.1.5", "192.168.1.5"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(host: str, place: str) -> None:
    assert place_of(host) == place
    assert most_of(place) == (48 if place == OWN else 16)


def test_wrong_tokens_cost_longer_and_longer_and_are_forgotten() -> None:
    guesses = Guesses()
    waits = []
    now = 0.0
    for _ in range(access.FREE_GUESSES + 8):
        now += guesses.wait_s("guesser", now)
        guesses.wrong("guesser", now)
        waits.append(guesses.wait_s("guesser", now))
    assert waits == [0.0] * (access.FREE_GUESSES - 1) + [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert guesses.wait_s("another", now) == 0 and guesses.wait_s("guesser", now + access.FORGOTTEN_S + 1) == 0
    for number in range(5000):
        guesses.wrong(str(number), now)
    assert len(guesses._wrong) == access.MOST_GUESSERS


@pytest.fixture
def guarded(model_file: Path) -> Iterator[Feed]:
    made = Feed(model_file, token=TOKEN)
    yield made
    made.close()


class Trickle:
    """Keeps connections open on which a request's headers come a byte at a time, and opens each again that is cut."""

    def __init__(self, port: int, count: int) -> None:
        self._port, self._over, self.cut = port, threading.Event(), 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=5) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
                while not self._over.wait(0.2):
                    client.sendall(b"x")
            self.cut += 1

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_64_trickled_requests_lock_nobody_out(guarded: Feed) -> None:
    from websockets.sync.client import connect

    right = {"Authorization": bearer(TOKEN)}
    cookie = guarded.ask("POST", "/login", urlencode({"token": TOKEN}).encode())[1]["set-cookie"].split(";")[0]
    with connect(f"ws://127.0.0.1:{guarded.page.port}/live", additional_headers={"Cookie": cookie}, proxy=None) as viewer:
        receive(viewer)
        trickle = Trickle(guarded.page.port, 64)
        try:
            wait_until(lambda: trickle.cut > 10)  # more than there are places for
            took = []
            for _ in range(20):
                for path, status in (("/healthz", 200), ("/state", 200)):
                    start = time.perf_counter()
                    assert guarded.ask("GET", path, **right)[0] == status
                    took.append(time.perf_counter() - start)
            assert max(took) < 2.0, took
            held = http.client.HTTPConnection("127.0.0.1", guarded.page.port, timeout=10)  # one that is known stays
            for _ in range(3):
                held.request("GET", "/state", headers=right)
                assert held.getresponse().read()
                time.sleep(0.3)
            held.close()
            for _ in range(10):  # so does a viewer, who was there before all of them
                viewer.send("seen")
                receive(viewer)
        finally:
            trickle.close()


def test_a_wrong_token_costs_the_guesser_and_nobody_with_a_cookie(guarded: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now[0]))
    right = urlencode({"token": TOKEN}).encode()
    held = guarded.ask("POST", "/login", right)[1]["set-cookie"].split(";")[0]
    answers = [guarded.ask("POST", "/login", b"token=wrong")[0] for _ in range(access.FREE_GUESSES)]
    assert answers == [401] * access.FREE_GUESSES
    status, headers, body = guarded.ask("POST", "/login", right)  # also the right one: else nothing would be gained
    assert status == 429 and headers["retry-after"] == "1" and b"too many wrong tokens" in body
    assert guarded.ask("GET", "/state", Authorization=bearer(TOKEN))[0] == 429
    assert guarded.ask("GET", "/state", Cookie=held)[0] == 200 and guarded.ask("GET", "/healthz")[0] == 200
    now[0] += 1.1
    assert guarded.ask("POST", "/login", right)[0] == 303
