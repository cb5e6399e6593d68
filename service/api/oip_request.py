"""Requests of the Open Inference Protocol: from a body to images and requested outputs.

A request is a JSON document. With the binary tensor extension, the tensors' data follow the document, whose length is
then in the header `Inference-Header-Content-Length`. A model accepts one of two inputs:

* `image`, UINT8 [N,H,W,3]: pixels of exactly the network's input size;
* `encoded_image`, BYTES [N]: image files, preprocessed as in `/classify` and `/depth`. In JSON they are base64.
"""

import base64
import binascii
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from service.api.json_body import document_of
from service.card import Card
from service.errors import BadTensorError, EmptyBodyError, MalformedBodyError, TooManyImagesError
from service.pipeline import Upload

HEADER_LENGTH = "inference-header-content-length"
IMAGE, ENCODED = "image", "encoded_image"

Parameters = dict[str, StrictBool | StrictInt | StrictFloat | StrictStr] | None
#: MLServer's codecs add `content_type`; it is ignored, because the tensor's datatype says the same.
_OF_INPUTS = ("binary_data_size", "content_type")
_SHOWN = 40


class InputTensor(BaseModel):
    """One input."""

    name: Annotated[str, Field(json_schema_extra={"enum": [IMAGE, ENCODED]})]
    shape: Annotated[list[Annotated[StrictInt, Field(ge=0, le=2**31)]], Field(max_length=8)]
    datatype: Annotated[
        str,
        Field(
            description="`UINT8` for `image`, `BYTES` for `encoded_image`.",
            json_schema_extra={"enum": ["UINT8", "BYTES"]},
        ),
    ]
    parameters: Annotated[
        Parameters, Field(description="`binary_data_size`: number of bytes of its data after the document.")
    ] = None
    data: Annotated[
        Any,
        Field(
            description="The values in row-major order, nested or flat; for `encoded_image`, one base64 file per "
            "element. Omitted if the data follow the document.",
            json_schema_extra={"type": "array"},
        ),
    ] = None


class RequestOutput(BaseModel):
    """One requested output, `$request_output` in the protocol."""

    name: str
    parameters: Annotated[
        Parameters,
        Field(
            description="`binary_data`: whether its data follow the document. `classification`: number of best classes "
            "to return, as `value:index:name`."
        ),
    ] = None


