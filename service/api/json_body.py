"""JSON bodies: the check for repeated members, and images as `{"image": "<base64>"}`.

The latter are for clients that can send only JSON; base64 makes an image a third larger.
"""

import base64
import binascii
import json

from pydantic_core import from_json

from service.errors import BadParameterError, EmptyBodyError, MalformedBodyError

JSON_TYPE = "application/json"
FIELD = "image"
_MARK = ";base64,"
_LEAST_DOUBLED = len(b'{"image":0,"image":""}')


def refuse_doubled(body: bytes) -> None:
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
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBodyError(f"The body is not JSON: {error}.") from None
    remedy = (
        f'Send {{"{FIELD}": "<base64>"}}, or the image itself with its own Content-Type; options go into the query.'
    )
    if not isinstance(document, dict):
        raise BadParameterError("body", "The JSON body is not an object.", remedy=remedy)
    unknown = next((str(name) for name in document if name != FIELD), None)
    if unknown is not None:
        raise BadParameterError(unknown[:40], f"The JSON body has an unknown member {unknown[:40]!r}.", remedy=remedy)
    text = document.get(FIELD)
    if not isinstance(text, str):
        raise BadParameterError(FIELD, f"The JSON body has no string {FIELD!r}.", remedy=remedy)
    if len(body) - len(text) >= _LEAST_DOUBLED:  # a shorter body has no room for a repeated member
        refuse_doubled(body)
    if text.startswith("data:") and _MARK in text[:200]:
        text = text.partition(_MARK)[2]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise MalformedBodyError(
            f"The string {FIELD!r} in the JSON body is not base64.",
            remedy="Encode the bytes of the image file, with padding: base64 photo.jpg.",
        ) from None
    if not data:
        raise EmptyBodyError(f"The string {FIELD!r} in the JSON body is empty.")
    return data
