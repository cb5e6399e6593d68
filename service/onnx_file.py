"""Checks that an ONNX file is self-contained: weights in other files are not covered by the card's checksum.

The protobuf messages are parsed by hand, so that a service that runs only `binary` need not load `onnx`. Only message
headers are read, so this takes milliseconds whatever the size of the weights.
"""

from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, NamedTuple

#: ONNX message -> field number -> message in that field, for all fields that lead to a tensor.
MESSAGES: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {},
}

#: The field of `TensorProto` that says where its values are stored, and its value for an external file.
DATA_LOCATION, EXTERNAL = 14, 1

#: Levels of messages inside the outermost one. Protobuf, and so ONNX Runtime, reads no more by default.
MAX_NESTING = 100

_VARINT, _BYTES, _GROUP, _GROUP_END = 0, 2, 3, 4
_FIXED = {1: 8, 5: 4}  # wire type -> bytes
_32_BITS = 0xFFFF_FFFF  # protobuf reads tags and enumerations as varints and keeps this much of them


class NotOnnxError(Exception):
    """The bytes are not a message that protobuf would read, so nothing can be said about where the weights are."""


class _Open(NamedTuple):
    """A message, or an unknown group within one, that is being read.

    Attributes:
        message: The message's type, or None in a group, whose fields are all skipped.
        end: Offset after the message; of a group, the end of the message around it.
        group: The group's field number, which its end repeats; 0 for a message.
    """

    message: str | None
    end: int
    group: int = 0


def has_external_data(file: Path) -> bool:
    """Whether a tensor of an ONNX file has its values in another file.

    Raises:
        OSError: The file cannot be read.
        NotOnnxError: The file is not an ONNX file.
    """
    with file.open("rb") as stream:  # not mapped: a file that is cut short while it is mapped kills the process
        return _is_external(stream, stream.seek(0, SEEK_END))


def _is_external(stream: BinaryIO, size: int) -> bool:
    at = 0
    opened = [_Open("ModelProto", size)]  # a stack rather than recursion, which a hostile file could exhaust
    while opened:
        message, end, group = opened[-1]
        if at == end and not group:
            opened.pop()
            continue
        tag, at = _varint(stream, at, end)
        number, wire_type = (tag & _32_BITS) >> 3, tag & 7
        if wire_type == _VARINT:
            value, at = _varint(stream, at, end)
            if message == "TensorProto" and (number, value & _32_BITS) == (DATA_LOCATION, EXTERNAL):
                return True
        elif wire_type == _GROUP_END and number == group:
            opened.pop()
        elif wire_type == _GROUP:
            _push(opened, _Open(None, end, number))
        elif wire_type == _BYTES:
            length, at = _varint(stream, at, end)
            inner = MESSAGES[message].get(number) if message else None
            if inner and length <= end - at:
                _push(opened, _Open(inner, at + length))
            else:
                at += length
        else:
            at += _FIXED.get(wire_type, size + 1)
        if number == 0 or at > end:
            raise NotOnnxError("its bytes are not a protobuf message")
    return False


def _push(opened: list[_Open], item: _Open) -> None:
    if len(opened) > MAX_NESTING:
        raise NotOnnxError(f"its messages are nested more than {MAX_NESTING} levels deep")
    opened.append(item)


def _varint(stream: BinaryIO, at: int, end: int) -> tuple[int, int]:
    """Decodes a varint (seven bits per byte); returns its value and the offset after it."""
    stream.seek(at)
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1) if at < end else b""
        if not byte:
            break
        at += 1
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value, at
    raise NotOnnxError("its bytes are not a protobuf message")
