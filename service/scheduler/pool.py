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
* **At once where nobody is before it.** A thread that has just made an image ready may run it itself (`run_here`) if a
  worker is idle and the run is short: the two hand-overs between threads would cost more CPU than they are worth.
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
from contextlib import nullcontext
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt

from service.errors import BadOutputError, DeadlineExceededError, NotReadyError, OverloadedError
from service.scheduler.deadline import Deadline
from service.scheduler.work import (
    FIRST_COST_GUESS_S,
    Drop,
    Image,
    Job,
    Lane,
    Observer,
    Outcome,
    Output,
    Runnable,
    SilentObserver,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")

# What takes longer is worth the way to a worker: the thread that would run it has other work to do. As long as the
# decoding of a photograph, for which that thread may be away anyhow.
_SHORT_S = 0.010
_COST_SMOOTHING = 0.2  # weight of the newest run in the moving average of a lane's cost


class Scheduler:
    """Runs submitted images on worker threads. See the module's text for the policy.

    Args:
        workers: threads, each running one batch at a time.
        queue_size: waiting images per target before `OverloadedError`.
        max_batch: most images of one run.
        observer: told of batches and drops.
    """

    def __init__(self, *, workers: int, queue_size: int, max_batch: int = 1, observer: Observer | None = None) -> None:
        for name, value in (("workers", workers), ("queue_size", queue_size), ("max_batch", max_batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        self.workers, self.queue_size, self.max_batch = workers, queue_size, max_batch
        self._observer: Observer = observer or SilentObserver()
        self._changed = threading.Condition()
        self._lanes: dict[Runnable, Lane] = {}
        self._forgotten: weakref.WeakSet[Runnable] = weakref.WeakSet()
        self._numbers = itertools.count()
        self._virtual_s = 0.0
        self._waiting = 0
        self._busy = 0  # runs under way, whatever thread they are in; never more than `workers`
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

    def run_here(self, target: Runnable, image: Image, deadline: Deadline | None = None) -> Outcome | None:
        """Runs an image in the calling thread, if it would be its turn at once and the run is short.

        It counts as a worker's run: never more than `workers` are under way, and its time is charged to the target.

        Args:
            target: what runs it.
            image: uint8 [H,W,3].
            deadline: as for `submit`.

        Returns:
            The outcome; None where something waits, no worker is idle, or the run takes long: `submit` it then.

        Raises:
            DeadlineExceededError: the deadline has passed.
            Exception: whatever the run itself raised.
        """
        now = time.monotonic()
        if deadline is not None and deadline.at <= now:
            self._observer.dropped(target, "expired", 1)
            deadline.check()
        with self._changed:
            lane = self._lanes.get(target)
            if self._waiting or self._busy >= self.workers or self._closing or lane is None or lane.cost_s > _SHORT_S:
                return None
            lane.served_s = max(lane.served_s, self._virtual_s)
            charged_s = self._start(lane, 1)
        started = time.monotonic()
        try:
            output = _run_batch(target, [image])[0]
        finally:
            seconds = time.monotonic() - started
            self._ended(lane, 1, seconds, charged_s)
            self._tell(self._observer.batch_run, target, 1)
        return Outcome(output, started - now, seconds, 1, started)

    def waiting(self) -> int:
        """Images that wait for a worker, over all targets."""
        return self._waiting

    def expected_wait_s(self) -> float:
        """Seconds until the images waiting now will have been run, by the moving average of what each target costs."""
        with self._changed:
            return sum(len(lane.jobs) * lane.cost_s for lane in self._lanes.values()) / self.workers

    def cost_s(self, target: Runnable) -> float | None:
        """Seconds that a run of one image takes, by the moving average of what was measured; None before the first."""
        with self._changed:  # both of one run
            lane = self._lanes.get(target)
            if lane is None or not lane.runs:
                return None
            cost_s, runs = lane.cost_s, lane.runs
        guessed = (1 - _COST_SMOOTHING) ** runs  # what is left of the guess that the average began with
        return (cost_s - guessed * FIRST_COST_GUESS_S) / (1 - guessed)

    def check_room(self, target: Runnable) -> None:
        """Raises `OverloadedError` if the target's queue is full: asked before decoding, to spare a reject its cost."""
        lane = self._lanes.get(target)
        if lane is not None and len(lane.jobs) >= self.queue_size:  # of this moment: the queue itself counts again
            self._observer.dropped(target, "rejected", 1)
            raise self._overloaded()

    def forget(self, target: Runnable) -> None:
        """Lets go of a target that was unloaded: now, or when what waits for it has been run or withdrawn."""
        with self._changed:
            self._forgotten.add(target)
            self._drop_if_idle(self._lanes.get(target))

    def _drop_if_idle(self, lane: "Lane | None") -> None:
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

    def _enqueue(self, target: Runnable, images: Sequence[Image], deadline: Deadline | None) -> list[Job]:
        now = time.monotonic()
        if deadline is not None and deadline.at <= now:
            self._observer.dropped(target, "expired", len(images))
            deadline.check()
        jobs = [Job(next(self._numbers), image, deadline, now) for image in images]
        with self._changed:
            if self._closing:
                raise NotReadyError("The server is shutting down and takes no new images.")
            lane = self._lanes.get(target)
            if lane is None:
                lane = self._lanes[target] = Lane(target)
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

    def _withdraw(self, target: Runnable, jobs: Sequence[Job], why: Drop) -> None:
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
            lane, batch, charged_s = taken
            if batch:
                self._run(lane, batch, charged_s)
            del taken, lane, batch  # while this thread waits, it must not keep a network that was unloaded

    def _take(self) -> tuple[Lane, list[Job], float] | None:
        """Waits for work.

        Returns:
            The jobs to run, already marked as running, and the seconds charged for them; None when closed and nothing
            waits.
        """
        expired: list[Job] = []
        cancelled = 0
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
                    cancelled += 1
                elif job.deadline is not None and job.deadline.at <= now:
                    expired.append(job)
                else:
                    batch.append(job)
            self._drop_if_idle(lane)
            charged_s = self._start(lane, len(batch))
        for job in expired:
            assert job.deadline is not None
            job.future.set_exception(job.deadline.error())
        if expired:
            self._tell(self._observer.dropped, lane.target, "expired", len(expired))
        if cancelled:
            self._tell(self._observer.dropped, lane.target, "cancelled", cancelled)
        return lane, batch, charged_s

    def _start(self, lane: Lane, images: int) -> float:
        """Books a run that is about to begin; called with the lock held. No images: there is nothing to run.

        Returns:
            The seconds that it was charged.
        """
        self._virtual_s = max(self._virtual_s, lane.served_s)
        # Charged in advance by the estimate, so that several workers do not all pick this lane; `_ended` corrects it.
        lane.served_s += lane.cost_s * images
        self._busy += bool(images)
        return lane.cost_s * images

    def _ended(self, lane: Lane, images: int, seconds: float, charged_s: float) -> None:
        """Books a run that has ended, in place of what `_start` charged: the estimate may have changed since."""
        with self._changed:
            self._busy -= 1
            if self._waiting:  # a worker may have found all of them busy
                self._changed.notify()
            elif self._closing:
                self._changed.notify_all()
            lane.served_s += seconds - charged_s
            lane.cost_s += _COST_SMOOTHING * (seconds / images - lane.cost_s)
            lane.runs += 1

    def _tell(self, hear: Callable[P, None], *what: P.args, **named: P.kwargs) -> None:
        """Tells the observer from a worker: whatever it does with that, the worker lives on."""
        try:
            hear(*what, **named)
        except Exception:
            log.exception("the scheduler's observer failed")

    def _run(self, lane: Lane, batch: list[Job], charged_s: float) -> None:
        outputs: Sequence[Output] = ()
        failure: Exception | None = None
        started = time.monotonic()
        try:
            outputs = list(_run_batch(lane.target, [job.image for job in batch]))
        except BaseException as error:  # noqa: BLE001  whatever it raises, waiters get an answer and the worker lives on
            # An exit raised in a worker must not travel through a future into the event loop and end that.
            failure = error if isinstance(error, Exception) else RuntimeError(f"the run ended with {error!r}")
        seconds = time.monotonic() - started
        self._ended(lane, len(batch), seconds, charged_s)
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
