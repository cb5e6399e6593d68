"""The facade of experiments and feedback; it creates and connects their parts."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from service.background import Background
from service.card import TaskName
from service.experiments.assignment import Assignment
from service.experiments.declaration import Declaration
from service.experiments.experiments import Experiments
from service.experiments.recorder import Recorder, Retention
from service.experiments.reports import Reports
from service.experiments.store import Store
from service.experiments.tokens import Tokens
from service.experiments.trial import Trial
from service.metrics import Metrics
from service.registry import Handle, Registry
from service.scheduler import Image, Outcome, Scheduler

T = TypeVar("T")
P = ParamSpec("P")

_GAUGES_S = 10.0  # Prometheus rarely scrapes more often


class Experimentation:
    """Experiments and feedback.

    Args:
        declared: Experiments declared in the file.
        store: Store of feedback and observations.
        secrets: Secrets that sign feedback tokens.
        retention: How much the store keeps.
        registry: Resolves the networks of the arms.
        scheduler: Runs the networks.
        background: Runs mirrored images.
        metrics: Receives results and counts.
        watch: Called with the input and output of every run that is not the answer; for the parity monitor.
    """

    def __init__(
        self,
        declared: Iterable[Declaration],
        store: Store,
        secrets: Sequence[str],
        retention: Retention,
        *,
        registry: Registry,
        scheduler: Scheduler,
        background: Background,
        metrics: Metrics,
        watch: Callable[[Handle, Image, Outcome], None] | None = None,
    ) -> None:
        self.store = store
        self.tokens = Tokens(secrets, max_age_s=retention.max_age_s)
        self.experiments = Experiments(declared, store, registry, metrics.experiments)
        self.recorder = Recorder(store, retention, metrics.feedback)
        self.recorder.on_refresh(self.experiments.refresh)
        self.reports = Reports(self.experiments, store, self.recorder, metrics)
        self.recorder.on_refresh(self.reports.update_gauges, every_s=_GAUGES_S)
        self._scheduler, self._background, self._metrics = scheduler, background, metrics
        self._watch = watch
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="bireal-feedback")

    def start(self) -> None:
        """Starts the recorder."""
        self.recorder.start()

    def close(self) -> None:
        """Writes what is pending and closes the store. Blocks."""
        self.reports.close()
        self._writer.shutdown()
        self.recorder.close()
        self.store.close()

    def assign(self, task: TaskName, model: str | None, variant: str | None, subject: str) -> Assignment | None:
        """See `Experiments.assign`."""
        return self.experiments.assign(task, model, variant, subject)

    def trial(self, assignment: Assignment) -> Trial:
        """Creates the trial that runs a request as part of an experiment."""
        experiments = self._metrics.experiments
        return Trial(assignment, self._scheduler, self._background, self.recorder, experiments, self._watch)

    async def write(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function that writes to the store, in the thread of all that a request writes.

        Writes wait for each other, and up to seconds for another process's. In asyncio's pool, a few of them would
        occupy every thread.

        Args:
            call: The function.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            Exception: Whatever the call raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, partial(call, *args, **kwargs))
