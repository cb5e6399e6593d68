"""The headers of a request, looked up in the scope in which the server passes them."""

from starlette.types import Scope

_HEADERS = "bireal.headers"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name. The lookup table is built once per request and shared by all layers.

    Args:
        scope: The request's scope; servers pass header names in lower case.
        name: The header's name in lower case.
    """
    headers: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if headers is None:
        headers = scope[_HEADERS] = dict(reversed(list(scope["headers"])))  # reversed, so that the first one wins
    value = headers.get(name)
    return None if value is None else str(value, "latin-1")


def contradicts(scope: Scope, name: bytes) -> bool:
    """Whether a request repeats a header with different values.

    Args:
        scope: The request's scope.
        name: The header's name in lower case.
    """
    headers = scope["headers"]
    if len(scope.get(_HEADERS, ())) == len(headers):  # no header is repeated, as in nearly all requests
        return False
    return len({value for each, value in headers if each == name}) > 1
