from __future__ import annotations

import json
import unicodedata

import pytest

from dkcam.printable import json_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("stop\nerror: forged\r", r"stop\nerror: forged\r"),
        ("a\tb\x00\x7f", r"a\tb\x00\x7f"),
        ("sign\u202egpj.exe", r"sign\u202egpj.exe"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_a_terminal_obeys_becomes_visible(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text", ["Vorfahrt gewähren – Straße", "止まれ", "قف", "עצור", "👨‍👩‍👧 🇩🇪", "стоп", "C:\\n\\x1b", "cafe\u0301", ""]
)
def test_labels_of_any_language_stay_as_they_are(text: str) -> None:
    assert printable(text) == text and json_line(text) == json.dumps(text, ensure_ascii=False)


def test_no_control_character_is_left() -> None:
    everything = "".join(map(chr, range(0x110000)))
    assert not [c for c in printable(everything) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not [c for c in json_line(everything) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]


def test_json_says_the_same_in_one_line_of_utf_8() -> None:
    value = {"label\x9b": ["\x1b]0;x\x07", "\x7f", "\u2028", "é", "\udcff", "\\u0041", 1.5, None]}
    line = json_line(value)
    assert json.loads(line) == value and len(line.encode().splitlines()) == len(line.splitlines()) == 1
