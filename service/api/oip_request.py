"""Requests of the Open Inference Protocol: from a body to images and to what is wanted of them.

A request is a JSON document; with the binary tensor extension the data of its tensors follow the document, whose length
is then in the header `Inference-Header-Content-Length`. A model takes one of two inputs:

* `image`, UINT8 [N,H,W,3]: pixels of exactly the network's size, as its graph takes them;
* `encoded_image`, BYTES [N]: files, prepared as those of `/classify` and `/depth` are. In JSON they are base64.
"""

import base64
import binascii
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from service.api.uploads import Upload
from service.card import Card
from service.errors import BadTensorError, EmptyBodyError, MalformedBodyError, TooManyImagesError

HEADER_LENGTH = "inference-header-content-length"
IMAGE, ENCODED = "image", "encoded_image"

Parameters = dict[str, StrictBool | StrictInt | StrictFloat | StrictStr] | None
#: `content_type` is what MLServer's codecs add by themselves; a tensor's datatype says the same here.
_OF_INPUTS = ("binary_data_size", "content_type")
_SHOWN = 40


class InputTensor(BaseModel):
    """One input."""

    name: Annotated[str, Field(json_schema_extra={"enum": [IMAGE, ENCODED]})]
    shape: Annotated[list[Annotated[StrictInt, Field(ge=0, le=2**31)]], Field(max_length=8)]
    datatype: Annotated[
        str,
        Field(
            description="`UINT8` for `image`, `BYTES` for the other.", json_schema_extra={"enum": ["UINT8", "BYTES"]}
        ),
    ]
    parameters: Annotated[
        Parameters, Field(description="`binary_data_size`: bytes of its data after the document.")
    ] = None
    data: Annotated[
        Any,
        Field(
            description="Row by row, nested or flat; for `encoded_image` a file in base64 each. Left out when the data "
            "follow the document.",
            json_schema_extra={"type": "array"},
        ),
    ] = None


class OutputWish(BaseModel):
    """One output that is wanted."""

    name: str
    parameters: Annotated[
        Parameters,
        Field(
            description="`binary_data`: its data follow the document. `classification`: so many best classes, as "
            "`value:index:name`."
        ),
    ] = None


class InferRequest(BaseModel):
    """The document of a request."""

    model_config = ConfigDict(extra="ignore")  # clients send more, such as the model's name

    id: Annotated[str | None, Field(max_length=256, description="Comes back in the answer.")] = None
    parameters: Annotated[
        Parameters,
        Field(
            description="`variant`: which network runs. `timeout`: time that the request has, microseconds. "
            "`binary_data_output`: all outputs follow the document."
        ),
    ] = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=2)]
    outputs: Annotated[list[OutputWish] | None, Field(max_length=16)] = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request, taken apart.

    Attributes:
        document: What was asked.
        tail: What followed the document: data of tensors.
    """

    document: InferRequest
    tail: memoryview

    def parameter(self, name: str) -> object:
        """A parameter of the request; None where it was not given."""
        return (self.document.parameters or {}).get(name)


def parse(body: bytes, header_length: str | None) -> Parsed:
    """Takes a body apart.

    Args:
        body: Of the request, decompressed.
        header_length: The header `Inference-Header-Content-Length`, where it was sent.

    Raises:
        EmptyBodyError: There is none.
        MalformedBodyError: The document's length is not a number within the body.
        BadTensorError: The document is not JSON, or not a request.
    """
    if not body:
        raise EmptyBodyError(remedy="Send a document with `inputs`; GET /v2/models/MODEL names them.")
    length = len(body)
    if header_length is not None:
        known = header_length.isascii() and header_length.isdecimal() and len(header_length) < len(str(2**63))
        if not known or int(header_length) > length:
            raise MalformedBodyError(
                f"Inference-Header-Content-Length is {header_length[:_SHOWN]!r}, for a body of {length} bytes.",
                remedy="Send the length of the JSON document in bytes; what follows it are the data of the tensors.",
            )
        length = int(header_length)
    try:
        document = InferRequest.model_validate_json(body[:length])
    except ValidationError as error:
        findings = error.errors(include_url=False, include_context=False, include_input=False)[:3]
        sentences = [f"{'.'.join(map(str, item['loc'])) or 'The document'}: {item['msg']}." for item in findings]
        raise BadTensorError(" ".join(sentences)) from None
    return Parsed(document, memoryview(body)[length:])


def check_parameters(given: Parameters, known: Sequence[str], *, of: str) -> None:
    """Refuses parameters that would have no effect, as the protocol lets a server do: a misspelt one is not lost.

    Args:
        given: Of a request, or of one of its tensors.
        known: Those that have an effect, or that clients send by themselves.
        of: Whose they are, for the error.

    Raises:
        BadTensorError: There is another one.
    """
    unknown = next((name for name in given if name not in known), None) if given else None
    if unknown is None:
        return
    if unknown.startswith("shared_memory"):
        raise BadTensorError(
            "Shared memory is not supported.", remedy="Send data with the request, and take them with the answer."
        )
    raise BadTensorError(
        f"There is no parameter {unknown[:_SHOWN]!r} of {of}.", remedy=f"There are {', '.join(known)}."
    )


def images(parsed: Parsed, card: Card, max_images: int) -> list[Upload] | npt.NDArray[np.uint8]:
    """The images of a request.

    Args:
        parsed: The request.
        card: Of the model that is to run.
        max_images: Most images of one request.

    Returns:
        Files, or uint8 [N, H, W, 3] of the network's size.

    Raises:
        BadTensorError: Not exactly one input that the model takes, or its data are not of its type and shape.
        TooManyImagesError: More than `max_images`.
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
            f"The model has no input {tensor.name[:_SHOWN]!r}.", remedy=f"It takes {IMAGE} or {ENCODED}."
        )
    if tensor.datatype != kinds[tensor.name]:
        raise BadTensorError(
            f"The input {tensor.name} is {kinds[tensor.name]}, not {tensor.datatype[:_SHOWN]!r}.",
            remedy="GET /v2/models/MODEL says which type each input has.",
        )
    raw = _tail(parsed, tensor)
    if tensor.name == IMAGE:
        _check_shape(tensor, card, max_images)
        return _pixels(tensor, raw)
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]) or tensor.shape[0] < 1:
        raise BadTensorError(f"The input {ENCODED} has the shape {tensor.shape}; it is [N] or [N, 1], N at least 1.")
    count = tensor.shape[0]
    if count > max_images:
        raise TooManyImagesError(max_images, count)
    files = list(_from_base64(tensor) if raw is None else _elements(raw))
    if len(files) != count:
        raise BadTensorError(f"The input {ENCODED} has the shape {tensor.shape} and {len(files)} elements.")
    return [Upload(data, None, f"image {number}") for number, data in enumerate(files, 1)]


