"""When an answer is no longer wanted."""

import asyncio
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from service.errors import DeadlineExceededError


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an answer is no longer wanted.

    Attributes:
        timeout_s: the time that the request had when it arrived, seconds.
        at: `time.monotonic()` seconds at which it has passed.
    """

    timeout_s: float
    at: float

    @classmethod
    def after(cls, timeout_s: float) -> Self:
        """The deadline `timeout_s` seconds from now."""
        return cls(timeout_s, time.monotonic() + timeout_s)

    @property
    def remaining_s(self) -> float:
        """Seconds left; negative once it has passed."""
        return self.at - time.monotonic()

    def check(self) -> None:
        """Raises `DeadlineExceededError` if it has passed."""
        if self.remaining_s <= 0:
            raise DeadlineExceededError(self.timeout_s)

    def enforced(self) -> "Enforced":
        """Cancels what awaits inside the block when it passes, and raises `DeadlineExceededError` then."""
        return Enforced(self)


class Enforced:
    """See `Deadline.enforced`. By hand and not from a generator: each request enters three of them."""

    __slots__ = ("_deadline", "_limit")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline, self._limit = deadline, asyncio.timeout(deadline.remaining_s)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._limit.__aexit__(kind, error, trace)
        except TimeoutError:
            raise DeadlineExceededError(self._deadline.timeout_s) from None
        if isinstance(error, TimeoutError) and self._limit.expired():
            raise DeadlineExceededError(self._deadline.timeout_s) from None
