"""Documents in JSON: bodies that are one object of a model, such as feedback or an experiment.

The framework would read such a body by itself, but without a deadline, and would answer whatever fails meanwhile (the
limit on bodies, a client that leaves, a document that is nested too deeply) with one and the same 400.
"""

import codecs
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from service.api.findings import malformed_json, request_error
from service.api.json_body import JSON_TYPE, refuse_doubled
from service.api.services import Services
from service.api.uploads import read_body, refuse_encoded
from service.scheduler import Deadline
from service.server.headers import header
from service.server.presence import while_connected

M = TypeVar("M", bound=BaseModel)

# Any other type is refused, also because a web page can send it to another site without asking first.
_JSON_KIND = re.compile(r"application/([^;]+\+)?json\s*(;.*)?", re.IGNORECASE)


def json_request(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a body for `read_document`; `service.api.openapi.describe` adds the model's schema."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": schema}}}}


async def read_document(request: Request, services: Services, deadline: Deadline, model: type[M]) -> M:
    """Reads a JSON object before the request's deadline, and makes it a model.

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


def _parsed(body: bytes, model: type[M]) -> M:
    body = body.removeprefix(codecs.BOM_UTF8)  # which some editors write, and RFC 8259 lets a reader ignore
    try:
        document = from_json(body)
    except ValueError as error:
        raise malformed_json(_why(body, error)) from None
    refuse_doubled(body)
    try:
        return model.model_validate(document)
    except ValidationError as error:
        findings = error.errors(include_url=False)
        raise request_error(
            [{**finding, "loc": ("body", *finding["loc"])} for finding in findings], known=model.model_fields
        ) from None


def _why(body: bytes, error: ValueError) -> str:
    """Why a body is not JSON. The parser names a place, but calls what is not even text an invalid code point."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    return str(error)
