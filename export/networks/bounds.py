"""Bounds that hold before anything of an ONNX file is parsed: its nodes, and the memory that its parts take once parsed.

A megabyte of empty nodes becomes 150 megabytes of messages, and one of small whole numbers becomes 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from dkcam.export.networks.refuse import refusal

MOST_NODES = 20_000  # those of functions, at each call, counted; the largest networks of pictures have 5 000
MOST_OF = {"NodeProto": MOST_NODES, "TensorProto": 4 * MOST_NODES, "ValueInfoProto": 8 * MOST_NODES, "AttributeProto": 16 * MOST_NODES}
MOST_FIELDS = 1_500_000  # of all messages: torch writes 60 a node
LARGEST = 1 << 31  # bytes of a file and of the data beside it
GROWTH = 128 << 20  # bytes that parsing may take beyond twice the file: torch's notes make it 6 500 a node

_WORDS = {"NodeProto": "nodes", "TensorProto": "tensors", "ValueInfoProto": "described values", "AttributeProto": "attributes"}

# bytes that protobuf takes for one: an empty message, a text, a number that is not packed
_MESSAGE, _TEXT, _NUMBER = 256, 40, 16

_Fields = dict[int, "int | str"]  # field -> bytes a packed number takes (0: text or bytes), or the name of a message
_TABLES: dict[str, _Fields] = {}


def check_parts(data: bytes, source: str) -> None:
    """Walks the messages of a ModelProto's bytes without building them. Errors: ExportError, which bound or that it is damaged."""
    most = GROWTH + 2 * len(data)
    taken = steps = 0
    left = {f"onnx.{name}": count for name, count in MOST_OF.items()}
    stack = [(0, len(data), _table(onnx.ModelProto.DESCRIPTOR))]
    try:
        while stack:
            position, end, fields = stack.pop()
            while position < end:
                key, position = _varint(data, position)
                wire = key & 7
                steps += 1
                if wire == 2:
                    size, position = _varint(data, position)
                    field = fields.get(key >> 3, 0)
                    if position + size > end:
                        raise IndexError
                    if isinstance(field, str):
                        taken += _MESSAGE
                        if field in left:
                            _count(left, field, source)
                        stack.append((position, position + size, _TABLES[field]))
                    elif field == 0:
                        taken += _TEXT + size
                    elif field < 0:  # of four or eight bytes each
                        taken += 2 * size
                    else:
                        taken += field * int(np.count_nonzero(np.frombuffer(data, np.uint8, size, position) < 0x80))
                    position += size
                elif wire == 0:
                    _, position = _varint(data, position)
                    taken += _NUMBER
                elif wire in (1, 5):
                    position += 8 if wire == 1 else 4
                else:
                    raise IndexError
                if taken > most or steps > MOST_FIELDS:
                    what = f"would take more than {most >> 20} MiB in memory" if taken > most else f"are more than {MOST_FIELDS} fields"
                    raise refusal(f"{source} has parts that {what}; expected a network of pictures")
            if position > end:
                raise IndexError
    except IndexError:
        raise refusal(f"{source} is not a whole ONNX model: it is cut off or damaged; export it again") from None


def _count(left: dict[str, int], field: str, source: str) -> None:
    left[field] -= 1
    if left[field] < 0:
        name = field.removeprefix("onnx.")
        raise refusal(f"{source} has more than {MOST_OF[name]} {_WORDS[name]}, which no network of pictures needs; expected fewer")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = data[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise IndexError


def _table(descriptor: Any) -> _Fields:
    """What the fields of a message are, and of those inside it."""
    found = _TABLES.get(descriptor.full_name)
    if found is None:
        found = _TABLES[descriptor.full_name] = {}
        for field in descriptor.fields:
            if field.message_type is not None:
                _table(field.message_type)
                found[field.number] = field.message_type.full_name
            elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                found[field.number] = 0
            elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
                found[field.number] = -1
            else:
                found[field.number] = 8 if field.type == field.TYPE_INT32 else 16
    return found
