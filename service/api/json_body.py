"""Bodies of JSON: members that are there once, and pictures as `{"image": "<base64>"}`.

The latter are for clients that can send nothing but JSON; they are a third larger than they need be.
"""

import base64
import binascii
import json

from pydantic_core import from_json

from service.errors import BadParameterError, EmptyBodyError, MalformedBodyError

JSON_TYPE = "application/json"
FIELD = "image"
#: From here on it is taken apart in a thread: 20 MB take some 50 ms, which the event loop has not.
LARGE_BYTES = 200_000
_MARK = ";base64,"
_LEAST_DOUBLED = len(b'{"image":0,"image":""}')


def refuse_doubled(body: bytes) -> None:
    """Refuses a document in which a member stands twice: readers of JSON differ in which of the two counts (RFC 8259).

    What is no JSON is left to those who read it.

    Raises:
        BadParameterError: An object has two members of one name.
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
    """The picture in a JSON document.

    Args:
        body: `{"image": "<base64>"}`; the text may be a whole `data:` URL. Line breaks inside are passed over.

    Raises:
        EmptyBodyError: There is no picture in it.
        MalformedBodyError: It is no JSON, or the text no base64.
        BadParameterError: It has other members, or one twice, or the picture is not a text.
    """
    if not body:
        raise EmptyBodyError
    try:
        document = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise MalformedBodyError(f"The body is not JSON: {error}.") from None
    remedy = (
        f'Send {{"{FIELD}": "<base64>"}}, or the picture itself with its own Content-Type; options go into the query.'
    )
    if not isinstance(document, dict):
        raise BadParameterError("body", "The JSON body is not an object.", remedy=remedy)
    unknown = next((str(name) for name in document if name != FIELD), None)
    if unknown is not None:
        raise BadParameterError(unknown[:40], f"The JSON body has a member {unknown[:40]!r}.", remedy=remedy)
    text = document.get(FIELD)
    if not isinstance(text, str):
        raise BadParameterError(FIELD, f"The JSON body has no text {FIELD!r}.", remedy=remedy)
    if len(body) - len(text) >= _LEAST_DOUBLED:  # else there is no room for two, and all of it need not be read again
        refuse_doubled(body)
    if text.startswith("data:") and _MARK in text[:200]:
        text = text.partition(_MARK)[2]
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise MalformedBodyError(
            f"The text {FIELD!r} of the JSON body is not base64.",
            remedy="Encode the bytes of the picture's file, with padding: base64 photo.jpg.",
        ) from None
    if not data:
        raise EmptyBodyError(f"The text {FIELD!r} of the JSON body is empty.")
    return data
