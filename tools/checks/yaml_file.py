"""YAML of strangers, as nodes: nothing in it is constructed, so a scalar is its text and no tag does anything.

Anchors and aliases are refused: nine lines of them stand for 3 GB. Rules and data.yaml have no use for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dkcam.errors import DataError
from dkcam.files import read_file

MOST_BYTES = 4 << 20
MOST_NODES = 50_000  # about 1 KB and 50 µs each: a table of 25 000 classes
DEEPEST = 20  # rules need five


def read_yaml(path: Path, expected: str) -> Any:
    """The root node, None where there is none. Errors: DataError with file, line, what came and what was expected."""
    import yaml

    class Composer(yaml.SafeLoader):
        """Composes only, and counts what it composes."""

        nodes = depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            if getattr(event, "anchor", None) is not None:
                sign = "*" if isinstance(event, yaml.AliasEvent) else "&"
                raise _refusal(
                    event, f"{sign}{str(event.anchor)[:40]} is an anchor or alias, which are not taken here; write the value out"
                )
            self.nodes += 1
            self.depth += 1
            if self.nodes > MOST_NODES:
                raise _refusal(event, f"more than {MOST_NODES} values")
            if self.depth > DEEPEST:
                raise _refusal(event, f"nested more than {DEEPEST} deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    def _refusal(event: Any, words: str) -> Exception:
        return yaml.composer.ComposerError(None, None, words, event.start_mark)

    text = read_file(path, expected, DataError, most=MOST_BYTES).decode("utf-8", errors="replace")
    try:
        return yaml.compose(text, Loader=Composer)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise DataError(f"{path}{f' line {mark.line + 1}' if mark else ''}: {problem}; expected YAML") from error
    except RecursionError as error:  # flow collections recurse in the parser, before they are composed
        raise DataError(f"{path} is nested too deeply; expected {expected}") from error


def names_of(node: Any) -> dict[int, str]:
    """Class names by number, of a list or a table of numbers with names. ValueError with the line for anything else."""
    if node.id == "sequence":
        return {number: _text(value) for number, value in enumerate(node.value)}
    if node.id != "mapping":
        raise ValueError(f"line {line_of(node)}: names is no list and no table")
    return {_number(key): _text(value) for key, value in node.value}


def value_of(node: Any, name: str) -> Any:
    """A table's value, None where it lacks the name or the node is no table."""
    pairs: Sequence[tuple[Any, Any]] = node.value if node is not None and node.id == "mapping" else ()
    return next((value for key, value in reversed(pairs) if key.id == "scalar" and key.value == name), None)


def line_of(node: Any) -> int:
    return int(node.start_mark.line) + 1


def _text(node: Any) -> str:
    if node.id != "scalar":
        raise ValueError(f"line {line_of(node)}: a name is a {'list' if node.id == 'sequence' else 'table'}, expected text")
    return str(node.value)


def _number(node: Any) -> int:
    text = node.value if node.id == "scalar" else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"line {line_of(node)}: a class's number is {text[:20]!r}, expected 0, 1, 2, …")
    return int(text)
