"""Lingering close: keeps reading for a while after a request was refused, so that the client sees the response.

If a server closes a connection with unread bytes, the client's system discards the response too, and the client sees
"connection reset" instead of 413. If it reads to the end, as servers that keep the connection do, a client can send
forever. The "lingering close" of older servers is in between: send the response with `Connection: close`, discard
what still arrives up to a limit in bytes and in time, then close the connection.

A small body is on its way or there already, and costs less to discard than a new connection. It is discarded before the
response is sent, so that the connection can be kept.
"""

import asyncio
import contextlib
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.server.headers import header

#: Limits on what a refused client may still send, bytes and seconds: enough for most clients to finish.
LINGER_BYTES = 64_000_000
LINGER_S = 10.0

#: Largest declared length of a body that is discarded before the response, and how long the response waits for it.
SMALL_BYTES = 1_000_000
SMALL_S = 0.5

_MOST_DIGITS = 20


class LingeringClose:
    """The outermost layer: bounds what is read after a response that precedes the end of the request's body.

    Args:
        app: The inner application.
        max_bytes: Most bytes to discard.
        max_s: Longest time to spend on discarding, seconds.
        small_bytes: Largest declared length of a body that is discarded before the response.
        small_s: Longest time for which the response waits for such a body, seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_s: float,
        small_bytes: int = SMALL_BYTES,
        small_s: float = SMALL_S,
    ) -> None:
        self._app, self._max_bytes, self._max_s = app, max_bytes, max_s
        self._small_bytes, self._small_s = small_bytes, small_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        unread = True
        closing = False

        async def watch() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            nonlocal closing
            if message["type"] == "http.response.start" and unread:
                if message["status"] != HTTPStatus.REQUEST_TIMEOUT and self._is_small(scope):
                    await discard(self._small_s)
                closing = unread
                if closing:
                    MutableHeaders(scope=message)["connection"] = "close"
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if closing and unread and last:
                await send({**message, "more_body": True})  # sends the whole response, but does not end it yet
                await discard(self._max_s)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        async def discard(longest_s: float) -> None:
            left = self._max_bytes
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(longest_s):
                    while unread and left > 0:
                        left -= len((await watch()).get("body", b""))

        await self._app(scope, watch, answer)

    def _is_small(self, scope: Scope) -> bool:
        """Whether a body is small and comes without being asked for (`Expect: 100-continue`)."""
        length = header(scope, b"content-length") or ""
        declared = length.isdecimal() and len(length) <= _MOST_DIGITS  # int() refuses thousands
        return declared and int(length) <= self._small_bytes and header(scope, b"expect") is None


def _has_body(scope: Scope) -> bool:
    """Whether a request's headers announce a body."""
    return (header(scope, b"content-length") or "0").strip("0") != "" or header(scope, b"transfer-encoding") is not None
