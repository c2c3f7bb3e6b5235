"""How slow work tells its caller how far it has come."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str, int, int], None]  # what is being done, step, steps (0 where unknown)


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""
