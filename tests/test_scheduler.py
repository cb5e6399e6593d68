"""The scheduler's promises: bounded, fair, in time, and every waiter answered whatever fails."""

import asyncio
import gc
import threading
import time
import weakref
from collections import Counter

import numpy as np
import pytest

from service.errors import BadOutputError, DeadlineExceededError, NotReadyError, OverloadedError
from service.scheduler import Deadline, Scheduler

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


class Tally:
    """Counts what the scheduler reports."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self.sizes: list[int] = []

    def batch_run(self, target: Echo, size: int) -> None:
        self.sizes.append(size)

    def dropped(self, target: Echo, why: str, count: int) -> None:
        self.drops[why] += count


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def make(tally):
    made = []

    def build(**options) -> Scheduler:
        scheduler = Scheduler(**{"workers": 1, "queue_size": 8, "observer": tally, **options})
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.close(5)


async def hold(scheduler: Scheduler, target: Echo) -> asyncio.Task:
    """Occupies one worker with a run that lasts until `target.go` is set."""
    target.go.clear()
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


def test_an_answer_is_the_images_own_row_with_its_timings(make, tally):
    outcome = asyncio.run(make().submit(Echo(seconds=0.02), image(7)))
    assert outcome.output.tolist() == [7.0]
    assert outcome.inference_s >= 0.02
    assert 0 <= outcome.queue_s < 1
    assert outcome.batch_size == 1
    assert tally.sizes == [1]


def test_many_callers_each_get_their_own_answer(make):
    scheduler, target = make(workers=3, queue_size=500, max_batch=4), Echo()

    async def go() -> list[float]:
        outcomes = await asyncio.gather(*(scheduler.submit(target, image(i % 256)) for i in range(400)))
        return [outcome.output[0] for outcome in outcomes]

    assert asyncio.run(go()) == [float(i % 256) for i in range(400)]
    assert (scheduler.waiting(), scheduler.running()) == (0, 0)


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

    asyncio.run(scheduler.submit_many(Meeting(), [image(i) for i in range(3)]))


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


def test_a_full_queue_is_told_at_once_with_a_time_to_come_back(make, tally):
    scheduler, target, other = make(queue_size=2), Echo(), Echo()

    async def go() -> OverloadedError:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(2)))
        with pytest.raises(OverloadedError) as caught:
            scheduler.check_room(target)
        scheduler.check_room(other)
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
    assert tally.drops == {"rejected": 2}
    assert [9] not in target.batches


def test_a_request_is_admitted_whole_or_not_at_all(make, tally):
    scheduler, target = make(queue_size=3), Echo()

    async def go() -> None:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(2)))
        with pytest.raises(OverloadedError):
            await scheduler.submit_many(target, [image(8), image(9)])
        assert scheduler.waiting() == 2
        target.go.set()
        await asyncio.gather(first, *rest)
        # larger than the queue, but alone: it could never be answered otherwise
        assert len(await scheduler.submit_many(target, [image(i) for i in range(5)])) == 5

    asyncio.run(go())
    assert tally.drops == {"rejected": 2}


def test_the_retry_time_grows_with_the_work_that_waits(make):
    scheduler, target = make(queue_size=40), Echo(seconds=0.1)

    async def go() -> float:
        await scheduler.submit_many(target, [image(0)] * 8)  # lets it learn the cost
        target.began.clear()
        first = await hold(scheduler, target)
        rest = await queued(scheduler, scheduler.submit_many(target, [image(0)] * 40))
        wait = scheduler.expected_wait_s()
        rest[0].cancel()
        target.go.set()
        await first
        return wait

    assert 2 < asyncio.run(go()) < 6  # 40 runs of 0.1 s, and an average that started at a guess


def test_a_deadline_that_passes_in_the_queue_is_answered_at_once_and_frees_its_place(make, tally):
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
    assert tally.drops == {"expired": 1}


def test_a_deadline_that_passes_during_the_run_is_answered_at_once(make):
    scheduler, target = make(), Echo()

    async def go() -> None:
        target.go.clear()
        with pytest.raises(DeadlineExceededError):
            await scheduler.submit(target, image(1), Deadline.after(0.05))
        target.go.set()
        assert (await scheduler.submit(target, image(2))).output[0] == 2

    asyncio.run(go())


def test_a_deadline_that_has_passed_already_is_not_queued(make, tally):
    target = Echo()
    with pytest.raises(DeadlineExceededError):
        asyncio.run(make().submit(target, image(1), Deadline.after(-1)))
    assert target.batches == []
    assert tally.drops == {"expired": 1}


def test_cancelling_one_of_four_in_the_queue_leaves_three_to_succeed(make, tally):
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
    assert tally.drops == {"cancelled": 1}


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


@pytest.mark.parametrize("failure", [ValueError("no"), MemoryError(), SystemExit(3)], ids=repr)
def test_every_waiter_of_a_failing_batch_is_answered_and_the_worker_lives_on(make, failure):
    scheduler, target = make(max_batch=4), Echo()

    async def go() -> list:
        first = await hold(scheduler, target)
        target.failure = failure
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(3)))
        target.go.set()
        answers = await asyncio.gather(*(asyncio.wait([task]) for task in (first, *rest)))
        errors = [next(iter(done)).exception() for done, _ in answers]
        target.failure = None
        assert (await scheduler.submit(target, image(4))).output[0] == 4
        return errors

    # SystemExit out of a task would end the event loop: the scheduler hands waiters an ordinary exception instead
    errors = asyncio.run(go())
    assert len(errors) == 4
    for error in errors:
        assert isinstance(error, Exception)


def test_a_run_with_too_few_rows_fails_all_instead_of_mixing_them_up(make):
    class Short:
        def run(self, batch: np.ndarray) -> np.ndarray:
            return np.zeros((len(batch) - 1, 1), np.float32)

    with pytest.raises(BadOutputError, match="0 rows to a batch of 1"):
        asyncio.run(make().submit(Short(), image(1)))


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


def test_closing_answers_everyone(make):
    scheduler, target = make(queue_size=8), Echo(seconds=0.01)

    async def go() -> list:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(3)))
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close, 5))
        await asyncio.sleep(0.05)
        with pytest.raises(NotReadyError):
            await scheduler.submit(target, image(9))
        target.go.set()
        await closing
        return await asyncio.gather(first, *rest)

    assert [outcome.output[0] for outcome in asyncio.run(go())] == [255, 0, 1, 2]


def test_closing_fails_what_it_cannot_run_in_time(make):
    scheduler, target = make(), Echo()

    async def go() -> list:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(3)))
        await asyncio.to_thread(scheduler.close, 0.05)
        late = await asyncio.gather(*rest, return_exceptions=True)
        target.go.set()
        assert (await first).output[0] == 255
        return late

    for error in asyncio.run(go()):
        assert isinstance(error, NotReadyError)


def test_a_forgotten_target_can_come_back(make):
    scheduler, target = make(), Echo()
    asyncio.run(scheduler.submit(target, image(1)))
    scheduler.forget(target)
    scheduler.forget(target)
    assert asyncio.run(scheduler.submit(target, image(2))).output[0] == 2


@pytest.mark.parametrize("option", ["workers", "queue_size", "max_batch"])
def test_sizes_must_be_positive(option):
    with pytest.raises(ValueError, match=f"{option} is 0"):
        Scheduler(**{"workers": 1, "queue_size": 1, "max_batch": 1, option: 0})


class Deaf:
    """An observer with a fault of its own."""

    def batch_run(self, target: Echo, size: int) -> None:
        raise ZeroDivisionError

    def dropped(self, target: Echo, why: str, count: int) -> None:
        raise ZeroDivisionError


def test_an_observer_that_fails_harms_no_waiter_and_no_worker(make, caplog):
    scheduler, target = make(observer=Deaf()), Echo()
    for value in range(3):
        assert asyncio.run(scheduler.submit(target, image(value))).output[0] == value
    assert "observer failed" in caplog.text


class Strange:
    """Answers something that is no array of rows, though it has the right length."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def run(self, batch: np.ndarray) -> object:
        return self.answer


class Unreadable:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise KeyError(index)


@pytest.mark.parametrize("answer", [None, 7, Unreadable(), [], {}])
def test_every_waiter_is_answered_whatever_a_run_returns(make, answer):
    scheduler = make()
    with pytest.raises((BadOutputError, TypeError, KeyError)):
        asyncio.run(asyncio.wait_for(scheduler.submit(Strange(answer), image(1)), 5))
    assert asyncio.run(scheduler.submit(Echo(), image(2))).output[0] == 2


def test_a_forgotten_target_is_let_go_once_it_has_run(make):
    scheduler = make(workers=2)

    async def go() -> weakref.ref:
        target = Echo()
        first = await hold(scheduler, target)
        second = asyncio.create_task(scheduler.submit(target, image(1)))
        third = asyncio.create_task(scheduler.submit(target, image(2)))
        await asyncio.sleep(0.01)
        scheduler.forget(target)
        third.cancel()
        target.go.set()
        await asyncio.gather(first, second, third, return_exceptions=True)
        return weakref.ref(target)

    gone = asyncio.run(go())
    for _ in range(200):
        gc.collect()
        if gone() is None:
            break
        time.sleep(0.01)
    assert gone() is None
