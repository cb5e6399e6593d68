"""Threads for decoding and encoding, shared fairly: a flood of large pictures cannot hold up those of another task.

Calls wait in one lane per task. Each lane is bounded by itself, so that a full one turns nobody of another task away,
and a thread that becomes free takes the next call from the lane that has had the least time, as the scheduler does with
networks. All bookkeeping is done in the event loop; only the calls run in threads.
"""

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from service.errors import NotReadyError, OverloadedError

T = TypeVar("T")
P = ParamSpec("P")

#: The lane of calls that belong to no task.
SHARED = "shared"


@dataclass(slots=True, eq=False)
class _Lane:
    """Calls of one task that wait for a thread, and the time that its calls have had."""

    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    served_s: float = 0.0  # virtual time of start-time fair queueing, as in service.scheduler


class ThreadPool:
    """A few threads and a queue of calls before them. Used from one event loop.

    Args:
        threads: How many.
        queue_size: Calls of one lane that may wait; one more is `OverloadedError`.
    """

    def __init__(self, *, threads: int, queue_size: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="bireal-decode")
        self._free, self._queue_size = threads, queue_size
        self._lanes: dict[str, _Lane] = {}
        self._virtual_s = 0.0

    async def run(self, lane: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in a thread.

        Args:
            lane: Whose turn it is: a task's name, or `SHARED`. A bounded set.
            call: The function.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: The lane is full.
            NotReadyError: The pool was closed.
            Exception: Whatever the call raises.
        """
        mine = self._lanes.setdefault(lane, _Lane())
        await self._turn(mine)
        begun = time.perf_counter()
        work: Future[T] | None = None
        try:
            work = self._submit(functools.partial(call, *args, **kwargs))
            return await asyncio.wrap_future(work)
        finally:
            mine.served_s += time.perf_counter() - begun
            if work is None or work.done():
                self._release()
            else:  # nobody waits for it any more, and its thread is still busy
                work.add_done_callback(functools.partial(self._release_from_thread, asyncio.get_running_loop()))

    def close(self) -> None:
        """Ends the threads once they have nothing to do."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, lane: _Lane) -> None:
        """Waits for a thread."""
        if self._free:
            self._free -= 1
            return
        if len(lane.waiting) >= self._queue_size:
            raise OverloadedError(self._queue_size)
        if not lane.waiting:  # idle time earns no credit
            lane.served_s = max(lane.served_s, self._virtual_s)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # a thread that became free may have passed it over already
                    lane.waiting.remove(turn)
            else:  # the turn came at the same moment: it goes to the next
                self._release()
            raise

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        try:
            return self._executor.submit(call)
        except RuntimeError:  # it was shut down
            raise NotReadyError("The server is shutting down and takes no new images.") from None

    def _release(self) -> None:
        """A thread is free: it goes to the lane that has had the least time, or waits for a call."""
        while lanes := [lane for lane in self._lanes.values() if lane.waiting]:
            lane = min(lanes, key=lambda each: each.served_s)
            turn = lane.waiting.popleft()
            if not turn.done():  # its caller may have gone this very moment
                self._virtual_s = max(self._virtual_s, lane.served_s)
                turn.set_result(None)
                return
        self._free += 1

    def _release_from_thread(self, loop: asyncio.AbstractEventLoop, _: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and with it everybody who waited
            loop.call_soon_threadsafe(self._release)
