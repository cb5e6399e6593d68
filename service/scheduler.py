"""Bounded, fair, deadline-aware execution of model runs; knows no HTTP and no ONNX Runtime.

A `Scheduler` owns a fixed number of worker threads. Each worker takes one batch at a time and calls
`target.run(batch)`; the run releases the GIL, so N workers keep N cores busy. Work waits in one *lane* per target:

* **Bounded.** A lane holds at most `queue_size` waiting images; beyond that `submit` raises `OverloadedError` at once,
  with an estimate of when to come back. A lane of its own means that a full queue of slow depth requests never turns a
  classify request away.
* **Fair by time.** The next batch comes from the lane that has received the least run time (start-time fair queueing),
  not from the oldest job, so 30 ms depth runs cannot starve 3 ms classify runs.
* **Opportunistic batching, delay 0.** A worker takes up to `max_batch` jobs of the lane that happen to wait; it never
  waits for more. The default is 1: a 1-bit network on a CPU is compute-bound at batch 1 already.
* **Every future is finished**, whatever fails: a raising run, a run with the wrong number of rows, a passed deadline, a
  cancelled waiter, a closed scheduler.
"""

import asyncio
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, ParamSpec, Protocol, Self

import numpy as np
import numpy.typing as npt

from service.errors import BadOutputError, DeadlineExceededError, NotReadyError, OverloadedError

log = logging.getLogger(__name__)

P = ParamSpec("P")
Image = npt.NDArray[np.uint8]  # [H,W,3]
Output = npt.NDArray[Any]  # one row of a model's output: [classes] or [H,W]
Drop = Literal["rejected", "expired", "cancelled"]

_FIRST_COST_GUESS_S = 0.05
_COST_SMOOTHING = 0.2  # weight of the newest run in the moving average of a lane's cost


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


