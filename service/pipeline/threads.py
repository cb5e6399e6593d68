"""Threads that decode images and encode answers, shared fairly between tasks.

Calls wait in *lanes*: for each task one of inputs and one of answers, and one of request bodies that belong to no task.

* Each lane has its own limit, so a full lane never causes calls of another lane to be refused.
* A thread that becomes free takes the next call of the lane that has had the least time, as in `service.scheduler`. A
  flood of large images of one task therefore cannot hold up another task.
* The thread takes that call itself. If the event loop handed it over, the thread would fall asleep in between, and both
  would have to be woken.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from service.errors import NotReadyError, OverloadedError, QueueName
from service.scheduler import FairClock, Share

T = TypeVar("T")
P = ParamSpec("P")

#: The lane of bodies whose parsing belongs to no task.
SHARED = "shared"
# Assumed cost of a call before the first one of a lane, seconds: that of decoding a photograph.
_FIRST_COST_GUESS_S = 0.01
_ANSWERS = " answers"


def answers_of(task: str) -> str:
    """The lane of a task's answers. Separate, so that a full queue of inputs fails no image that has run."""
    return task + _ANSWERS


@dataclass(slots=True, eq=False)
class _Lane(Share):
    """Calls of one task that wait for a thread, and the task's share of the threads."""

    queue: QueueName
    waiting: "deque[_Call]" = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class _Call:
    """A call, and what its caller waits for."""

    lane: _Lane
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    charged_s: float = 0.0  # to its lane when it began


#: Through which a thread that waits gets a call: its own, so that the one that was busy last, whose caches are warm, is
#: next.
_Inbox = queue.SimpleQueue[_Call | None]


