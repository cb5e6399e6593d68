"""When an answer is no longer wanted."""

import asyncio
import time
from types import TracebackType
from typing import NamedTuple, Self

from service.errors import DeadlineExceededError


class Deadline(NamedTuple):
    """When an answer is no longer wanted.

    Attributes:
        timeout_s: the time that the request had when it arrived, seconds.
        at: `time.monotonic()` seconds at which it has passed.
        by_client: whether the client asked for it, with less than the service's own limit.
    """

    timeout_s: float
    at: float
    by_client: bool = False

    @classmethod
    def after(cls, timeout_s: float, *, by_client: bool = False) -> Self:
        """The deadline `timeout_s` seconds from now."""
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
        """What is raised once it has passed."""
        return DeadlineExceededError(self.timeout_s, by_client=self.by_client)

    def enforced(self) -> "Enforced":
        """Cancels what awaits inside the block when it passes, and raises `DeadlineExceededError` then."""
        return Enforced(self)


class Enforced:
    """See `Deadline.enforced`. As `asyncio.timeout`, without what is not needed of it: each request enters some."""

    __slots__ = ("_cancelling", "_deadline", "_passed", "_task", "_timer")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline, self._passed = deadline, False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is enforced on a task")
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
        # Not ours where somebody else has cancelled the task, too: that goes on.
        ours = self._task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, (asyncio.CancelledError, TimeoutError)):
            raise self._deadline.error() from None
