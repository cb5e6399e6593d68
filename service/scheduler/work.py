"""Data types and protocols of the scheduler."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from service.scheduler.deadline import Deadline
from service.scheduler.fair import Share

Image = npt.NDArray[np.uint8]  # [H,W,3]
Output = npt.NDArray[Any]  # one row of a model's output: [classes] or [H,W]

#: Assumed cost of a run before the first one, seconds.
FIRST_COST_GUESS_S = 0.05


class Runnable(Protocol):
    """A network that a lane runs, such as a backend's `LoadedModel`. Compared by identity."""

    def run(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Runs uint8 [N,H,W,3] and returns N rows. Must be safe to call from several threads at once."""
        ...


#: Called after a batch of so many images was run, successfully or not: in the thread that ran it, without a lock held,
#: and before its waiters are answered. They wait for it, so it must be quick.
OnRun = Callable[[Runnable, int], None]


class Outcome(NamedTuple):
    """Outcome of one image.

    Attributes:
        output: the image's row of the model's output.
        queue_s: seconds between submission and the start of the run.
        inference_s: seconds that the run of the whole batch took.
        batch_size: number of images in the run.
        started: start of the run by `time.monotonic()`, the same clock as `time.perf_counter()` on Linux and macOS.
    """

    output: Output
    queue_s: float
    inference_s: float
    batch_size: int
    started: float


@dataclass(slots=True, eq=False)
class Job:
    """A waiting image, and the future of its outcome."""

    number: int
    image: Image
    deadline: Deadline | None
    submitted: float
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(slots=True, eq=False)
class Lane(Share):
    """The waiting jobs of one target, and the target's share of the workers."""

    target: Runnable
    jobs: dict[int, Job] = field(default_factory=dict)  # insertion-ordered: a queue with O(1) removal anywhere