class ThreadPool:
    """A fixed number of threads, and the calls that wait for one of them. Used from one event loop.

    This is not an executor of `concurrent.futures`, because its future, asyncio's future and the chain between the two
    cost more than handing a call to a thread and its result back.

    Args:
        threads: Number of threads.
        queue_size: Number of calls that may wait in one lane; another one is an `OverloadedError`. A request with more
            calls than that, which could otherwise never run, is admitted if nothing waits in its lane.
    """

    def __init__(self, *, threads: int, queue_size: int) -> None:
        self._queue_size = queue_size
        self._lock = threading.Lock()  # of all below, which the threads change, too; never held for longer than that
        self._lanes: dict[str, _Lane] = {}
        self._clock = FairClock()
        self._closed = False
        self._inboxes: list[_Inbox] = [queue.SimpleQueue() for _ in range(threads)]
        self._free = list(self._inboxes)  # the last one in goes out first
        self._threads = [
            threading.Thread(target=self._work, args=(inbox,), name=f"bireal-decode_{number}", daemon=True)
            for number, inbox in enumerate(self._inboxes)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, lane: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function in a thread.

        Args:
            lane: The lane in which the call waits: a task's name, `answers_of(task)` or `SHARED`.
            call: The function.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: The lane is full.
            NotReadyError: The pool was closed.
            Exception: Whatever the call raises.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        with self._lock:
            mine = self._lane(lane)
            wanted = _Call(mine, call, args, kwargs, done, loop)
            self._admit(mine, [wanted])
        try:
            return await done
        except asyncio.CancelledError:
            self._withdraw([wanted])
            raise
        finally:
            # An error's traceback refers to this frame, which must not refer to the error in turn: that would keep the
            # call's arguments, be they a body of megabytes, until the collector comes.
            del done, wanted

    async def run_many(self, lane: str, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Calls the functions of one request in threads, and returns their results in order.

        Either all are admitted or none. If one raises, or the awaiting task is cancelled, those that still wait are
        dropped; those that run are finished, and their results discarded.

        Args:
            lane: As for `run`.
            calls: The functions.

        Raises:
            OverloadedError: The lane has no room for all of them.
            NotReadyError: The pool was closed.
            Exception: Whatever the first call that raises does.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            mine = self._lane(lane)
            wanted = [_Call(mine, call, (), {}, loop.create_future(), loop) for call in calls]
            self._admit(mine, wanted)
        try:
            return list(await asyncio.gather(*[call.done for call in wanted]))
        except BaseException:
            self._withdraw(wanted)
            raise
        finally:
            wanted.clear()  # see `run`

    def waiting(self) -> int:
        """Number of calls that wait for a thread, over all lanes."""
        with self._lock:
            return sum(len(lane.waiting) for lane in self._lanes.values())

    def close(self, timeout_s: float = 0.0) -> None:
        """Ends each thread after its current call, and waits up to `timeout_s` seconds for all of them.

        Calls that still wait for a thread fail with `NotReadyError`.
        """
        give_up = time.monotonic() + timeout_s
        with self._lock:
            self._closed = True
            left = [call for lane in self._lanes.values() for call in lane.waiting]
            for lane in self._lanes.values():
                lane.waiting.clear()
        for call in left:
            with contextlib.suppress(RuntimeError):  # its loop has ended, and with it everybody who waited
                call.loop.call_soon_threadsafe(_settle, call.done, None, _closed())
        for inbox in self._inboxes:
            inbox.put(None)
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _admit(self, lane: _Lane, calls: Sequence[_Call]) -> None:
        """Hands the first calls to free threads and lets the rest wait, all of them or none; with the lock held.

        A thread is free only if no lane has a call that waits, so the first calls overtake nobody. Virtual time must
        advance for them, too: a lane that is served alone for hours would otherwise be hours ahead of it, and wait
        until a lane that begins to flood the threads has caught up.
        """
        if self._closed:
            raise _closed()
        at_once = min(len(self._free), len(calls))
        if at_once < len(calls):
            self._queue(lane, calls[at_once:])
        for call in calls[:at_once]:
            self._clock.join(lane)
            call.charged_s = self._clock.start(lane)
            self._free.pop().put(call)  # with the lock held, so that `close` cannot get its end in first

    def _queue(self, lane: _Lane, calls: Sequence[_Call]) -> None:
        """Lets calls wait, all of them or none; called with the lock held."""
        if lane.waiting and len(lane.waiting) + len(calls) > self._queue_size:
            raise OverloadedError(self._queue_size, self._expected_wait_s(), lane.queue)
        if not lane.waiting:
            self._clock.join(lane)
        lane.waiting.extend(calls)

    def _expected_wait_s(self) -> float:
        """Estimated seconds until all calls that wait now are done, by each lane's average; with the lock held."""
        return sum(len(lane.waiting) * lane.cost_s for lane in self._lanes.values()) / len(self._threads)

    def _lane(self, name: str) -> _Lane:
        """The lane of a name; called with the lock held."""
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane(_queue_of(name), cost_s=_FIRST_COST_GUESS_S)
        return lane

    def _withdraw(self, calls: Sequence[_Call]) -> None:
        """Drops those of a request's calls that still wait. Nobody awaits the others; a thread has them already."""
        with self._lock:
            for call in calls:
                with contextlib.suppress(ValueError):
                    call.lane.waiting.remove(call)
        for call in calls:
            call.done.cancel()

    def _work(self, inbox: _Inbox) -> None:
        """Runs in each thread until the pool is closed. A waiting thread keeps no reference to a call's data."""
        while (call := inbox.get()) is not None:
            while call is not None:
                call = self._serve(call, inbox)

    def _serve(self, call: _Call, inbox: _Inbox) -> _Call | None:
        """In a thread: does a call, tells its caller, and returns the next; None if it is to wait at its inbox.

        Telling comes last: the event loop wakes up at once, and needs Python's lock. The sooner this thread comes to
        wait and gives it up, the more often the loop is spared a second sleep.
        """
        begun = time.perf_counter()
        result, error = _outcome(call.function, call.arguments, call.named)
        following = self._next(inbox, call, time.perf_counter() - begun)
        try:  # noqa: SIM105  `suppress` would take its time afterwards
            call.loop.call_soon_threadsafe(_settle, call.done, result, error)
        except RuntimeError:  # the loop has ended, and with it everybody who waited
            pass
        del call, result, error  # an error refers to this frame, as the one that called; see `run`
        return following

    def _next(self, inbox: _Inbox, ended: _Call, seconds: float) -> _Call | None:
        """In a thread, after a call that took so long: the next call; None if it is to wait at its inbox."""
        with self._lock:
            self._clock.end(ended.lane, seconds, ended.charged_s)
            lanes = [lane for lane in self._lanes.values() if lane.waiting]
            if not lanes:
                self._free.append(inbox)
                return None
            lane = min(lanes, key=lambda each: each.served_s)
            call = lane.waiting.popleft()
            call.charged_s = self._clock.start(lane)
            return call


def _queue_of(lane: str) -> QueueName:
    """What errors call the queue of a lane."""
    if lane == SHARED:
        return "bodies"
    return "answers" if lane.endswith(_ANSWERS) else "decoding"


def _outcome(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """What a call returns, and what it raises. Without the `_Call`, whose future the error will be in; see `run`."""
    try:
        return function(*arguments, **named), None
    except BaseException as failure:  # noqa: BLE001  the caller gets it, whatever it is, and the thread lives on
        # An exit must not travel through a future into the event loop and end that; StopIteration cannot.
        passed_on = isinstance(failure, Exception) and not isinstance(failure, StopIteration)
        return None, failure if passed_on else RuntimeError(f"the call ended with {failure!r}")


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """In the event loop, when a call has ended, whether or not somebody still waits for it."""
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _closed() -> NotReadyError:
    return NotReadyError("The server is shutting down and takes no new images.")
