"""Background work: bounded, run only while no request waits, and the first to be dropped."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]

_POLL_S = 0.005
_PATIENCE_S = 2.0


class Stage(Protocol):
    """A place where requests wait."""

    def waiting(self) -> int:
        """The number of waiting items."""
        ...


class Background:
    """Runs one piece of work at a time, whenever no request waits in any stage.

    A piece is dropped if the queue is full, or if its turn does not come within two seconds. The scheduler has at most
    one piece at any time, so that a request that arrives meanwhile waits for one run at most.

    Args:
        stages: Where nothing may wait for work to start: the networks, and the decoding threads, which run fast
            networks themselves and are then the only place where requests wait.
        capacity: The most pieces that may wait.
    """

    def __init__(self, *stages: Stage, capacity: int) -> None:
        self._stages = stages
        self._capacity = capacity
        self._queue: asyncio.Queue[tuple[float, Work, Callable[[], None]]] = asyncio.Queue(capacity)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts the worker task; call it in the event loop."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stops, and drops the piece under way and all waiting work."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        while not self._queue.empty():
            self._queue.get_nowait()[2]()

    def offer(self, work: Work, dropped: Callable[[], None]) -> None:
        """Queues a piece of work, or drops it.

        Args:
            work: What to await; it should handle its own errors.
            dropped: Called if the work is dropped, also in the middle of it.
        """
        if self._task is None or self._task.done() or self._queue.full():
            dropped()
        else:
            self._queue.put_nowait((time.monotonic() + _PATIENCE_S, work, dropped))

    def waiting(self) -> int:
        """The number of waiting pieces."""
        return self._queue.qsize()

    def _requests(self) -> bool:
        return any(stage.waiting() for stage in self._stages)

    async def _work(self) -> None:
        while True:
            give_up, work, dropped = await self._queue.get()
            try:
                while self._requests() and time.monotonic() < give_up:  # noqa: ASYNC110  other threads' work
                    await asyncio.sleep(_POLL_S)
                if time.monotonic() >= give_up:
                    dropped()
                    continue
                await work()
            except asyncio.CancelledError:  # by `close`, which no longer finds this piece in the queue
                dropped()
                raise
            except Exception:  # a failed piece of work must not stop the others
                log.exception("background work failed")
