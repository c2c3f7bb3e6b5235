"""What a file's metadata says: names of classes and the picture's size, as Ultralytics writes them.

These are texts of strangers: they are read by patterns and never evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

MOST_LABELS = 1 << 16
LONGEST = 4 << 20  # characters of all names
_TEXT = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_PAIR = re.compile(rf"\s*(\d{{1,6}})\s*:\s*({_TEXT})\s*")
_ITEM = re.compile(rf"\s*({_TEXT})\s*")
_SIZE = re.compile(r"\s*[\[(]?\s*(\d{1,5})\s*(?:[,xX ]\s*(\d{1,5}))?\s*[\])]?\s*")


def labels_of(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Of ``names``: "{0: 'person', 1: 'car'}" or "['person', 'car']". None where there are none or they cannot be read."""
    text = metadata.get("names", "").strip()
    if not 2 < len(text) <= LONGEST or text[0] + text[-1] not in ("{}", "[]"):
        return None
    found: dict[int, str] = {}
    position, end = 1, len(text) - 1
    pattern = _PAIR if text[0] == "{" else _ITEM
    while position < end:
        match = pattern.match(text, position, end)
        if match is None or len(found) >= MOST_LABELS:
            return None
        index = int(match[1]) if pattern is _PAIR else len(found)
        if index >= MOST_LABELS:
            return None
        try:
            found[index] = str(ast.literal_eval(match[match.lastindex or 0]))  # one quoted text, nothing else
        except (ValueError, SyntaxError):
            return None
        position = match.end()
        if position < end and text[position] != ",":
            return None
        position += 1
    return tuple(found.get(index, f"class {index}") for index in range(max(found) + 1)) if found else None


def size_of(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) of ``imgsz``: "[480, 640]" or "640"."""
    match = _SIZE.fullmatch(metadata.get("imgsz", ""))
    if match is None:
        return None
    return int(match[1]), int(match[2] or match[1])
