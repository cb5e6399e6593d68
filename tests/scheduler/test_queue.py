"""The scheduler's promises: bounded, fair, in time, each caller its own answer."""

import asyncio
import math
import threading
import time

import numpy as np
import pytest

from service.errors import DeadlineExceededError, OverloadedError
from service.scheduler import Deadline, Scheduler
from service.scheduler.work import FIRST_COST_GUESS_S
from tests.scheduler.targets import SIDE, Echo, hold, image, queued


def test_an_answer_is_the_images_own_row_with_its_timings(make, tally):
    outcome = asyncio.run(make().submit(Echo(seconds=0.02), image(7)))
    assert outcome.output.tolist() == [7.0]
    assert outcome.inference_s >= 0.02
    assert 0 <= outcome.queue_s < 1
    assert outcome.batch_size == 1
    assert tally.sizes == [1], "a run is reported before its images are answered"


def test_many_callers_each_get_their_own_answer(make):
    scheduler, target = make(workers=3, queue_size=500, max_batch=4), Echo()

    async def go() -> list[float]:
        outcomes = await asyncio.gather(*(scheduler.submit(target, image(i % 256)) for i in range(400)))
        return [outcome.output[0] for outcome in outcomes]

    assert asyncio.run(go()) == [float(i % 256) for i in range(400)]
    assert scheduler.waiting() == 0


def test_images_of_one_request_keep_their_order(make):
    scheduler = make(workers=2)
    outcomes = asyncio.run(scheduler.submit_many(Echo(), [image(i) for i in range(8)]))
    assert [outcome.output[0] for outcome in outcomes] == list(range(8))


def test_workers_run_at_the_same_time(make):
    scheduler, target = make(workers=3), Echo()
    inside = threading.Barrier(3, timeout=5)

    class Meeting:
        def run(self, batch: np.ndarray) -> np.ndarray:
            inside.wait()  # passes only if three runs are under way together
            return target.run(batch)

    outcomes = asyncio.run(scheduler.submit_many(Meeting(), [image(i) for i in range(3)]))
    assert [outcome.output[0] for outcome in outcomes] == [0, 1, 2]
    assert not inside.broken


def test_waiting_images_share_a_run_up_to_the_limit_and_nobody_waits_for_company(make, tally):
    scheduler, target = make(max_batch=4), Echo()

    async def go() -> list[int]:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(6)))
        target.go.set()
        return [outcome.batch_size for outcome in await asyncio.gather(first, *rest)]

    assert asyncio.run(go()) == [1, 4, 4, 4, 4, 2, 2]
    assert target.batches == [[255], [0, 1, 2, 3], [4, 5]]
    assert tally.sizes == [1, 4, 2]


def test_images_of_different_sizes_never_share_a_run(make):
    scheduler, target = make(max_batch=4), Echo()
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)

    async def go() -> list[int]:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, i) for i in (image(1), image(2), wide, image(3))))
        target.go.set()
        await first
        return [outcome.batch_size for outcome in await asyncio.gather(*rest)]

    assert asyncio.run(go()) == [2, 2, 1, 1]


def test_a_full_queue_is_told_at_once_with_a_time_to_come_back(make):
    scheduler, target, other = make(queue_size=2), Echo(), Echo()

    async def go() -> OverloadedError:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(2)))
        with pytest.raises(OverloadedError) as caught:
            scheduler.check_room(target, 1)
        scheduler.check_room(other, 1)
        with pytest.raises(OverloadedError):
            await scheduler.submit(target, image(9))
        # another model's queue is its own
        elsewhere = await queued(scheduler, scheduler.submit(other, image(3)))
        target.go.set()
        await asyncio.gather(first, *rest, *elsewhere)
        return caught.value

    error = asyncio.run(go())
    assert error.status == 429
    assert int(error.headers["Retry-After"]) >= 1
    assert [9] not in target.batches


def test_a_request_is_admitted_whole_or_not_at_all(make):
    scheduler, target = make(queue_size=3), Echo()

    async def go() -> None:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(2)))
        with pytest.raises(OverloadedError):
            await scheduler.submit_many(target, [image(8), image(9)])
        with pytest.raises(OverloadedError):
            scheduler.check_room(target, 2)  # before they are decoded
        scheduler.check_room(target, 1)
        assert scheduler.waiting() == 2
        target.go.set()
        await asyncio.gather(first, *rest)
        scheduler.check_room(target, 5)
        # larger than the queue, but alone: it could never be answered otherwise
        assert len(await scheduler.submit_many(target, [image(i) for i in range(5)])) == 5

    asyncio.run(go())


def test_a_request_without_images_keeps_no_unloaded_network(make):
    scheduler, target = make(), Echo()
    asyncio.run(scheduler.submit_many(target, [image(0)]))
    scheduler.forget(target)
    assert asyncio.run(scheduler.submit_many(target, [])) == []
    assert target not in scheduler._lanes


