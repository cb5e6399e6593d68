"""Bounded, fair, deadline-aware execution of model runs, independent of HTTP and ONNX Runtime.

A `Scheduler` owns a fixed number of worker threads. Each worker takes one batch at a time and calls
`target.run(batch)`; the run releases the GIL, so N workers keep N cores busy. Work waits in one *lane* per target:

* **Bounded.** A lane holds at most `queue_size` waiting images. Beyond that, `submit` raises `OverloadedError` at once,
  with an estimate of when to retry. Because each target has its own lane, a full queue of slow depth requests never
  causes a classify request to be rejected.
* **Fair by time.** The next batch comes from the lane that has received the least run time (start-time fair queueing),
  not from the oldest job, so 30 ms depth runs cannot starve 3 ms classify runs.
* **Opportunistic batching without delay.** A worker takes up to `max_batch` jobs that are already waiting in the lane.
  It never waits for more. The default is 1, because a 1-bit network on a CPU is already compute-bound at batch 1.
* **Direct runs.** A thread that has just prepared an image may run it itself (`run_here`) if nothing waits, a worker is
  idle and the run is short. Handing the image to a worker and back would cost more CPU time than it is worth.
* **Every future is completed**, even if a run fails or returns the wrong number of rows, a deadline passes, a waiter is
  cancelled, or the scheduler is closed.
"""

import asyncio
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import BadOutputError, NotReadyError, OverloadedError
from service.scheduler.deadline import Deadline
from service.scheduler.fair import FairClock
from service.scheduler.work import (
    FIRST_COST_GUESS_S,
    Image,
    Job,
    Lane,
    OnRun,
    Outcome,
    Output,
    Runnable,
)

log = logging.getLogger(__name__)

# Longer runs are handed to a worker, because the calling thread has other work. The limit is the time to decode a
# photograph, for which that thread may be blocked anyway.
_SHORT_S = 0.010