class Runnable(Protocol):
    """What a lane runs; a backend's loaded model is one. Compared by identity."""

    def run(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Runs uint8 [N,H,W,3] and returns N rows. Must be safe to call from several threads at once."""
        ...


class Observer(Protocol):
    """Told what happens; called under no lock, from the event loop or a worker thread, and must not raise.

    Queue depth is not among it: two threads could report it out of order, so gauges read `waiting()` and `running()`.
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


@dataclass(frozen=True, slots=True)
class Outcome:
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
class _Job:
    number: int
    image: Image
    deadline: Deadline | None
    submitted: float
    future: Future[Outcome] = field(default_factory=Future)


@dataclass(slots=True, eq=False)
class _Lane:
    """The waiting jobs of one target, and what it has cost so far."""

    target: Runnable
    jobs: dict[int, _Job] = field(default_factory=dict)  # insertion-ordered: a queue with O(1) removal anywhere
    served_s: float = 0.0  # virtual time of start-time fair queueing
    cost_s: float = _FIRST_COST_GUESS_S  # moving average of run seconds per image


class Scheduler:
    """Runs submitted images on worker threads. See the module's text for the policy.

    Args:
        workers: threads, each running one batch at a time.
        queue_size: waiting images per target before `OverloadedError`.
        max_batch: most images of one run.
        observer: told of queue depth, batches and drops.
    """

    def __init__(self, *, workers: int, queue_size: int, max_batch: int = 1, observer: Observer | None = None) -> None:
        for name, value in (("workers", workers), ("queue_size", queue_size), ("max_batch", max_batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.workers, self.queue_size, self.max_batch = workers, queue_size, max_batch
        self._observer: Observer = observer or SilentObserver()
        self._changed = threading.Condition()
        self._lanes: dict[Runnable, _Lane] = {}
        self._forgotten: weakref.WeakSet[Runnable] = weakref.WeakSet()
        self._numbers = itertools.count()
        self._virtual_s = 0.0
        self._waiting = 0
        self._running = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"bireal-worker-{index}", daemon=True) for index in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    # ---- the asynchronous side -------------------------------------------------------------------------------------

    async def submit(self, target: Runnable, image: Image, deadline: Deadline | None = None) -> Outcome:
        """Runs one image; see `submit_many`."""
        return (await self.submit_many(target, [image], deadline))[0]

    async def submit_many(
        self, target: Runnable, images: Sequence[Image], deadline: Deadline | None = None
    ) -> list[Outcome]:
        """Runs the images of one request, admitted all or none, and returns their outcomes in order.

        Cancelling the awaiting task drops what still waits; a run that has begun is finished and its result discarded.

        Args:
            target: what runs them.
            images: uint8 [H,W,3] each.
            deadline: after which nobody wants the answer; None waits for ever.

        Raises:
            OverloadedError: the target's queue is full.
            DeadlineExceededError: the deadline passed before the answer was there.
            NotReadyError: the scheduler is closing.
            Exception: whatever the run itself raised.
        """
        jobs = self._enqueue(target, images, deadline)
        why: Drop = "cancelled"
        try:
            async with nullcontext() if deadline is None else deadline.enforced():
                if len(jobs) == 1:  # nearly always: without what gathering costs
                    return [await asyncio.wrap_future(jobs[0].future)]
                return list(await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs)))
        except DeadlineExceededError:
            why = "expired"
            raise
        finally:
            self._withdraw(target, jobs, why)

    def waiting(self) -> int:
        """Images that wait for a worker, over all targets."""
        return self._waiting

    def running(self) -> int:
        """Images in a run right now."""
        return self._running

    def expected_wait_s(self) -> float:
        """Seconds until the images waiting now will have been run, by the moving average of what each target costs."""
        with self._changed:
            return sum(len(lane.jobs) * lane.cost_s for lane in self._lanes.values()) / self.workers

    def check_room(self, target: Runnable) -> None:
        """Raises `OverloadedError` if the target's queue is full: asked before decoding, to spare a reject its cost."""
        with self._changed:
            lane = self._lanes.get(target)
            full = lane is not None and len(lane.jobs) >= self.queue_size
        if full:
            self._observer.dropped(target, "rejected", 1)
            raise self._overloaded()

    def forget(self, target: Runnable) -> None:
        """Lets go of a target that was unloaded: now, or when what waits for it has been run or withdrawn."""
        with self._changed:
            self._forgotten.add(target)
            self._drop_if_idle(self._lanes.get(target))

    def _drop_if_idle(self, lane: "_Lane | None") -> None:
        """Called with the lock held, wherever a lane may have become empty."""
        if lane is not None and not lane.jobs and lane.target in self._forgotten:
            self._lanes.pop(lane.target, None)

    def close(self, timeout_s: float = 0.0) -> None:
        """Refuses new images, runs what waits for up to `timeout_s` seconds, then fails the rest (`NotReadyError`)."""
        give_up = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        with self._changed:
            left = [job for lane in self._lanes.values() for job in lane.jobs.values()]
            for lane in self._lanes.values():
                lane.jobs.clear()
            self._waiting = 0
        for job in left:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(NotReadyError("The server is shutting down and did not come to this image."))

    # ---- admission and withdrawal ----------------------------------------------------------------------------------

    def _enqueue(self, target: Runnable, images: Sequence[Image], deadline: Deadline | None) -> list[_Job]:
        now = time.monotonic()
        if deadline is not None and deadline.at <= now:
            self._observer.dropped(target, "expired", len(images))
            deadline.check()
        jobs = [_Job(next(self._numbers), image, deadline, now) for image in images]
        with self._changed:
            if self._closing:
                raise NotReadyError("The server is shutting down and takes no new images.")
            lane = self._lanes.get(target)
            if lane is None:
                lane = self._lanes[target] = _Lane(target)
            # A request of more images than the queue holds is let into an empty lane: it could never be admitted else.
            full = bool(lane.jobs) and len(lane.jobs) + len(jobs) > self.queue_size
            if not full:
                if not lane.jobs:  # idle time earns no credit
                    lane.served_s = max(lane.served_s, self._virtual_s)
                lane.jobs.update((job.number, job) for job in jobs)
                self._waiting += len(jobs)
                self._changed.notify(len(jobs))
        if full:
            self._observer.dropped(target, "rejected", len(jobs))
            raise self._overloaded()
        return jobs

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(self.queue_size, retry_after_s=self.expected_wait_s())

    def _withdraw(self, target: Runnable, jobs: Sequence[_Job], why: Drop) -> None:
        """Takes the jobs that still wait out of the queue; those that ran or run are left to their worker."""
        left = [job for job in jobs if job.future.cancel()]
        if not left:
            return
        with self._changed:
            lane = self._lanes.get(target)
            gone = [job for job in left if lane is not None and lane.jobs.pop(job.number, None) is not None]
            self._waiting -= len(gone)
            self._drop_if_idle(lane)
        if gone:  # a job that a worker took out first was counted there
            self._observer.dropped(target, why, len(gone))

    # ---- the worker's side -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            lane, batch = taken
            if batch:
                self._run(lane, batch)
            del taken, lane, batch  # while this thread waits, it must not keep a network that was unloaded

    def _take(self) -> tuple[_Lane, list[_Job]] | None:
        """Waits for work. Returns the jobs to run, already marked as running; None when closed and nothing waits."""
        expired: list[_Job] = []
        cancelled = 0
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            lane = min((lane for lane in self._lanes.values() if lane.jobs), key=lambda lane: lane.served_s)
            now = time.monotonic()
            batch: list[_Job] = []
            while lane.jobs and len(batch) < self.max_batch:
                job = next(iter(lane.jobs.values()))
                if batch and job.image.shape != batch[0].image.shape:
                    break
                del lane.jobs[job.number]
                self._waiting -= 1
                if not job.future.set_running_or_notify_cancel():
                    cancelled += 1
                elif job.deadline is not None and job.deadline.at <= now:
                    expired.append(job)
                else:
                    batch.append(job)
            self._drop_if_idle(lane)
            self._virtual_s = max(self._virtual_s, lane.served_s)
            # Charged in advance by the estimate, so that several workers do not all pick this lane; `_run` corrects it.
            lane.served_s += lane.cost_s * len(batch)
            self._running += len(batch)
        for job in expired:
            assert job.deadline is not None
            job.future.set_exception(DeadlineExceededError(job.deadline.timeout_s))
        if expired:
            self._tell(self._observer.dropped, lane.target, "expired", len(expired))
        if cancelled:
            self._tell(self._observer.dropped, lane.target, "cancelled", cancelled)
        return lane, batch

    def _tell(self, hear: Callable[P, None], *what: P.args, **named: P.kwargs) -> None:
        """Tells the observer from a worker: whatever it does with that, the worker lives on."""
        try:
            hear(*what, **named)
        except Exception:
            log.exception("the scheduler's observer failed")

    def _run(self, lane: _Lane, batch: list[_Job]) -> None:
        charged_s = lane.cost_s * len(batch)
        outputs: Sequence[Output] = ()
        failure: Exception | None = None
        started = time.monotonic()
        try:
            outputs = list(_run_batch(lane.target, [job.image for job in batch]))
        except BaseException as error:  # noqa: BLE001  whatever it raises, waiters get an answer and the worker lives on
            # An exit raised in a worker must not travel through a future into the event loop and end that.
            failure = error if isinstance(error, Exception) else RuntimeError(f"the run ended with {error!r}")
        seconds = time.monotonic() - started
        with self._changed:
            self._running -= len(batch)
            lane.served_s += seconds - charged_s
            lane.cost_s += _COST_SMOOTHING * (seconds / len(batch) - lane.cost_s)
        for index, job in enumerate(batch):
            if failure is not None:
                job.future.set_exception(failure)
            else:
                job.future.set_result(Outcome(outputs[index], started - job.submitted, seconds, len(batch), started))
        self._tell(self._observer.batch_run, lane.target, len(batch))


def _run_batch(target: Runnable, images: list[Image]) -> npt.NDArray[Any]:
    """Runs images of one shape, uint8 [H,W,3] each, and returns a row for each; one image is not copied."""
    rows = target.run(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
    if len(rows) != len(images):
        raise BadOutputError(f"The network answered {len(rows)} rows to a batch of {len(images)} images.")
    return rows
