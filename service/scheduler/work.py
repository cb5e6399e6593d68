"""What a scheduler works with: images that wait, what runs them, what comes of it, and who is told."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from service.scheduler.deadline import Deadline

Image = npt.NDArray[np.uint8]  # [H,W,3]
Output = npt.NDArray[Any]  # one row of a model's output: [classes] or [H,W]
Drop = Literal["rejected", "expired", "cancelled"]

_FIRST_COST_GUESS_S = 0.05


class Runnable(Protocol):
    """What a lane runs; a backend's loaded model is one. Compared by identity."""

    def run(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Runs uint8 [N,H,W,3] and returns N rows. Must be safe to call from several threads at once."""
        ...


class Observer(Protocol):
    """Told what happens; called under no lock, from the event loop or a worker thread, and must not raise.

    Queue depth is not among it: two threads could report it out of order, so its gauge reads `waiting()`.
    """

    def batch_run(self, target: Runnable, size: int) -> None:
        """A batch of `size` images was run, with or without success."""

    def dropped(self, target: Runnable, why: Drop, count: int) -> None:
        """`count` images left without a run: the queue was full, the deadline passed, or the waiter went away."""


class SilentObserver:
    """The observer that is told and says nothing."""

    def batch_run(self, target: Runnable, size: int) -> None:
        """See `Observer`."""

    def dropped(self, target: Runnable, why: Drop, count: int) -> None:
        """See `Observer`."""


class Outcome(NamedTuple):
    """One image's answer.

    Attributes:
        output: the image's row of the model's output.
        queue_s: seconds between submission and the start of the run.
        inference_s: seconds the whole batch's run took.
        batch_size: how many images shared the run.
        started: of the run, by `time.monotonic()`, which is the clock of `time.perf_counter()` on Linux and macOS.
    """

    output: Output
    queue_s: float
    inference_s: float
    batch_size: int
    started: float


@dataclass(slots=True, eq=False)
class Job:
    """One image that waits, and the future that its outcome finishes."""

    number: int
    image: Image
    deadline: Deadline | None
    submitted: float
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(slots=True, eq=False)
class Lane:
    """The waiting jobs of one target, and what it has cost so far."""

    target: Runnable
    jobs: dict[int, Job] = field(default_factory=dict)  # insertion-ordered: a queue with O(1) removal anywhere
    served_s: float = 0.0  # virtual time of start-time fair queueing
    cost_s: float = _FIRST_COST_GUESS_S  # moving average of run seconds per image
