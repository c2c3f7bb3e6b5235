"""Who gets a connection when many want one: those who wait longest for nothing give way.

strangers   have not shown the token, or not sent a whole request yet. An honest one needs a moment, so a new one is never refused:
            the oldest of its own address gives way, or the oldest of the address that holds most
known       have shown the token, or were asked for none. Strangers cannot take their places
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Protocol

MOST_STRANGERS = 64
MOST_KNOWN = 64
MOST_OF_ONE = 16  # strangers of one address
MOST_OF_OWN = 48  # of this machine's own


class Guest(Protocol):
    """A connection. idle: nobody would miss it now."""

    @property
    def address(self) -> str: ...
    @property
    def known(self) -> bool: ...
    @property
    def idle(self) -> bool: ...
    @property
    def gone(self) -> bool: ...

    def leave(self) -> None:
        """End it now."""
        ...


class Places:
    """All connections, in the order in which they came. For the server's event loop alone."""

    def __init__(self) -> None:
        self._guests: list[Guest] = []

    def enter(self, guest: Guest) -> None:
        """Make room for one more."""
        self._guests = [each for each in self._guests if not each.gone]
        strangers = [each for each in self._guests if not each.known]
        own = [each for each in strangers if each.address == guest.address]
        if len(own) >= most_of(guest.address):
            self._send_off(own[0])
        elif len(strangers) >= MOST_STRANGERS:
            ((crowd, _),) = Counter(each.address for each in strangers).most_common(1)
            self._send_off(next(each for each in strangers if each.address == crowd))
        known = [each for each in self._guests if each.known]
        if len(known) >= MOST_KNOWN:
            self._send_off(next((each for each in known if each.idle), known[-1]))
        self._guests.append(guest)

    def _send_off(self, guest: Guest) -> None:
        self._guests.remove(guest)
        guest.leave()


def most_of(address: str) -> int:
    return MOST_OF_OWN if address == OWN else MOST_OF_ONE


OWN = "this machine"


def place_of(host: str) -> str:
    """What counts as one address: of IPv6 a network of 64 bits, since a single client has all of it."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_loopback:
        return OWN
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
