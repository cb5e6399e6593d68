"""Reads a whole body before its request's deadline, whatever is in it."""

from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from service.api.inflate import IDENTITY
from service.errors import DeadlineExceededError, UnsupportedEncodingError, UploadTimeoutError
from service.scheduler import Deadline
from service.server.headers import header

T = TypeVar("T")


async def read_body(request: Request, deadline: Deadline) -> bytes:
    """Reads a whole body before the request's deadline.

    Raises:
        BodyTooLargeError: The body has more bytes than the middleware allows.
        UploadTimeoutError: The body was not complete in time.
        ClientDisconnect: The client disconnected meanwhile.
    """
    return await in_time(_body(request), deadline)


async def in_time(reading: Awaitable[T], deadline: Deadline) -> T:
    """Awaits the reading of a body until the request's deadline.

    Raises:
        UploadTimeoutError: The body was not complete in time.
        Exception: Whatever the reading raises.
    """
    try:
        async with deadline.enforced():
            return await reading
    except DeadlineExceededError:
        raise UploadTimeoutError(deadline.timeout_s) from None


def refuse_encoded(request: Request) -> None:
    """Rejects compressed bodies: images are already compressed, so decompression is not supported.

    Raises:
        UnsupportedEncodingError: The request has a `Content-Encoding`.
    """
    encoding = header(request.scope, b"content-encoding") or ""
    if encoding.strip().lower() not in IDENTITY:
        raise UnsupportedEncodingError(encoding)


async def _body(request: Request) -> bytes:
    """Like `Request.body`, but without its generator, and without copying a body that arrives in one piece."""
    chunks = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)
