"""Whatever fails, every waiter is answered; closing and unloading leave nothing behind."""

import asyncio
import gc
import weakref

import numpy as np
import pytest

from service.errors import BadOutputError, NotReadyError
from tests.scheduler.targets import Echo, hold, image, queued
from tests.waiting import until, wait


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

    with pytest.raises(BadOutputError, match="0 rows for a batch of 1"):
        asyncio.run(make().submit(Short(), image(1)))


def test_closing_answers_everyone(make):
    scheduler, target = make(queue_size=8), Echo(seconds=0.01)

    async def go() -> list:
        first = await hold(scheduler, target)
        rest = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in range(3)))
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close, 5))
        await until(lambda: scheduler._closing)
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


def fails(target: Echo, size: int) -> None:
    raise ZeroDivisionError


def exits(target: Echo, size: int) -> None:
    raise SystemExit


@pytest.mark.parametrize("on_run", [fails, exits])
def test_an_observer_that_fails_harms_no_waiter_and_no_worker(make, caplog, on_run):
    scheduler, target = make(workers=1, on_run=on_run), Echo()
    for value in range(3):
        assert asyncio.run(asyncio.wait_for(scheduler.submit(target, image(value)), 5)).output[0] == value
    assert "what is called after a run failed" in caplog.text


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
        second, third = await queued(scheduler, *(scheduler.submit(target, image(i)) for i in (1, 2)))
        scheduler.forget(target)
        third.cancel()
        target.go.set()
        await asyncio.gather(first, second, third, return_exceptions=True)
        return weakref.ref(target)

    gone = asyncio.run(go())

    def collected() -> bool:
        gc.collect()
        return gone() is None

    wait(collected)  # the worker lets go of it after its answers
    assert gone() is None
