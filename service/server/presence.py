"""Cancels the work for a request when its client disconnects.

The service's own server puts the connection's `Presence` into the scope of each request and updates it as soon as the
connection ends, so watching costs next to nothing. Other servers have only ASGI's ``http.disconnect`` message, which a
task has to wait for.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")

#: Key of the connection's `Presence` in a request's scope, if the server provides one.
PRESENCE_KEY = "bireal.presence"
# Seconds after which a request without a `Presence` starts to wait for the disconnect message. Most answers are faster.
_LOOK_AFTER_S = 0.005


class Presence:
    """Whether the client of a connection is still connected. Used only in the event loop.

    Attributes:
        gone: Whether the client has disconnected.
        on_leave: Called when it disconnects; set while a request on the connection is being answered.
    """

    __slots__ = ("gone", "on_leave")

    def __init__(self) -> None:
        self.gone = False
        self.on_leave: Callable[[], None] | None = None

    def leave(self) -> None:
        """Records that the client has disconnected."""
        self.gone = True
        if self.on_leave is not None:
            self.on_leave()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` and cancels it if the client disconnects, which also removes it from the queue.

    Args:
        request: The request, whose body has been read.
        work: The coroutine that answers it.

    Raises:
        ClientDisconnect: The client disconnected first.
    """
    presence: Presence | None = request.scope.get(PRESENCE_KEY)
    if presence is not None and presence.gone:
        work.close()
        raise ClientDisconnect
    watch = _MessageWatch(request) if presence is None else _PresenceWatch(presence)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.gone:
            raise ClientDisconnect from None
        raise
    finally:
        watch.end()


class _Watch:
    """Cancels the current task when the client disconnects."""

    __slots__ = ("_task", "gone")

    def __init__(self) -> None:
        self._task, self.gone = asyncio.current_task(), False

    def _cancel(self) -> None:
        if self._task is not None:
            self.gone = True
            self._task.cancel()

    def end(self) -> None:
        """Stops watching, and takes back a cancellation that it caused."""
        if self.gone and self._task is not None:
            self._task.uncancel()


class _PresenceWatch(_Watch):
    """Uses the connection's `Presence`."""

    __slots__ = ("_presence",)

    def __init__(self, presence: Presence) -> None:
        super().__init__()
        self._presence = presence
        presence.on_leave = self._cancel

    def end(self) -> None:
        """See `_Watch.end`."""
        self._presence.on_leave = None
        super().end()


class _MessageWatch(_Watch):
    """Waits for the server's disconnect message, in a task that only slow answers need."""

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
