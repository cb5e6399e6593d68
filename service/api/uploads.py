"""Reads images from a request's body: the raw bytes of one image, or the `file` parts of a multipart form.

Nothing is ever written to disk: parts stay in memory, bounded by the limit on bodies.
"""

import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.api.body import in_time, read_body, refuse_encoded
from service.api.json_body import JSON_TYPE, image_from_json
from service.errors import (
    BadParameterError,
    EmptyBodyError,
    MalformedBodyError,
    TooManyImagesError,
    UnsupportedImageError,
)
from service.image_header import looks_like, sniff
from service.pipeline import Upload
from service.scheduler import Deadline
from service.server.headers import header
from service.server.presence import while_connected

FIELD = "file"
IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif")
# The default of curl --data-binary, which says nothing about the content.
CURL_DEFAULT_TYPE = "application/x-www-form-urlencoded"


class Uploads(NamedTuple):
    """The images of a request, in their order; `several` says whether the response is a list."""

    images: Sequence[Upload]
    several: bool


#: Calls a function with a JSON body, in a thread if it is large; `Pipeline.parse_document` of a network and a deadline.
Parse = Callable[[Callable[[bytes], bytes], bytes], Coroutine[Any, Any, bytes]]


async def read_uploads(request: Request, deadline: Deadline, parse: Parse, *, max_images: int) -> Uploads:
    """Reads the images of a request.

    Args:
        request: The request, whose body has not been read yet.
        deadline: The request's deadline, which also bounds slow uploads.
        parse: Parses a JSON body.
        max_images: Most parts of a multipart body.

    Raises:
        EmptyBodyError: The body is empty, or has no part called `file`.
        MalformedBodyError: The multipart body cannot be parsed.
        BadParameterError: A part has a different name.
        TooManyImagesError: There are more than `max_images` parts.
        BodyTooLargeError: The body has more bytes than the middleware allows.
        UploadTimeoutError: The body was not complete in time.
        UnsupportedEncodingError: The body is compressed.
        UnsupportedImageError: The body is not an image, and was probably sent by `curl -d`.
        OverloadedError: Too many large JSON bodies wait to be parsed.
        DeadlineExceededError: A JSON body was not parsed in time.
        ClientDisconnect: The client disconnected meanwhile.
    """
    refuse_encoded(request)
    declared = header(request.scope, b"content-type")
    kind = _media_type(declared)
    if kind == "multipart/form-data":
        return await in_time(_read_multipart(request, max_images), deadline)
    data = await read_body(request, deadline)
    if kind == JSON_TYPE:
        data = await while_connected(request, parse(image_from_json, data))
        return Uploads([Upload(data, None, "the image")], several=False)
    if not data:
        raise EmptyBodyError
    if kind == CURL_DEFAULT_TYPE and sniff(data) is None:  # most likely curl -d, which declares this type
        raise UnsupportedImageError(
            f"The content seems to be {looks_like(data)}.", remedy=UnsupportedImageError.curl_remedy
        )
    return Uploads([Upload(data, image_type(declared), "the body")], several=False)


async def read_one(request: Request, deadline: Deadline, parse: Parse) -> Upload:
    """Reads the only image of a request; see `read_uploads`."""
    return (await read_uploads(request, deadline, parse, max_images=1)).images[0]


async def _read_multipart(request: Request, max_images: int) -> Uploads:
    parser = InMemoryParser(request.headers, request.stream(), max_files=max_images, max_fields=max_images)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooManyImagesError(max_images) from None
        raise MalformedBodyError(f"The multipart body cannot be parsed: {error.message.rstrip('.')}.") from None
    try:
        return await _parts(form)
    finally:
        await form.close()


async def _parts(form: FormData) -> Uploads:
    images = []
    for number, (field, value) in enumerate(form.multi_items(), 1):
        if field != FIELD:
            raise BadParameterError(
                field,
                f"The multipart body has a part called {field[:40]!r}.",
                remedy=f"Send each image as a part called `{FIELD}`; options go into the query: ?top_k=3.",
            )
        if not isinstance(value, UploadFile):
            raise BadParameterError(
                field,
                f"Part {number} of the multipart body is text, not a file.",
                remedy="Give it a file name, as curl -F file=@photo.jpg does.",
            )
        images.append(Upload(await value.read(), image_type(value.content_type), f"image {number}"))
    if not images:
        raise EmptyBodyError(f"The multipart body has no part called `{FIELD}`.")
    if len(images) == 1 and not images[0].data:
        raise EmptyBodyError("The file in the multipart body is empty.")
    return Uploads(images, several=len(images) > 1)


class InMemoryParser(MultiPartParser):
    """Starlette's parser without temporary files, so that a client's image is never stored, not even briefly.

    A truncated body is rejected; Starlette would drop the incomplete part and return those before it.
    """

    spool_max_size = sys.maxsize
    _open = False  # between the first boundary and the last

    def on_part_begin(self) -> None:
        """Called at each boundary except the last."""
        self._open = True
        super().on_part_begin()

    def on_end(self) -> None:
        """Called at the last boundary."""
        self._open = False

    async def parse(self) -> FormData:
        """Parses the body; see Starlette's parser.

        Raises:
            MultiPartException: The body cannot be parsed, or ends too early.
        """
        try:
            form = await super().parse()
        except UnicodeError:  # of codecs such as `undefined` and `idna`
            raise MultiPartException("its names are not in its charset") from None
        if self._open:
            for file in self._files_to_close_on_error:  # the file of the incomplete part is not in the form
                file.close()
            raise MultiPartException("it ends before its last boundary")
        return form


def _media_type(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def image_type(content_type: str | None) -> str | None:
    """The declared type; None if the client declared nothing meaningful."""
    media_type = _media_type(content_type)
    return None if media_type in ("", CURL_DEFAULT_TYPE) else media_type


def request_body(*, several: bool = True) -> dict[str, Any]:
    """The OpenAPI description of a body for `read_uploads` or, for a single image, `read_one`."""
    image: dict[str, Any] = {"type": "string", "format": "binary"}
    field = {"type": "array", "items": image, "minItems": 1} if several else image
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: field}}
    text = {"type": "string", "format": "byte", "description": "The image file in base64."}
    document = {"type": "object", "required": ["image"], "properties": {"image": text}, "additionalProperties": False}
    content: dict[str, Any] = {kind: {"schema": image} for kind in (*IMAGE_TYPES, "application/octet-stream")}
    many = f" For several parts called `{FIELD}`, the response is a list in their order." if several else ""
    return {
        "requestBody": {
            "required": True,
            "description": f"The bytes of an image, or a multipart form.{many} Images are never stored or logged.",
            "content": {**content, "multipart/form-data": {"schema": form}, JSON_TYPE: {"schema": document}},
        }
    }
