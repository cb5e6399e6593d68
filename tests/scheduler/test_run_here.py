"""A run in the thread of whoever made the image ready: only in its turn, booked as a worker's, and never twice."""

import asyncio
import threading

import pytest

from service.errors import BadOutputError, DeadlineExceededError
from service.scheduler import Deadline, Scheduler
from tests.scheduler.targets import Echo, hold, image, queued


def learned(scheduler: Scheduler, target: Echo) -> None:
    """Has the scheduler know that the target's runs are short, even where one of them was held up."""
    asyncio.run(scheduler.submit(target, image(0)))
    scheduler._lanes[target].cost_s = 0.0


def test_an_idle_scheduler_runs_a_short_one_in_the_callers_thread(make, tally):
    scheduler, target = make(), Echo()
    learned(scheduler, target)
    threads = []
    run = target.run
    target.run = lambda batch: threads.append(threading.current_thread()) or run(batch)
    before = len(tally.sizes)
    outcome = scheduler.run_here(target, image(7), Deadline.after(5))
    assert outcome is not None
    assert outcome.output.tolist() == [7.0]
    assert (outcome.batch_size, outcome.inference_s >= 0, 0 <= outcome.queue_s < 1) == (1, True, True)
    assert threads == [threading.current_thread()]
    assert tally.sizes[before:] == [1]
    assert scheduler.waiting() == 0


def test_what_was_never_run_or_takes_long_is_left_to_the_workers(make):
    scheduler, slow = make(), Echo(seconds=0.02)
    assert scheduler.run_here(slow, image(1)) is None
    asyncio.run(scheduler.submit(slow, image(0)))
    ran = len(slow.batches)
    assert scheduler.run_here(slow, image(1)) is None
    assert len(slow.batches) == ran


def test_it_never_runs_before_its_turn_nor_beside_busy_workers(make):
    scheduler, target, other = make(workers=1), Echo(), Echo()
    learned(scheduler, target)

    async def go() -> None:
        busy = await hold(scheduler, other)
        assert scheduler.run_here(target, image(1)) is None, "the only worker is busy"
        waiting = await queued(scheduler, scheduler.submit(other, image(2)))
        assert scheduler.run_here(target, image(1)) is None, "another one waits"
        other.go.set()
        await asyncio.gather(busy, *waiting)

    asyncio.run(go())
    assert scheduler.run_here(target, image(1)) is not None


def test_while_it_runs_no_worker_takes_its_place_and_then_one_takes_what_waits(make, monkeypatch):
    scheduler, target, other = make(workers=1), Echo(), Echo()
    learned(scheduler, target)
    target.go.clear()
    target.began.clear()
    here = threading.Thread(target=scheduler.run_here, args=(target, image(1)))
    here.start()
    assert target.began.wait(5)

    looked, wait = threading.Event(), scheduler._changed.wait
    monkeypatch.setattr(scheduler._changed, "wait", lambda: looked.set() or wait())  # the worker is in the old one

    async def go() -> float:
        waiting = await queued(scheduler, scheduler.submit(other, image(9)))
        assert await asyncio.to_thread(looked.wait, 5), "the worker has looked, and waits again"
        assert (scheduler.waiting(), other.batches) == (1, [])
        target.go.set()
        return (await asyncio.wait_for(waiting[0], 5)).output[0]

    assert asyncio.run(go()) == 9
    here.join(5)
    assert not here.is_alive()


def test_many_threads_and_callers_all_get_their_own_answer_and_workers_bound_the_runs(make):
    scheduler, under_way, most = make(workers=2, queue_size=500), 0, 0
    lock = threading.Lock()

    class Counted(Echo):
        def run(self, batch):
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            try:
                return super().run(batch)
            finally:
                with lock:
                    under_way -= 1

    target = Counted()
    learned(scheduler, target)

    async def one(value: int) -> float:
        outcome = await asyncio.to_thread(scheduler.run_here, target, image(value))
        if outcome is None:
            outcome = await scheduler.submit(target, image(value))
        return outcome.output[0]

    async def go() -> list[float]:
        return await asyncio.gather(*(one(i % 256) for i in range(300)))

    assert asyncio.run(go()) == [float(i % 256) for i in range(300)]
    assert most <= 2
    assert scheduler.waiting() == 0


def test_a_deadline_that_has_passed_is_not_run(make):
    scheduler, target = make(), Echo()
    learned(scheduler, target)
    ran = len(target.batches)
    with pytest.raises(DeadlineExceededError):
        scheduler.run_here(target, image(1), Deadline.after(-1))
    assert len(target.batches) == ran


@pytest.mark.parametrize("failure", [ValueError("no"), SystemExit(3)], ids=repr)
def test_a_failing_run_is_the_callers_and_leaves_room_for_the_next(make, failure):
    scheduler, target = make(workers=1), Echo()
    learned(scheduler, target)
    target.failure = failure
    with pytest.raises(type(failure)):
        scheduler.run_here(target, image(1))
    target.failure = None
    assert scheduler.run_here(target, image(2)).output[0] == 2
    assert asyncio.run(scheduler.submit(target, image(3))).output[0] == 3


def test_a_run_with_too_few_rows_is_refused(make):
    scheduler, target = make(), Echo()
    learned(scheduler, target)
    target.run = lambda batch: batch[:0]
    with pytest.raises(BadOutputError):
        scheduler.run_here(target, image(1))


def test_a_closed_scheduler_runs_nothing(make):
    scheduler, target = make(), Echo()
    learned(scheduler, target)
    scheduler.close(1)
    assert scheduler.run_here(target, image(1)) is None
