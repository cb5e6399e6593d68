"""The thread that writes observations, removes old rows, and keeps gauges and declarations up to date."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import FeedbackStoreError
from service.experiments.observation import Observation
from service.experiments.store import Store
from service.metrics import FeedbackMetrics

log = logging.getLogger(__name__)

_FLUSH_S = 0.5
_PRUNE_S = 60.0
_MOST_PENDING = 10_000


class Retention(NamedTuple):
    """How much the store keeps."""

    max_age_s: float
    max_rows: int


@dataclass(slots=True)
class _Refresher:
    """A function to call at regular intervals."""

    call: Callable[[], None]
    every_s: float
    due: float = 0.0

    def run_if_due(self) -> None:
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + self.every_s
            self.call()


class Recorder:
    """Writes observations and maintains the store in a thread.

    Args:
        store: Store for the observations.
        retention: How much the store keeps.
        metrics: Receives the counts of removed and lost rows.
    """

    def __init__(self, store: Store, retention: Retention, metrics: FeedbackMetrics) -> None:
        self._store, self._retention, self._metrics = store, retention, metrics
        self._pending: list[Observation] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._refreshers: list[_Refresher] = [_Refresher(self.prune, _PRUNE_S)]
        self._thread = threading.Thread(target=self._work, name="bireal-recorder", daemon=True)

    def on_refresh(self, refresh: Callable[[], None], *, every_s: float = 2.0) -> None:
        """Calls a function at regular intervals in the recorder's thread; it may raise `FeedbackStoreError`."""
        self._refreshers.append(_Refresher(refresh, every_s))

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Writes what is pending and stops. Blocks."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()

    def put(self, observation: Observation) -> None:
        """Queues an observation, which is written within half a second. Does not block."""
        with self._lock:
            if len(self._pending) < _MOST_PENDING:
                self._pending.append(observation)
                return
        self._metrics.count_lost(1)

    def flush(self) -> None:
        """Writes pending observations; those that cannot be written are counted as lost. Blocks."""
        with self._writing:
            with self._lock:
                pending, self._pending = self._pending, []
            try:
                self._store.add_observations(pending)
            except FeedbackStoreError as error:
                self._metrics.count_lost(len(pending))
                log.error("%d observations of experiments are lost: %s", len(pending), error)  # noqa: TRY400

    def prune(self) -> None:
        """Removes rows that exceed the maximum age or number. Blocks."""
        removed = self._store.prune(max_age_s=self._retention.max_age_s, max_rows=self._retention.max_rows)
        for reason, rows in removed.items():
            self._metrics.count_removed(reason, rows)
        self._store.shrink()

    def _work(self) -> None:
        while not self._stop.wait(_FLUSH_S):
            self.flush()
            try:
                for refresher in self._refreshers:
                    refresher.run_if_due()
            except FeedbackStoreError as error:
                log.error("%s", error)  # noqa: TRY400  the message needs no traceback
            except Exception:  # a failing refresh must not end the thread
                log.exception("a refresh failed")
