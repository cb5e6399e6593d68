"""When a call is made again, and after how long.

Again only where it is safe: the service says that it did nothing (429, 503), or the connection was never made.
Answering an image changes nothing and the same feedback counts once, so a connection that broke off is tried again too;
a call that timed out is not, because the service may well be working on it and another would only add to its load.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

AGAIN = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently.

    Attributes:
        tries: Most tries of one call; 1 never tries again.
        first_s: Wait after the first failure, seconds, where the service did not ask for another; doubles each time.
        longest_s: Longest wait between two tries. A service that asks for a longer one is told to the caller instead.
    """

    tries: int = 4
    first_s: float = 0.1
    longest_s: float = 10.0

    def wait_s(self, tried: int, retry_after_s: float | None) -> float | None:
        """How long to wait after `tried` tries, or None to give up.

        Without a wish of the service it is drawn from the upper half of the interval, so that clients that were
        refused together do not come back together. A wish is never undercut.
        """
        if tried >= self.tries:
            return None
        if retry_after_s is not None:
            if retry_after_s > self.longest_s:
                return None
            return retry_after_s + random.uniform(0, self.first_s)  # noqa: S311 - spreads clients, hides nothing
        most = min(self.longest_s, self.first_s * 2 ** (tried - 1))
        return random.uniform(most / 2, most)  # noqa: S311


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a whole number, or a date; None where it says neither."""
    if header is None:
        return None
    if header.strip().isdecimal() and header.isascii():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):  # the latter of a year or an offset that no date has
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
