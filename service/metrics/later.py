"""Values that requests leave behind, counted together: when Prometheus asks, or when some have gathered.

A request leaves some twenty figures. Each in a counter at once takes a lock and three calls, which together cost more
than the sum of hundreds of values does.
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


class Later(Generic[ValueT]):
    """Values of one kind that are yet to be counted, at most some hundred.

    Args:
        count: Counts values. Never called from two threads at once.
    """

    def __init__(self, count: Callable[[list[ValueT]], None]) -> None:
        self._count, self._values, self._lock = count, deque[ValueT](), threading.Lock()

    def add(self, value: ValueT) -> None:
        """Leaves a value behind. From any thread."""
        self._values.append(value)
        if len(self._values) >= _MOST:
            self.settle()

    def settle(self) -> None:
        """Counts what has been left so far. From any thread."""
        with self._lock:
            taken = [self._values.popleft() for _ in range(len(self._values))]  # only here is anything taken out
            if taken:
                self._count(taken)


class Settling(Collector):
    """Has everything counted before the figures are read: registered first, asked first, and has none of its own.

    Args:
        registry: Of the metrics that are counted later.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._settle: list[Callable[[], None]] = []
        registry.register(self)

    def later(self, count: Callable[[list[ValueT]], None]) -> Later[ValueT]:
        """A place for values that are counted by a function. It is kept for good: make a bounded number of them."""
        made: Later[ValueT] = Later(count)
        self._settle.append(made.settle)
        return made

    def describe(self) -> Iterable[Metric]:
        """No figures of its own."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Counts what is pending; see `describe`."""
        for settle in list(self._settle):
            settle()
        return ()