def test_the_retry_time_grows_with_the_work_that_waits(make):
    scheduler, target = make(workers=2, queue_size=40), Echo(seconds=0.1)

    async def go() -> None:
        cost_s = FIRST_COST_GUESS_S
        for _ in range(8):  # lets it learn the cost, whatever a run takes on this machine
            cost_s += 0.2 * ((await scheduler.submit(target, image(0))).inference_s - cost_s)
        held = [await hold(scheduler, target) for _ in range(2)]
        rest = await queued(scheduler, scheduler.submit_many(target, [image(0)] * 40))
        assert scheduler.expected_wait_s() == pytest.approx(40 * cost_s / 2)
        with pytest.raises(OverloadedError) as refused:
            await scheduler.submit(target, image(1))
        assert int(refused.value.headers["Retry-After"]) == math.ceil(40 * cost_s / 2) > 1
        rest[0].cancel()
        target.go.set()
        await asyncio.gather(*held)

    asyncio.run(go())


def test_a_deadline_that_passes_in_the_queue_is_answered_at_once_and_frees_its_place(make):
    scheduler, target = make(queue_size=1), Echo()

    async def go() -> float:
        first = await hold(scheduler, target)
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError, match=r"0\.05 s"):
            await scheduler.submit(target, image(1), Deadline.after(0.05))
        seconds = time.monotonic() - started
        assert scheduler.waiting() == 0
        second = await queued(scheduler, scheduler.submit(target, image(2)))
        target.go.set()
        await asyncio.gather(first, *second)
        return seconds

    assert asyncio.run(go()) < 2
    assert target.batches == [[255], [2]]


def test_a_deadline_that_passes_during_the_run_is_answered_at_once(make):
    scheduler, target = make(), Echo()

    async def go() -> None:
        target.go.clear()
        with pytest.raises(DeadlineExceededError):
            await scheduler.submit(target, image(1), Deadline.after(0.05))
        target.go.set()
        assert (await scheduler.submit(target, image(2))).output[0] == 2

    asyncio.run(go())


def test_a_deadline_that_has_passed_already_is_not_queued(make):
    target = Echo()
    with pytest.raises(DeadlineExceededError):
        asyncio.run(make().submit(target, image(1), Deadline.after(-1)))
    assert target.batches == []


def test_cancelling_one_of_four_in_the_queue_leaves_three_to_succeed(make):
    scheduler, target = make(max_batch=4), Echo()

    async def go() -> list:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(4)))
        rest[1].cancel()
        await asyncio.sleep(0)
        target.go.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    answers = asyncio.run(go())
    assert isinstance(answers[1], asyncio.CancelledError)
    assert [answers[i].output[0] for i in (0, 2, 3)] == [0, 2, 3]
    assert target.batches == [[255], [0, 2, 3]]


def test_cancelling_one_of_four_in_a_running_batch_leaves_three_to_succeed(make):
    scheduler, target = make(max_batch=4), Echo()

    async def go() -> list:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(4)))
        target.began.clear()
        target.go.set()
        await first
        await asyncio.to_thread(target.began.wait, 5)
        rest[2].cancel()
        return await asyncio.gather(*rest, return_exceptions=True)

    answers = asyncio.run(go())
    assert [answers[i].output[0] for i in (0, 1, 3)] == [0, 1, 3]


def test_what_a_run_takes_is_told_from_the_first_one_on(make):
    scheduler, target = make(), Echo(seconds=0.2)
    assert scheduler.cost_s(target) is None

    async def go() -> None:
        runs = []
        for _ in range(3):
            runs.append((await scheduler.submit(target, image(0))).inference_s)
            assert min(runs) - 1e-3 <= scheduler.cost_s(target) <= max(runs) + 1e-3

    asyncio.run(go())


def test_slow_work_cannot_starve_fast_work(make):
    scheduler = make(queue_size=200)
    slow, fast = Echo(seconds=0.02), Echo(seconds=0.001)
    log: list[object] = []

    async def go() -> int:
        await scheduler.submit_many(slow, [image(0)] * 3)  # lets it learn the costs
        await scheduler.submit_many(fast, [image(0)] * 3)
        slow.log = fast.log = log
        slow_tasks = await queued(scheduler, *(scheduler.submit(slow, image(1)) for _ in range(100)))
        await scheduler.submit_many(fast, [image(2)] * 40)  # came after a hundred slow ones
        before = log.count(slow)
        for task in slow_tasks:
            task.cancel()
        return before

    # 40 fast runs cost about 0.05 s: two or three slow ones get the same share meanwhile, and a few on a busy machine
    assert asyncio.run(go()) <= 15


@pytest.mark.parametrize("option", ["workers", "queue_size", "max_batch"])
def test_sizes_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option} is 0"):
        Scheduler(**{"workers": 1, "queue_size": 1, "max_batch": 1, option: 0})


def test_a_run_is_charged_what_it_took_whatever_is_learnt_while_it_begins(make):
    class Learning(Echo):
        def run(self, batch: np.ndarray) -> np.ndarray:
            scheduler._lanes[self].cost_s = 100.0  # as another worker that ends a run might change it
            return super().run(batch)

    scheduler, target = make(), Learning(seconds=0.02)

    async def go() -> float:
        first = await hold(scheduler, target)
        (second,) = await queued(scheduler, scheduler.submit(target, image(2)))
        target.go.set()
        return (await first).inference_s + (await second).inference_s

    took = asyncio.run(go())
    assert scheduler._lanes[target].cost_s > 50
    assert scheduler._lanes[target].served_s == pytest.approx(took)