class InferRequest(BaseModel):
    """The document of a request."""

    model_config = ConfigDict(extra="ignore")  # clients send more, such as the model's name

    id: Annotated[str | None, Field(max_length=256, description="Returned in the response.")] = None
    parameters: Annotated[
        Parameters,
        Field(
            description="`variant`: the variant to run. `timeout`: timeout of the request, microseconds. "
            "`binary_data_output`: whether the data of all outputs follow the document."
        ),
    ] = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[RequestOutput] | None, Field(max_length=16)] = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed request.

    Attributes:
        document: The JSON document.
        tail: The binary tensor data that followed the document.
    """

    document: InferRequest
    tail: memoryview

    def parameter(self, name: str) -> object:
        """A parameter of the request; None if it was not sent."""
        return (self.document.parameters or {}).get(name)


def parse(body: bytes, header_length: str | None) -> Parsed:
    """Parses a body.

    Args:
        body: The decompressed body of the request.
        header_length: The header `Inference-Header-Content-Length`, if it was sent.

    Raises:
        EmptyBodyError: The body is empty.
        MalformedBodyError: The document's length is not a number, or exceeds the body.
        BadTensorError: The document is not JSON, or not a valid request.
    """
    if not body:
        raise EmptyBodyError(remedy="Send a document with `inputs`; GET /v2/models/MODEL names them.")
    length = len(body)
    if header_length is not None:
        known = header_length.isascii() and header_length.isdecimal() and len(header_length) < len(str(2**63))
        if not known or int(header_length) > length:
            raise MalformedBodyError(
                f"Inference-Header-Content-Length is {header_length[:_SHOWN]!r}, but the body has {length} bytes.",
                remedy="Send the length of the JSON document, bytes; the tensors' data follow it.",
            )
        length = int(header_length)
    return Parsed(document_of(body[:length], InferRequest, _refusal), memoryview(body)[length:])


def _refusal(error: ValidationError) -> BadTensorError:
    findings = error.errors(include_url=False, include_context=False, include_input=False)[:3]
    sentences = [f"{'.'.join(map(str, item['loc'])) or 'The document'}: {item['msg']}." for item in findings]
    return BadTensorError(" ".join(sentences))


def check_parameters(given: Parameters, known: Sequence[str], *, of: str) -> None:
    """Rejects parameters without effect, as the protocol allows, so that a misspelt one does not go unnoticed.

    Args:
        given: The parameters of a request, or of one of its tensors.
        known: Parameters that have an effect, or that clients add by themselves.
        of: What the parameters belong to, for the error message.

    Raises:
        BadTensorError: There is an unknown parameter.
    """
    unknown = next((name for name in given if name not in known), None) if given else None
    if unknown is None:
        return
    if unknown.startswith("shared_memory"):
        raise BadTensorError(
            "Shared memory is not supported.", remedy="Send the data in the request, and read them from the response."
        )
    raise BadTensorError(
        f"There is no parameter {unknown[:_SHOWN]!r} of {of}.", remedy=f"Known parameters: {', '.join(known)}."
    )


def images(parsed: Parsed, card: Card, max_images: int) -> list[Upload] | npt.NDArray[np.uint8]:
    """The images of a request.

    Args:
        parsed: The request.
        card: The card of the model to run.
        max_images: Most images in one request.

    Returns:
        Image files, or uint8 [N, H, W, 3] of the network's input size.

    Raises:
        BadTensorError: There is not exactly one input of the model, or its data do not match its type and shape.
        TooManyImagesError: There are more than `max_images` images.
    """
    if len(parsed.document.inputs) > 1:
        raise BadTensorError(
            "The request has several inputs.",
            remedy=f"Send `{IMAGE}` or `{ENCODED}`; several images go into one tensor.",
        )
    tensor = parsed.document.inputs[0]
    kinds = {IMAGE: "UINT8", ENCODED: "BYTES"}
    if tensor.name not in kinds:
        raise BadTensorError(
            f"The model has no input {tensor.name[:_SHOWN]!r}.", remedy=f"It accepts {IMAGE} or {ENCODED}."
        )
    if tensor.datatype != kinds[tensor.name]:
        raise BadTensorError(
            f"The input {tensor.name} is {kinds[tensor.name]}, not {tensor.datatype[:_SHOWN]!r}.",
            remedy="GET /v2/models/MODEL lists the type of each input.",
        )
    raw = _tail(parsed, tensor)
    if tensor.name == IMAGE:
        _check_shape(tensor, card, max_images)
        return _pixels(tensor, raw)
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]) or tensor.shape[0] < 1:
        raise BadTensorError(f"The input {ENCODED} has the shape {tensor.shape}; it must be [N] or [N, 1] with N >= 1.")
    count = tensor.shape[0]
    if count > max_images:
        raise TooManyImagesError(max_images, count)
    files = list(_from_base64(tensor) if raw is None else _elements(raw))
    if len(files) != count:
        raise BadTensorError(f"The input {ENCODED} has the shape {tensor.shape} and {len(files)} elements.")
    return [Upload(data, None, f"image {number}") for number, data in enumerate(files, 1)]


def _tail(parsed: Parsed, tensor: InputTensor) -> memoryview | None:
    """The binary data of a tensor after the document; None if its data are in the document."""
    check_parameters(tensor.parameters, _OF_INPUTS, of=f"the input {tensor.name}")
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise BadTensorError(f"The input {tensor.name} has no data.", remedy="Send `data`, or `binary_data_size`.")
        if len(parsed.tail):
            raise BadTensorError(f"{len(parsed.tail)} bytes follow the document, but no input has a binary_data_size.")
        return None
    if tensor.data is not None:
        raise BadTensorError(f"The input {tensor.name} has both `data` and `binary_data_size`.")
    if isinstance(size, bool) or not isinstance(size, int) or size != len(parsed.tail):
        raise BadTensorError(
            f"The input {tensor.name} has binary_data_size {str(size)[:_SHOWN]}, but {len(parsed.tail)} bytes follow.",
            remedy="Set binary_data_size and Inference-Header-Content-Length to the actual lengths, bytes.",
        )
    return parsed.tail


def _check_shape(tensor: InputTensor, card: Card, max_images: int) -> None:
    rows = [card.input.height, card.input.width, 3]
    if len(tensor.shape) != 4 or tensor.shape[1:] != rows or tensor.shape[0] < 1:
        raise BadTensorError(
            f"The input {IMAGE} has the shape {tensor.shape}; {card.name} accepts [N, {', '.join(map(str, rows))}], "
            "N >= 1: rows, columns and RGB at the network's input size.",
            remedy=f"Scale the pixels to that size, or send the file itself as {ENCODED}.",
        )
    if tensor.shape[0] > max_images:
        raise TooManyImagesError(max_images, tensor.shape[0])


def _pixels(tensor: InputTensor, raw: memoryview | None) -> npt.NDArray[np.uint8]:
    """The pixels of the input `image`: uint8 of the tensor's shape."""
    size = math.prod(tensor.shape)
    if raw is not None:
        if len(raw) != size:
            raise BadTensorError(
                f"The input {IMAGE} of shape {tensor.shape} has {size} bytes, but {len(raw)} were sent."
            )
        return np.frombuffer(raw, np.uint8).reshape(tensor.shape)
    values = _whole_numbers(tensor.data, size)
    if values is None:
        raise BadTensorError(
            f"The data of the input {IMAGE} are not {size} whole numbers, as its shape {tensor.shape} requires.",
            remedy="Send them in row-major order, nested or flat.",
        )
    try:
        pixels = bytes(values)
    except ValueError:
        raise BadTensorError(f"The data of the input {IMAGE} are not all within 0 .. 255.") from None
    return np.frombuffer(pixels, np.uint8).reshape(tensor.shape)


