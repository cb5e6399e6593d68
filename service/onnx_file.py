"""Whether an ONNX file is the whole network: its weights may lie in other files, which no checksum of the card covers.

The file is walked by hand, because a service that runs `binary` alone need not carry `onnx` in memory. Only the headers
of its messages are read, so that this takes milliseconds whatever the weights take.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

#: Message of ONNX -> number of a field -> message in it, for all that leads to a tensor.
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

#: The field of `TensorProto` that says where its values lie, and its value for another file.
DATA_LOCATION, EXTERNAL = 14, 1

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}  # wire type -> bytes

_Data = bytes | mmap.mmap


class _MalformedError(Exception):
    """The bytes are no protobuf message; ONNX Runtime will say so, and better."""


def has_external_data(file: Path) -> bool:
    """Whether a tensor of an ONNX file has its values in another file. False for what is no ONNX file.

    Raises:
        OSError: The file cannot be read.
    """
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            return False  # and cannot be mapped
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
    """Yields number, value and None of each integer, and number, begin and length of each field of bytes."""
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
    """An integer, seven bits a byte, and where it ends."""
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
