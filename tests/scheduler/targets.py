"""What the scheduler's tests have it run, and how they fill its queue."""

import asyncio
import threading
import time

import numpy as np

from service.scheduler import Scheduler

SIDE = 4


def image(value: int) -> np.ndarray:
    return np.full((SIDE, SIDE, 3), value, np.uint8)


class Echo:
    """Answers each image's first value; can be held, and can be told to fail."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.failure: BaseException | None = None
        self.batches: list[list[int]] = []
        self.log: list[object] | None = None

    def run(self, batch: np.ndarray) -> np.ndarray:
        self.began.set()
        assert self.go.wait(10)
        if self.seconds:
            time.sleep(self.seconds)
        self.batches.append(batch[:, 0, 0, 0].tolist())
        if self.log is not None:
            self.log.append(self)
        if self.failure is not None:
            raise self.failure
        return batch[:, 0, 0, :1].astype(np.float32)


async def hold(scheduler: Scheduler, target: Echo) -> asyncio.Task:
    """Occupies one worker with a run that lasts until `target.go` is set."""
    target.go.clear()
    target.began.clear()  # an earlier run has set it
    task = asyncio.create_task(scheduler.submit(target, image(255)))
    assert await asyncio.to_thread(target.began.wait, 5)
    return task


async def queued(scheduler: Scheduler, *submissions) -> list[asyncio.Task]:
    """Starts submissions in order and lets them reach the queue."""
    tasks = []
    for submission in submissions:
        tasks.append(asyncio.create_task(submission))
        await asyncio.sleep(0)
    return tasks
