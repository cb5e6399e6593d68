"""Deadlines of requests."""

import asyncio
import time
from types import TracebackType
from typing import NamedTuple, Self

from service.errors import DeadlineExceededError


class Deadline(NamedTuple):
    """The time after which an answer is no longer wanted.

    Attributes:
        timeout_s: the request's timeout, counted from its arrival, seconds.
        at: the deadline as a value of `time.monotonic()`, seconds.
        by_client: whether the client set it, below the service's own limit.
    """

    timeout_s: float
    at: float
    by_client: bool = False

    @classmethod
    def after(cls, timeout_s: float, *, by_client: bool = False) -> Self:
        """Returns the deadline `timeout_s` seconds from now."""
        return cls(timeout_s, time.monotonic() + timeout_s, by_client)

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.monotonic()

    def check(self) -> None:
        """Raises `DeadlineExceededError` if it has passed."""
        if self.remaining_s <= 0:
            raise self.error()

    def error(self) -> DeadlineExceededError:
        """Returns the error to raise once it has passed."""
        return DeadlineExceededError(self.timeout_s, by_client=self.by_client)

    def enforced(self) -> "Enforced":
        """Returns a context manager that cancels its block at the deadline and raises `DeadlineExceededError`."""
        return Enforced(self)


class Enforced:
    """See `Deadline.enforced`. A reduced `asyncio.timeout`, which is faster; every request uses several."""

    __slots__ = ("_cancelling", "_deadline", "_passed", "_task", "_timer")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline, self._passed = deadline, False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline can only be enforced inside a task")
        self._task, self._cancelling = task, task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._deadline.remaining_s), self._expire)

    def _expire(self) -> None:
        self._passed = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if not self._passed:
            return
        # If somebody else has cancelled the task too, let that cancellation propagate.
        ours = self._task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, (asyncio.CancelledError, TimeoutError)):
            raise self._deadline.error() from None
