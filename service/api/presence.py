"""Whether a request's client is still there, and the end of what is done for one that has gone.

The service's own server says at once when a connection ends: it leaves the connection's `Presence` in the scope of each
request, and watching costs next to nothing. With another server it is ASGI's way, in which a task has to wait for the
next message.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")

#: Where a server that says when a client goes leaves the connection's `Presence` in the scope.
PRESENCE_KEY = "bireal.presence"
# When a request begins to look for its client where nobody says that it goes, seconds after its body was read.
_LOOK_AFTER_S = 0.005


class Presence:
    """The client of a connection, on which one request at a time is answered. Used in the event loop alone.

    Attributes:
        gone: Whether the client has gone.
        told: Called when it goes, if somebody wants to know.
    """

    __slots__ = ("gone", "told")

    def __init__(self) -> None:
        self.gone = False
        self.told: Callable[[], None] | None = None

    def leave(self) -> None:
        """The client has gone."""
        self.gone = True
        if self.told is not None:
            self.told()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits work for a client, and cancels it when the client goes away: what waits in the queue is dropped.

    Args:
        request: Its body has been read.
        work: What to await.

    Raises:
        ClientDisconnect: The client went away first.
    """
    presence: Presence | None = request.scope.get(PRESENCE_KEY)
    if presence is not None and presence.gone:
        work.close()
        raise ClientDisconnect
    watch = _Look(request) if presence is None else _Told(presence)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.gone:
            raise ClientDisconnect from None
        raise
    finally:
        watch.end()


class _Watch:
    """Cancels the current task when the client goes away."""

    __slots__ = ("_task", "gone")

    def __init__(self) -> None:
        self._task, self.gone = asyncio.current_task(), False

    def _cancel(self) -> None:
        if self._task is not None:
            self.gone = True
            self._task.cancel()

    def end(self) -> None:
        """Stops watching; a cancellation that it caused is over."""
        if self.gone and self._task is not None:
            self._task.uncancel()


class _Told(_Watch):
    """Is told by the connection."""

    __slots__ = ("_presence",)

    def __init__(self, presence: Presence) -> None:
        super().__init__()
        self._presence = presence
        presence.told = self._cancel

    def end(self) -> None:
        """See `_Watch.end`."""
        self._presence.told = None
        super().end()


class _Look(_Watch):
    """Waits for the server's next message, but only once the answer takes its time: most are spared a task by that."""

    __slots__ = ("_request", "_timer", "_watcher")

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request
        self._watcher: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_LOOK_AFTER_S, self._begin)

    def end(self) -> None:
        """See `_Watch.end`."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        super().end()

    def _begin(self) -> None:
        self._watcher = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._cancel()
