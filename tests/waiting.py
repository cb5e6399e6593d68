"""Waiting for a condition that nothing reports, such as a metric or the state of another process."""

import asyncio
import time
from collections.abc import Callable

# Long: it only passes where the test fails, and a machine that also does other work may stop for seconds.
_PATIENCE_S = 30.0


async def until(condition: Callable[[], object], patience_s: float = _PATIENCE_S) -> None:
    """Waits in the event loop until the condition is true.

    Args:
        condition: Called again and again; must not block.
        patience_s: Longest time to wait, seconds.

    Raises:
        TimeoutError: The condition was still false after that time.
    """
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110  there is no event to wait for
            await asyncio.sleep(0.005)


def wait(condition: Callable[[], object], patience_s: float = _PATIENCE_S) -> None:
    """Like `until`, for tests without an event loop; the condition may block."""
    give_up = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"not true within {patience_s:g} s")
        time.sleep(0.01)
