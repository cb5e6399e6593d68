"""JSON bodies: `document_of` parses and validates all of them, and each interface has its own errors for its findings.

The framework would read such a body by itself, but without a deadline, and would answer whatever fails meanwhile (the
limit on bodies, a client that leaves, a document that is nested too deeply) with one and the same 400.

An image may come as `{"image": "<base64>"}`, for clients that can send only JSON; base64 makes it a third larger.
"""

import base64
import binascii
import codecs
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from service.api.body import read_body, refuse_encoded
from service.api.findings import request_error
from service.api.services import Services
from service.errors import BadParameterError, EmptyBodyError, MalformedBodyError, ServiceError
from service.scheduler import Deadline
from service.server.headers import header
from service.server.presence import while_connected

M = TypeVar("M", bound=BaseModel)

JSON_TYPE = "application/json"
# Any other type is refused, also because a web page can send it to another site without asking first.
_JSON_KIND = re.compile(r"application/([^;]+\+)?json\s*(;.*)?", re.IGNORECASE)
_FIELD = "image"
_MARK = ";base64,"
_LEAST_DOUBLED = len(b'{"image":0,"image":""}')


def json_request(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body for `read_document`; `service.api.openapi.describe` adds the model's schema."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": schema}}}}


async def read_document(request: Request, services: Services, deadline: Deadline, model: type[M]) -> M:
    """Reads a JSON object, such as feedback or an experiment, before the request's deadline, and makes it a model.

    Raises:
        BodyTooLargeError: The body has more bytes than the middleware allows.
        UploadTimeoutError: The body was not complete in time.
        UnsupportedEncodingError: The body is compressed.
        MalformedBodyError: The body is not JSON.
        BadParameterError: The body is empty or not an object, or a member is repeated, missing, unknown or not valid.
        OverloadedError: Too many large bodies wait to be parsed.
        DeadlineExceededError: The body was not parsed in time.
        ClientDisconnect: The client disconnected meanwhile.
    """
    refuse_encoded(request)
    body = await read_body(request, deadline)
    if not body:
        raise request_error([{"type": "missing", "loc": ("body",)}])
    if _JSON_KIND.fullmatch(header(request.scope, b"content-type") or "") is None:
        raise request_error([{"type": "model_type", "loc": ("body",)}])
    return await while_connected(request, services.pipeline.parse_document(None, deadline, _parsed, body, model))


def document_of(body: bytes, model: type[M], refusal: Callable[[ValidationError], ServiceError]) -> M:
    """Parses and validates a JSON body.

    Args:
        body: UTF-8. A byte order mark, which some editors write, is ignored (RFC 8259, section 8.1).
        model: What the body must be.
        refusal: Makes an error of what is wrong. If the body is not JSON, that is one finding, `json_invalid`.

    Raises:
        ServiceError: The error of `refusal`.
    """
    try:
        return model.model_validate_json(body.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise refusal(error) from None


def _parsed(body: bytes, model: type[M]) -> M:
    _refuse_doubled(body)

    def refusal(error: ValidationError) -> ServiceError:
        findings = error.errors(include_url=False)
        return request_error(
            [{**finding, "loc": ("body", *finding["loc"])} for finding in findings], known=model.model_fields
        )

    return document_of(body, model, refusal)


def _refuse_doubled(body: bytes) -> None:
    """Rejects a document with repeated members, because parsers differ in which one they use (RFC 8259, section 4).

    Malformed JSON is left to the actual parser.

    Raises:
        BadParameterError: An object has two members with the same name.
    """

    def look(members: list[tuple[str, object]]) -> None:
        seen = set()
        for name, _ in members:
            if name in seen:
                raise BadParameterError(
                    name[:40], f"The JSON body has the member {name[:40]!r} more than once.", remedy="Send it once."
                )
            seen.add(name)

    try:
        json.loads(body, object_pairs_hook=look)
    except (ValueError, RecursionError):
        return


class _ImageDocument(BaseModel):
    model_config = ConfigDict(extra="forbid")

    image: str


def image_from_json(body: bytes) -> bytes:
    """The image in a JSON document.

    Args:
        body: `{"image": "<base64>"}`; the value may also be a `data:` URL. Line breaks in it are ignored.

    Raises:
        EmptyBodyError: There is no image in it.
        MalformedBodyError: The body is not JSON, or the value is not base64.
        BadParameterError: There are other or repeated members, or the value is not a string.
    """
    if not body:
        raise EmptyBodyError
    text = document_of(body, _ImageDocument, _no_image).image
    if len(body) - len(text) >= _LEAST_DOUBLED:  # a shorter body has no room for a repeated member
        _refuse_doubled(body)
    if text.startswith("data:") and _MARK in text[:200]:
        text = text.partition(_MARK)[2]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise MalformedBodyError(
            f"The string {_FIELD!r} in the JSON body is not base64.",
            remedy="Encode the bytes of the image file, with padding: base64 photo.jpg.",
        ) from None
    if not data:
        raise EmptyBodyError(f"The string {_FIELD!r} in the JSON body is empty.")
    return data


def _no_image(error: ValidationError) -> ServiceError:
    findings = error.errors(include_url=False)
    unknown = next((finding for finding in findings if finding["type"] == "extra_forbidden"), None)
    name, detail = _FIELD, f"The JSON body has no string {_FIELD!r}."
    if unknown is not None:
        name = str(unknown["loc"][0])[:40]
        detail = f"The JSON body has an unknown member {name!r}."
    elif findings[0]["type"] == "json_invalid":
        return request_error(findings)
    elif not findings[0]["loc"]:
        name, detail = "body", "The JSON body is not an object."
    remedy = (
        f'Send {{"{_FIELD}": "<base64>"}}, or the image itself with its own Content-Type; options go into the query.'
    )
    return BadParameterError(name, detail, remedy=remedy)
