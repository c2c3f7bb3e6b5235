"""What `make test` leaves to `make slow`: rare and long checks, and most members of families of which some stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

slow = pytest.mark.slow


def some(values: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Parameters, all but the quick ones marked slow."""
    return [value if value in quick else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=slow) for value in values]
