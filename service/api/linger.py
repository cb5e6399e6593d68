"""What a client still sends once it has been refused: read for a while, so that it sees why, and then no more.

Closing a connection at once, with bytes of the client unread, makes its system throw away the answer too: it would see
"connection reset" in place of 413. Reading on to the end, as HTTP servers do that keep the connection, lets a client
send for ever. In between lies what is done here, the "lingering close" of older servers: the answer is sent, marked
`Connection: close`; what comes then is thrown away, up to a limit in bytes and one in time; then the connection is
closed.
"""

import asyncio
import contextlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import header

#: What a client may still send once it has been refused, bytes and seconds: enough for most to finish and to see why.
LINGER_BYTES = 64_000_000
LINGER_S = 10.0


class LingeringClose:
    """Bounds what is read after an answer that came before the end of the request's body. The outermost layer.

    Args:
        app: The application within.
        max_bytes: Most bytes that are thrown away.
        max_s: Longest time that is spent with it, seconds.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_s: float) -> None:
        self._app, self._max_bytes, self._max_s = app, max_bytes, max_s

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
                closing = True
                MutableHeaders(scope=message)["connection"] = "close"
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if closing and unread and last:
                await send({**message, "more_body": True})  # all of the answer is on its way now
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._max_s):
                        await discard()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        async def discard() -> None:
            left = self._max_bytes
            while unread and left > 0:
                left -= len((await watch()).get("body", b""))

        await self._app(scope, watch, answer)


def _has_body(scope: Scope) -> bool:
    """Whether a request says that it has a body."""
    return (header(scope, b"content-length") or "0").strip("0") != "" or header(scope, b"transfer-encoding") is not None
