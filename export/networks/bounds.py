"""Bounds that hold before anything of an ONNX file is parsed: its nodes, and the memory that its parts take once parsed.

A megabyte of empty nodes becomes 150 megabytes of messages, and one of small whole numbers becomes 16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from dkcam.export.networks.refuse import refusal

MOST_NODES = 20_000  # those of functions, at each call, counted; the largest networks of pictures have 5 000
MOST_OF = {  # messages of a kind
    "NodeProto": (MOST_NODES, "nodes"),
    "TensorProto": (4 * MOST_NODES, "tensors"),
    "ValueInfoProto": (8 * MOST_NODES, "described values"),
    "TensorShapeProto.Dimension": (16 * MOST_NODES, "dimensions"),
    "AttributeProto": (16 * MOST_NODES, "attributes"),
}
MOST_FIELDS = 1_500_000  # of all messages: torch writes 60 a node
LARGEST = 1 << 31  # bytes of a file and of the data beside it
GROWTH = 128 << 20  # bytes that parsing may take beyond twice the file: torch's notes make it 6 500 a node

# bytes that protobuf takes for one: an empty message, a text, a number that is not packed
_MESSAGE, _TEXT, _NUMBER = 256, 40, 16

_BYTES, _FLOATS, _TEXTS, _MESSAGES = 0, -1, -2, 1000  # kinds of fields; a positive number is what a packed whole number takes
_Fields = dict[int, int]  # field -> its kind; from _MESSAGES on, which of _TABLES describes the message
_TABLES: list[_Fields] = []
_NAMES: list[str] = []  # of the messages of _TABLES


def check_parts(data: bytes, source: str) -> None:
    """Walks the messages of a ModelProto's bytes without building them. Errors: ExportError, which bound or that it is damaged."""
    most = GROWTH + 2 * len(data)
    taken = steps = 0
    stack = [0, len(data), _table(onnx.ModelProto.DESCRIPTOR)]  # flat: a million tuples would keep the garbage collector busy
    left = [MOST_OF[name][0] if name in MOST_OF else len(data) for name in _NAMES]
    try:
        while stack:
            fields, end, position = _TABLES[stack.pop()], stack.pop(), stack.pop()
            while position < end:
                key, position = _varint(data, position)
                wire = key & 7
                steps += 1
                if wire == 2:
                    size, position = _varint(data, position)
                    kind = fields.get(key >> 3, _BYTES)
                    if position + size > end:
                        raise IndexError
                    if kind >= _MESSAGES:
                        taken += _MESSAGE
                        left[kind - _MESSAGES] -= 1
                        if left[kind - _MESSAGES] < 0:
                            count, what = MOST_OF[_NAMES[kind - _MESSAGES]]
                            raise refusal(f"{source} has more than {count} {what}, which no network of pictures needs; expected fewer")
                        stack += (position, position + size, kind - _MESSAGES)
                    elif kind in (_BYTES, _TEXTS):
                        taken += _TEXT + size
                        if kind == _TEXTS:
                            data[position : position + size].decode()  # protobuf would give bytes for what is no UTF-8
                    elif kind == _FLOATS:  # of four or eight bytes each
                        taken += 2 * size
                    else:
                        taken += kind * int(np.count_nonzero(np.frombuffer(data, np.uint8, size, position) < 0x80))
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
    except (IndexError, UnicodeDecodeError):
        raise refusal(f"{source} is not a whole ONNX model: it is cut off or damaged; export it again") from None


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


def _table(descriptor: Any) -> int:
    """Where _TABLES says what the fields of a message are; those of messages inside it are entered as well."""
    name = descriptor.full_name.removeprefix("onnx.")
    if name not in _NAMES:
        _NAMES.append(name)
        _TABLES.append({})
        fields = _TABLES[-1]
        for field in descriptor.fields:
            if field.message_type is not None:
                fields[field.number] = _MESSAGES + _table(field.message_type)
            elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
                fields[field.number] = _TEXTS if field.type == field.TYPE_STRING else _BYTES
            elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
                fields[field.number] = _FLOATS
            else:
                fields[field.number] = 8 if field.type == field.TYPE_INT32 else 16
    return _NAMES.index(name)
