"""Checks that an ONNX file is self-contained: weights in other files are not covered by the card's checksum.

The protobuf messages are parsed by hand, so that a service that runs only `binary` need not load `onnx`. Only message
headers are read, so this takes milliseconds whatever the size of the weights.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

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

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # wire type -> bytes

_Data = bytes | mmap.mmap


class _MalformedError(Exception):
    """The bytes are not a protobuf message. ONNX Runtime reports that with a better message."""


def has_external_data(file: Path) -> bool:
    """Whether a tensor of an ONNX file has its values in another file. False if the file is not an ONNX file.

    Raises:
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            return False  # an empty file cannot be mapped
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _is_external("ModelProto", data, 0, size)
            except _MalformedError:
                return False


def _is_external(message: str, data: _Data, start: int, end: int) -> bool:
    for number, value, length in _fields(data, start, end):
        if length is None:
            if message == "TensorProto" and (number, value) == (DATA_LOCATION, EXTERNAL):
                return True
        elif (inner := MESSAGES[message].get(number)) and _is_external(inner, data, value, value + length):
            return True
    return False


def _fields(data: _Data, at: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Yields (field number, value, None) for integers, and (field number, offset, length) for bytes."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            value, at = _varint(data, at, end)
            yield number, value, None
        elif wire_type == _BYTES:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise _MalformedError
            yield number, at, length
            at += length
        elif wire_type in _FIXED:
            at += _FIXED[wire_type]
        else:
            raise _MalformedError


def _varint(data: _Data, at: int, end: int) -> tuple[int, int]:
    """Decodes a varint (seven bits per byte); returns its value and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _MalformedError
