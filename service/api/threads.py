"""Threads for decoding and encoding, shared fairly: a flood of large pictures cannot hold up those of another task.

Calls wait in one lane per task. Each lane is bounded by itself, so that a full one turns nobody of another task away,
and a thread that becomes free takes the next call from the lane that has had the least time, as the scheduler does with
networks. All bookkeeping is done in the event loop; only the calls run in threads.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
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

    waiting: "deque[asyncio.Future[_Inbox]]" = field(default_factory=deque)
    served_s: float = 0.0  # virtual time of start-time fair queueing, as in service.scheduler


@dataclass(slots=True, eq=False)
class _Call:
    """A call that has its thread, and what its caller waits for."""

    lane: _Lane
    inbox: "_Inbox"
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    begun: float


#: Through which a thread gets its calls: its own, so that the one that was busy last, whose caches are warm, is next.
_Inbox = queue.SimpleQueue[_Call | None]


class ThreadPool:
    """A few threads and a queue of calls before them. Used from one event loop.

    By hand and not from `concurrent.futures`: its future, asyncio's, and the chain between the two cost more than the
    way to a thread and back.

    Args:
        threads: How many.
        queue_size: Calls of one lane that may wait; one more is `OverloadedError`.
    """

    def __init__(self, *, threads: int, queue_size: int) -> None:
        self._queue_size = queue_size
        self._lanes: dict[str, _Lane] = {}
        self._virtual_s = 0.0
        self._closed = False
        self._inboxes: list[_Inbox] = [queue.SimpleQueue() for _ in range(threads)]
        self._free = list(self._inboxes)  # the last one in goes out first
        self._threads = [
            threading.Thread(target=_work, args=(inbox, self._settle), name=f"bireal-decode_{number}", daemon=True)
            for number, inbox in enumerate(self._inboxes)
        ]
        for thread in self._threads:
            thread.start()

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
        mine = self._lanes.get(lane)
        if mine is None:
            mine = self._lanes[lane] = _Lane()
        inbox = self._free.pop() if self._free else await self._turn(mine)
        if self._closed:
            self._release(inbox)
            raise NotReadyError("The server is shutting down and takes no new images.")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        inbox.put(_Call(mine, inbox, call, args, kwargs, done, loop, time.perf_counter()))
        return await done

    def close(self, timeout_s: float = 0.0) -> None:
        """Ends the threads once they have nothing to do, and waits for that up to `timeout_s` seconds."""
        give_up = time.monotonic() + timeout_s
        self._closed = True
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    async def _turn(self, lane: _Lane) -> _Inbox:
        """Waits for a thread."""
        if len(lane.waiting) >= self._queue_size:
            raise OverloadedError(self._queue_size)
        if not lane.waiting:  # idle time earns no credit
            lane.served_s = max(lane.served_s, self._virtual_s)
        turn: asyncio.Future[_Inbox] = asyncio.get_running_loop().create_future()
        lane.waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # a thread that became free may have passed it over already
                    lane.waiting.remove(turn)
            else:  # the turn came at the same moment: it goes to the next
                self._release(turn.result())
            raise

    def _settle(self, call: _Call, result: Any, error: BaseException | None) -> None:
        """In the event loop, when a call has ended: frees its thread, whether or not somebody still waits for it."""
        call.lane.served_s += time.perf_counter() - call.begun
        self._release(call.inbox)
        if call.done.done():  # nobody waits for it any more
            return
        if error is None:
            call.done.set_result(result)
        else:
            call.done.set_exception(error)

    def _release(self, inbox: _Inbox) -> None:
        """A thread is free: it goes to the lane that has had the least time, or waits for a call."""
        while lanes := [lane for lane in self._lanes.values() if lane.waiting]:
            lane = min(lanes, key=lambda each: each.served_s)
            turn = lane.waiting.popleft()
            if not turn.done():  # its caller may have gone this very moment
                self._virtual_s = max(self._virtual_s, lane.served_s)
                turn.set_result(inbox)
                return
        self._free.append(inbox)


def _work(calls: "queue.SimpleQueue[_Call | None]", settle: Callable[[_Call, Any, BaseException | None], None]) -> None:
    """A thread's life."""
    while (call := calls.get()) is not None:
        result, error = None, None
        try:
            result = call.function(*call.arguments, **call.named)
        except BaseException as failure:  # noqa: BLE001  the caller gets it, whatever it is, and the thread lives on
            # An exit must not travel through a future into the event loop and end that; StopIteration cannot.
            passed_on = isinstance(failure, Exception) and not isinstance(failure, StopIteration)
            error = failure if passed_on else RuntimeError(f"the call ended with {failure!r}")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and with it everybody who waited
            call.loop.call_soon_threadsafe(settle, call, result, error)
        del call, result, error  # while this thread waits, it must not keep a picture or a network
