"""The retry policy: which calls are retried, and after how long.

A call is retried only if that is safe: the service says that it did nothing (429, 503), or the connection failed.
Inference has no side effects and the same feedback counts once, so a connection that broke off is retried too. A call
that timed out is not: the service may still be working on it, and another call would only add to its load.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

AGAIN = frozenset({429, 503})

_MOST_DOUBLINGS = 64  # of a wait, which is too long by then; after a thousand, it would be no float any more


@dataclass(frozen=True, slots=True)
class Retry:
    """How often to retry a call, and how long to wait.

    Attributes:
        tries: Most tries of one call; 1 means no retry.
        first_s: Wait after the first failure, seconds, unless the service asks for a different one; doubles each time.
        longest_s: Longest wait between two tries, seconds. If the service asks for more, the error is raised instead.
    """

    tries: int = 4
    first_s: float = 0.1
    longest_s: float = 10.0

    def wait_s(self, tried: int, retry_after_s: float | None) -> float | None:
        """Seconds to wait after `tried` tries, or None to give up.

        If the service does not ask for a wait, a random one from the upper half of the interval is used, so that
        clients that were refused together do not return together. The wait is never shorter than the service asks.
        """
        if tried >= self.tries:
            return None
        if retry_after_s is not None:
            if retry_after_s > self.longest_s:
                return None
            return retry_after_s + random.uniform(0, self.first_s)  # noqa: S311 - spreads clients, not for security
        most = min(self.longest_s, self.first_s * 2.0 ** min(tried - 1, _MOST_DOUBLINGS))
        return random.uniform(most / 2, most)  # noqa: S311 - likewise


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, by a whole number or a date; None if it is neither."""
    if header is None:
        return None
    if header.strip().isdecimal() and header.isascii():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # OverflowError for a year or an offset out of range
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
