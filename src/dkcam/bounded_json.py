"""JSON of strangers. What it takes in memory is estimated before it is parsed: a megabyte of "[]," becomes 25 megabytes of lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

# bytes that CPython takes for one: a dict of a few names, a list with its first value, a number with its place, half a text (a quote)
_TABLE, _LIST, _VALUE, _QUOTE = 264, 128, 36, 30


def parse_json(data: bytes, most: int, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value. most: bytes that it may take in memory; hook: as json's object_hook, for leaving out what is not needed.

    ValueError: damaged, nested too deeply, too large once parsed, with a number of too many digits; one line.
    """
    wide = 1 if data.isascii() else 4  # one character beyond ASCII may widen all of a text
    sizes = {b"{": _TABLE, b"[": _LIST, b",": _VALUE, b'"': _QUOTE}
    taken = 2 * wide * len(data) + sum(data.count(sign) * size for sign, size in sizes.items())
    if taken > most:
        raise ValueError(f"it may take {_mib(taken)} in memory, {_mib(most)} at most")
    try:
        return json.loads(data, object_hook=hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _mib(size: int) -> str:
    return f"{max(1, size >> 20)} MiB"