def _whole_numbers(data: object, size: int) -> list[int] | None:
    """The numbers of a list that may be nested, in order; None unless they are `size` whole numbers in even rows.

    The types are checked before any array is built: NumPy gives every element the size of the longest text, so that
    one text of 1 MB among a million numbers takes terabytes. Each level of nesting is one pass in C.
    """
    level = data
    while isinstance(level, list) and 0 < len(level) <= size:
        kinds = set(map(type, level))
        if kinds == {int}:  # a bool is none, unlike for isinstance
            return level if len(level) == size else None
        if kinds != {list} or len(set(map(len, level))) != 1 or len(level) * len(level[0]) > size:
            return None
        level = list(chain.from_iterable(level))
    return None


def _elements(raw: memoryview) -> Iterator[bytes]:
    """Yields the elements of a BYTES tensor: each is a 4-byte little-endian length, followed by the content."""
    place = 0
    while place < len(raw):
        if len(raw) - place < 4:
            raise BadTensorError(f"The data of the input {ENCODED} end within a length.")
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4
        if length > len(raw) - place:
            raise BadTensorError(
                f"An element of the input {ENCODED} declares {length} bytes, but only {len(raw) - place} are left."
            )
        yield bytes(raw[place : place + length])
        place += length


def _from_base64(tensor: InputTensor) -> Iterator[bytes]:
    data = tensor.data if isinstance(tensor.data, list) else [tensor.data]
    for element in data:
        text = element[0] if isinstance(element, list) and len(element) == 1 else element  # for the shape [N, 1]
        try:
            yield base64.b64decode(text if isinstance(text, str) else "?", validate=True)
        except (binascii.Error, ValueError):
            raise BadTensorError(
                f"The data of the input {ENCODED} are not all base64.",
                remedy="Encode each file in base64, or send it with the binary tensor extension.",
            ) from None