def _tail(parsed: Parsed, tensor: InputTensor) -> memoryview | None:
    """The data of a tensor that follow the document; None where they are in it."""
    check_parameters(tensor.parameters, _OF_INPUTS, of=f"the input {tensor.name}")
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise BadTensorError(f"The input {tensor.name} has no data.", remedy="Send `data`, or `binary_data_size`.")
        if len(parsed.tail):
            raise BadTensorError(f"{len(parsed.tail)} bytes follow the document, and no input has a binary_data_size.")
        return None
    if tensor.data is not None:
        raise BadTensorError(f"The input {tensor.name} has both `data` and `binary_data_size`.")
    if isinstance(size, bool) or not isinstance(size, int) or size != len(parsed.tail):
        raise BadTensorError(
            f"The input {tensor.name} has binary_data_size {str(size)[:_SHOWN]}; {len(parsed.tail)} bytes follow.",
            remedy="Set binary_data_size and Inference-Header-Content-Length to what is sent, in bytes.",
        )
    return parsed.tail


def _check_shape(tensor: InputTensor, card: Card, max_images: int) -> None:
    rows = [card.input.height, card.input.width, 3]
    if len(tensor.shape) != 4 or tensor.shape[1:] != rows or tensor.shape[0] < 1:
        raise BadTensorError(
            f"The input {IMAGE} has the shape {tensor.shape}; {card.name} takes [N, {', '.join(map(str, rows))}], N at "
            "least 1: rows, columns and RGB of the network's size.",
            remedy=f"Scale the pixels to that size, or send the file itself as {ENCODED}.",
        )
    if tensor.shape[0] > max_images:
        raise TooManyImagesError(max_images, tensor.shape[0])


def _pixels(tensor: InputTensor, raw: memoryview | None) -> npt.NDArray[np.uint8]:
    """uint8 of the tensor's shape."""
    size = math.prod(tensor.shape)
    if raw is not None:
        if len(raw) != size:
            raise BadTensorError(
                f"The input {IMAGE} of the shape {tensor.shape} has {size} bytes; {len(raw)} were sent."
            )
        return np.frombuffer(raw, np.uint8).reshape(tensor.shape)
    try:
        values = np.array(tensor.data)
    except ValueError:  # lists of different lengths
        values = np.array(None)
    if values.dtype.kind not in "iu" or values.size != size:
        raise BadTensorError(
            f"The data of the input {IMAGE} are not {size} whole numbers, as its shape {tensor.shape} says.",
            remedy="Send them row by row, nested or flat.",
        )
    if values.min() < 0 or values.max() > np.iinfo(np.uint8).max:
        raise BadTensorError(f"The data of the input {IMAGE} are not all within 0 .. 255.")
    return values.astype(np.uint8).reshape(tensor.shape)


def _elements(raw: memoryview) -> Iterator[bytes]:
    """The elements of a BYTES tensor: each is its length, 4 bytes, little-endian, and its content."""
    place = 0
    while place < len(raw):
        if len(raw) - place < 4:
            raise BadTensorError(f"The data of the input {ENCODED} end within a length.")
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4
        if length > len(raw) - place:
            raise BadTensorError(
                f"An element of the input {ENCODED} is said to have {length} bytes; {len(raw) - place} are left."
            )
        yield bytes(raw[place : place + length])
        place += length


def _from_base64(tensor: InputTensor) -> Iterator[bytes]:
    data = tensor.data if isinstance(tensor.data, list) else [tensor.data]
    for element in data:
        text = element[0] if isinstance(element, list) and len(element) == 1 else element  # of the shape [N, 1]
        try:
            yield base64.b64decode(text if isinstance(text, str) else "?", validate=True)
        except (binascii.Error, ValueError):
            raise BadTensorError(
                f"The data of the input {ENCODED} are not all base64.",
                remedy="Encode each file in base64, or send it with the binary tensor extension.",
            ) from None
