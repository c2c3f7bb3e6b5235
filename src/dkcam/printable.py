"""Text of others on a terminal: labels of a model, names of files, what a camera or a library says of itself.

Terminals obey control characters: ESC ]0; renames the window, ESC [2J clears it, a carriage return writes over what stood
there, a line break forges a line, and U+202E turns the rest of it round. Here they become visible, all else stays as it is.
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1 (0x9b is ESC [ in one character); lone surrogates, which are bytes of a file name that are no UTF-8; line and
# paragraph separators; embeddings, overrides and isolates of the writing direction (the marks U+200E and U+200F only touch neighbours)
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: object) -> str:
    r"""One line that no terminal obeys: ESC becomes \x1b, a line break \n."""
    return _UNSEEN.sub(_escaped, str(text))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def json_line(value: Any) -> str:
    r"""JSON on one line, the same value to whoever parses it. ``json.dumps`` alone leaves \x7f to \x9f raw, and lone surrogates, which
    cannot be written as UTF-8.
    """
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