class Scheduler:
    """Runs submitted images on worker threads. See the module's docstring for the policy.

    Args:
        workers: number of threads, each of which runs one batch at a time.
        queue_size: maximum number of waiting images per target.
        max_batch: maximum number of images per run.
        on_run: called after every run; see `OnRun`.
    """

    def __init__(self, *, workers: int, queue_size: int, max_batch: int = 1, on_run: OnRun | None = None) -> None:
        for name, value in (("workers", workers), ("queue_size", queue_size), ("max_batch", max_batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.workers, self.queue_size, self.max_batch = workers, queue_size, max_batch
        self._on_run = on_run
        self._changed = threading.Condition()
        self._lanes: dict[Runnable, Lane] = {}
        self._forgotten: weakref.WeakSet[Runnable] = weakref.WeakSet()
        self._numbers = itertools.count()
        self._clock = FairClock()
        self._waiting = 0
        self._busy = 0  # number of runs in progress in any thread; at most `workers`
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
        """Runs the images of one request and returns their outcomes in order. Either all are admitted or none.

        If the awaiting task is cancelled, waiting images are dropped. Runs in progress finish, and their results are
        discarded.

        Args:
            target: the network that runs them.
            images: uint8 [H,W,3] each.
            deadline: the time to give up; None waits forever.

        Raises:
            OverloadedError: the target's queue is full.
            DeadlineExceededError: the deadline passed before all images had run.
            NotReadyError: the scheduler is closing.
            Exception: any exception of the run itself.
        """
        if not images:  # else an unloaded network would get a lane again, which nothing ever removes
            return []
        jobs = self._enqueue(target, images, deadline)
        try:
            async with nullcontext() if deadline is None else deadline.enforced():
                if len(jobs) == 1:  # the usual case, without the cost of `gather`
                    return [await asyncio.wrap_future(jobs[0].future)]
                return list(await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs)))
        finally:
            self._withdraw(target, jobs)

    def run_here(self, target: Runnable, image: Image, deadline: Deadline | None = None) -> Outcome | None:
        """Runs an image in the calling thread, if it would not have to wait and the run is short.

        The run counts as a worker's: at most `workers` runs are in progress, and its time is charged to the target.

        Args:
            target: the network that runs it.
            image: uint8 [H,W,3].
            deadline: as for `submit_many`.

        Returns:
            The outcome. None if other images wait, no worker is idle, or the run is long; use `submit` then.

        Raises:
            DeadlineExceededError: the deadline has passed.
            Exception: any exception of the run itself.
        """
        if deadline is not None:
            deadline.check()
        with self._changed:
            lane = self._lanes.get(target)
            if self._waiting or self._busy >= self.workers or self._closing or lane is None or lane.cost_s > _SHORT_S:
                return None
            self._clock.join(lane)
            charged_s = self._start(lane, 1)
        started = time.monotonic()
        try:
            output = _run_batch(target, [image])[0]
        finally:
            seconds = time.monotonic() - started
            self._ended(lane, 1, seconds, charged_s)
            self._notify(target, 1)
        return Outcome(output, 0.0, seconds, 1, started)

    def waiting(self) -> int:
        """Number of images that wait for a worker, over all targets."""
        return self._waiting

    def expected_wait_s(self) -> float:
        """Estimated seconds until all images that wait now have run, by the moving average of each target's cost."""
        with self._changed:
            return sum(len(lane.jobs) * lane.cost_s for lane in self._lanes.values()) / self.workers

    def cost_s(self, target: Runnable) -> float | None:
        """Moving average of the seconds that a run takes per image; None before the first run."""
        with self._changed:  # read both values of the same run
            lane = self._lanes.get(target)
            return None if lane is None else lane.measured_cost_s(FIRST_COST_GUESS_S)

    def check_room(self, target: Runnable, images: int) -> None:
        """Raises `OverloadedError` if `submit_many` would. Called early, to refuse a request before it is decoded."""
        lane = self._lanes.get(target)
        if lane is not None and self._is_full(lane, images):  # a snapshot: `submit` checks again under the lock
            raise self._overloaded()

    def forget(self, target: Runnable) -> None:
        """Releases a target that was unloaded, once no image waits for it."""
        with self._changed:
            self._forgotten.add(target)
            self._drop_if_idle(self._lanes.get(target))

    def _drop_if_idle(self, lane: "Lane | None") -> None:
        """Removes the lane of a forgotten target if it is empty. Called with the lock held."""
        if lane is not None and not lane.jobs and lane.target in self._forgotten:
            self._lanes.pop(lane.target, None)

    def close(self, timeout_s: float = 0.0) -> None:
        """Rejects new images, runs waiting ones for up to `timeout_s` seconds, and fails the rest (`NotReadyError`)."""
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
                job.future.set_exception(NotReadyError("The server shut down before this image was run."))

    # ---- admission and withdrawal ----------------------------------------------------------------------------------

    def _enqueue(self, target: Runnable, images: Sequence[Image], deadline: Deadline | None) -> list[Job]:
        if deadline is not None:
            deadline.check()
        now = time.monotonic()
        jobs = [Job(next(self._numbers), image, deadline, now) for image in images]
        with self._changed:
            if self._closing:
                raise NotReadyError("The server is shutting down and takes no new images.")
            lane = self._lanes.get(target)
            if lane is None:
                lane = self._lanes[target] = Lane(target, cost_s=FIRST_COST_GUESS_S)
            full = self._is_full(lane, len(jobs))
            if not full:
                if not lane.jobs:  # an idle lane must not accumulate credit
                    self._clock.join(lane)
                lane.jobs.update((job.number, job) for job in jobs)
                self._waiting += len(jobs)
                self._changed.notify(len(jobs))
        if full:
            raise self._overloaded()
        return jobs

    def _is_full(self, lane: Lane, images: int) -> bool:
        """Whether a lane has no room for the images of a request.

        An empty lane admits a request with more images than the queue holds, which could never run otherwise.
        """
        return bool(lane.jobs) and len(lane.jobs) + images > self.queue_size

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(self.queue_size, self.expected_wait_s(), "network")

    def _withdraw(self, target: Runnable, jobs: Sequence[Job]) -> None:
        """Removes jobs that still wait from the queue; those that a worker has started are left to it."""
        left = [job for job in jobs if job.future.cancel()]
        if not left:
            return
        with self._changed:
            lane = self._lanes.get(target)
            gone = [job for job in left if lane is not None and lane.jobs.pop(job.number, None) is not None]
            self._waiting -= len(gone)
            self._drop_if_idle(lane)

    # ---- the worker's side -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            lane, batch, charged_s = taken
            if batch:
                self._run(lane, batch, charged_s)
            del taken, lane, batch  # so that this thread does not keep an unloaded network alive while it waits

    def _take(self) -> tuple[Lane, list[Job], float] | None:
        """Waits for work.

        Returns:
            The lane, the jobs to run, already marked as running, and the seconds charged for them; None when the
            scheduler is closed and nothing waits.
        """
        expired: list[Job] = []
        with self._changed:
            while not self._waiting or self._busy >= self.workers:
                if self._closing and not self._waiting:
                    return None
                self._changed.wait()
            lane = min((lane for lane in self._lanes.values() if lane.jobs), key=lambda lane: lane.served_s)
            now = time.monotonic()
            batch: list[Job] = []
            while lane.jobs and len(batch) < self.max_batch:
                job = next(iter(lane.jobs.values()))
                if batch and job.image.shape != batch[0].image.shape:
                    break
                del lane.jobs[job.number]
                self._waiting -= 1
                if not job.future.set_running_or_notify_cancel():
                    continue  # its waiter has left
                if job.deadline is not None and job.deadline.at <= now:
                    expired.append(job)
                else:
                    batch.append(job)
            self._drop_if_idle(lane)
            charged_s = self._start(lane, len(batch))
        for job in expired:
            assert job.deadline is not None
            job.future.set_exception(job.deadline.error())
        return lane, batch, charged_s

    def _start(self, lane: Lane, images: int) -> float:
        """Accounts for a run that is about to start; called with the lock held. With 0 images, nothing runs.

        Returns:
            The seconds charged to the lane.
        """
        self._busy += bool(images)
        return self._clock.start(lane, images)

    def _ended(self, lane: Lane, images: int, seconds: float, charged_s: float) -> None:
        """Replaces the charge of `_start` by the measured time of a run that has ended."""
        with self._changed:
            self._busy -= 1
            if self._waiting:  # a worker may be waiting because all runs were taken
                self._changed.notify()
            elif self._closing:
                self._changed.notify_all()
            self._clock.end(lane, seconds, charged_s, images)

    def _notify(self, target: Runnable, size: int) -> None:
        """Tells `on_run` of a run; its exceptions are logged, so that they do not end the worker."""
        if self._on_run is None:
            return
        try:
            self._on_run(target, size)
        except BaseException:  # an exit would end the worker, and with the last one every request would wait for ever
            log.exception("what is called after a run failed")

    def _run(self, lane: Lane, batch: list[Job], charged_s: float) -> None:
        outputs: Sequence[Output] = ()
        failure: Exception | None = None
        started = time.monotonic()
        try:
            outputs = list(_run_batch(lane.target, [job.image for job in batch]))
        except BaseException as error:  # noqa: BLE001  waiters must get an answer and the worker must survive
            # A SystemExit raised in a worker must not reach the event loop through the future and end it.
            failure = error if isinstance(error, Exception) else RuntimeError(f"the run ended with {error!r}")
        seconds = time.monotonic() - started
        self._ended(lane, len(batch), seconds, charged_s)
        self._notify(lane.target, len(batch))  # first, so that whoever has an answer finds its run counted
        for index, job in enumerate(batch):
            if failure is not None:
                job.future.set_exception(failure)
            else:
                queue_s = started - job.submitted
                job.future.set_result(Outcome(outputs[index], queue_s, seconds, len(batch), started))


def _run_batch(target: Runnable, images: list[Image]) -> npt.NDArray[Any]:
    """Runs images of the same shape, uint8 [H,W,3], and returns one row per image; a single image is not copied."""
    rows = target.run(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
    if len(rows) != len(images):
        raise BadOutputError(f"The network returned {len(rows)} rows for a batch of {len(images)} images.")
    return rows
