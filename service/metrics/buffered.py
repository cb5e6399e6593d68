"""Deferred counting: values of requests are counted in batches, at a scrape or when enough have accumulated.

A request produces about twenty values. Counting each at once takes a lock and three calls, which costs more than
summing hundreds of values.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

ValueT = TypeVar("ValueT")

_MOST = 128


class Buffer(Generic[ValueT]):
    """Buffer of values that are yet to be counted, about a hundred at most.

    Args:
        count: Function that counts the values. Never called from two threads at once.
    """

    def __init__(self, count: Callable[[list[ValueT]], None]) -> None:
        self._count, self._values, self._lock = count, deque[ValueT](), threading.Lock()

    def add(self, value: ValueT) -> None:
        """Adds a value. May be called from any thread."""
        self._values.append(value)
        if len(self._values) >= _MOST:
            self.flush()

    def flush(self) -> None:
        """Counts all values added so far. May be called from any thread."""
        with self._lock:
            taken = [self._values.popleft() for _ in range(len(self._values))]  # values are only removed here
            if taken:
                self._count(taken)


class Buffers(Collector):
    """Collector that counts all deferred values before a scrape: registered first, so collected first.

    Args:
        registry: Registry of the deferred metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._flushes: list[Callable[[], None]] = []
        registry.register(self)

    def buffered(self, count: Callable[[list[ValueT]], None]) -> Buffer[ValueT]:
        """Creates a buffer for a counting function. It is never removed, so create a bounded number of them."""
        made: Buffer[ValueT] = Buffer(count)
        self._flushes.append(made.flush)
        return made

    def flush(self) -> None:
        """Counts what is pending."""
        for flush in list(self._flushes):
            flush()

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: this collector has no metrics itself."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Counts what is pending and returns nothing; see `describe`."""
        self.flush()
        return ()
