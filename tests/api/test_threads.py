"""The pool of threads for decoding: bounded by lane, fair between lanes, and no thread is ever lost."""

import asyncio
import gc
import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from service.errors import NotReadyError, OverloadedError
from service.pipeline import ThreadPool
from service.pipeline.threads import SHARED, answers_of
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool():
    made = ThreadPool(threads=1, queue_size=4)
    yield made
    made.close()


@pytest.fixture
def gate():
    opened = threading.Event()
    yield opened
    opened.set()


@pytest.fixture
def spend(monkeypatch):
    """A call that takes so many seconds by the pool's clock, and none by ours."""
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr("service.pipeline.threads.time", clock)

    def call(seconds: float) -> None:
        now[0] += seconds

    return call


async def started(*calls) -> list[asyncio.Task]:
    """Starts calls in order: each has its thread or its place in the queue when this returns."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


async def test_a_call_gets_its_arguments_and_gives_its_result(pool):
    assert await pool.run("classify", divmod, 7, 2) == (3, 1)
    assert await pool.run("classify", lambda *, a: a, a=1) == 1
    with pytest.raises(ZeroDivisionError):
        await pool.run("classify", divmod, 7, 0)
    assert await pool.run("classify", divmod, 7, 2) == (3, 1), "the thread is free again"


async def test_a_full_lane_turns_nobody_of_another_one_away(pool, gate):
    tasks = await started(*(pool.run("depth", gate.wait, 5) for _ in range(5)))
    with pytest.raises(OverloadedError):
        await pool.run("depth", int)
    other = await started(pool.run("classify", int))
    gate.set()
    assert await asyncio.gather(*tasks, *other) == [True] * 5 + [0]


async def test_the_lane_that_had_less_time_goes_first(pool, gate, spend):
    order: list[str] = []

    def work(name: str, seconds: float) -> None:
        spend(seconds)
        order.append(name)

    first = await started(pool.run("depth", gate.wait, 5))
    slow = await started(*(pool.run("depth", work, "depth", 0.03) for _ in range(4)))
    fast = await started(*(pool.run("classify", work, "classify", 0.003) for _ in range(4)))
    gate.set()
    await asyncio.gather(*first, *slow, *fast)
    assert order[:5].count("classify") == 4, order  # the depth calls came first, and one of them may go in between


async def test_a_lane_that_was_served_alone_for_long_does_not_wait_for_a_flood_to_catch_up(pool, gate, spend):
    order: list[str] = []

    def work(name: str) -> None:
        spend(1.0)
        order.append(name)

    for _ in range(200):
        await pool.run("classify", work, "alone")
    order.clear()
    first = await started(pool.run("depth", gate.wait, 5))
    flood = await started(pool.run_many("depth", [lambda: work("depth")] * 40))
    one = await started(pool.run("classify", work, "classify"))
    gate.set()
    await asyncio.gather(*first, *flood, *one)
    assert order.index("classify") <= 2, order


async def test_the_calls_of_a_request_that_find_threads_free_are_accounted_for_too(gate, spend):
    pool, order = ThreadPool(threads=1, queue_size=64), []
    try:
        for _ in range(200):
            await pool.run_many("classify", [lambda: spend(1.0)])
        first = await started(pool.run("depth", gate.wait, 5))
        flood = await started(pool.run_many("depth", [lambda: [spend(1.0), order.append("depth")]] * 40))
        one = await started(pool.run_many("classify", [lambda: order.append("classify")]))
        gate.set()
        await asyncio.gather(*first, *flood, *one)
    finally:
        pool.close()
    assert order.index("classify") <= 2, order


async def test_a_full_lane_says_which_it_is_and_when_to_come_back(pool, gate, spend):
    for lane, queue in ((answers_of("depth"), "answers"), (SHARED, "bodies"), ("depth", "decoding")):
        for _ in range(40):
            await pool.run(lane, spend, 5.0)
        gate.clear()
        tasks = await started(*(pool.run(lane, gate.wait, 5) for _ in range(5)))
        with pytest.raises(OverloadedError) as caught:
            await pool.run(lane, int)
        assert caught.value.extensions["queue"] == queue
        assert caught.value.headers["Retry-After"] == "20", "four calls of five seconds, on one thread"
        gate.set()
        await asyncio.gather(*tasks)


async def test_who_leaves_the_queue_makes_room(pool, gate):
    tasks = await started(*(pool.run("depth", gate.wait, 5) for _ in range(5)))
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    again = await started(pool.run("depth", int))
    gate.set()
    results = await asyncio.gather(*tasks, *again, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert [result for index, result in enumerate(results) if index != 2] == [True] * 4 + [0]


async def test_who_leaves_while_it_runs_keeps_its_thread_until_it_is_done(pool, gate):
    (running,) = await started(pool.run("depth", gate.wait, 5))
    (waiting,) = await started(pool.run("depth", int))
    running.cancel()
    await asyncio.wait([running])
    await asyncio.sleep(0.02)  # in which a thread that had been given away would have run the other call
    assert not waiting.done(), "one thread, and it is still busy"
    gate.set()
    assert await waiting == 0


async def test_leaving_at_the_moment_of_the_turn_loses_no_thread(pool):
    for _ in range(200):
        tasks = [asyncio.ensure_future(pool.run("depth", int)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(pool.run("depth", int) for _ in range(5))) == [0] * 5


async def test_a_closed_pool_says_so(pool):
    pool.close()
    for _ in range(3):
        with pytest.raises(NotReadyError):
            await pool.run("depth", int)


async def test_a_thread_takes_the_next_call_without_the_event_loop(pool, gate):
    ran = threading.Event()
    first = await started(pool.run("depth", gate.wait, 5))
    waiting = await started(pool.run("depth", ran.set))
    gate.set()
    assert ran.wait(5), "the event loop is held up here"
    await asyncio.gather(*first, *waiting)


async def test_a_pool_that_closes_tells_those_who_wait(pool, gate):
    (running,) = await started(pool.run("depth", gate.wait, 5))
    waiting = await started(*(pool.run(lane, int) for lane in ("depth", "classify")))
    pool.close()
    for call in waiting:
        with pytest.raises(NotReadyError):
            await call
    gate.set()
    assert await running is True, "what has begun is finished"


@pytest.mark.parametrize("how", ["run", "run_many"])
async def test_a_pool_that_closes_while_a_thread_gets_a_call_leaves_nobody_waiting(pool, how):
    closing = threading.Thread(target=pool.close)

    class Late:
        """A thread's inbox; whoever puts something in is overtaken by the end of the pool, if that is possible."""

        def __init__(self, inbox) -> None:
            self._inbox = inbox

        def put(self, call) -> None:
            closing.start()
            closing.join(0.2)
            self._inbox.put(call)

    pool._free = [Late(inbox) for inbox in pool._free]
    if how == "run":
        assert await asyncio.wait_for(pool.run("classify", divmod, 7, 2), 5) == (3, 1)
    else:
        assert await asyncio.wait_for(pool.run_many("classify", [lambda: 1]), 5) == [1]
    await asyncio.to_thread(closing.join)


async def test_a_thread_that_waits_keeps_nothing_of_its_last_call(pool):
    class Picture:
        def given(self, other: object) -> object:
            return other

    pictures = [Picture() for _ in range(4)]
    kept = [weakref.ref(one) for one in pictures]
    assert await pool.run("classify", pictures[0].given, pictures[1]) is pictures[1]
    with pytest.raises(TypeError):
        await pool.run("classify", pictures[2].given)
    with pytest.raises(TypeError):
        await pool.run_many("classify", [pictures[3].given])
    pictures.clear()
    gc.disable()  # nothing may hold itself
    try:
        await until(lambda: not any(one() for one in kept))
    finally:
        gc.enable()


# ---- several calls of one request ------------------------------------------------------------------------------------


async def test_the_calls_of_a_request_are_answered_in_their_order(pool):
    calls = [lambda number=number: number for number in range(4)]
    assert await pool.run_many("classify", calls) == [0, 1, 2, 3]
    assert await pool.run_many("classify", calls[:1]) == [0]
    assert await pool.run_many("classify", []) == []


async def test_the_calls_of_a_request_use_all_threads_that_are_free(gate):
    pool = ThreadPool(threads=3, queue_size=4)
    together = threading.Barrier(3)
    try:
        assert sorted(await pool.run_many("classify", [lambda: together.wait(5)] * 3)) == [0, 1, 2]
    finally:
        pool.close()


async def test_the_calls_of_a_request_are_admitted_together_or_not_at_all(pool, gate):
    ran: list[int] = []
    tasks = await started(*(pool.run("depth", gate.wait, 5) for _ in range(3)))
    assert pool.waiting() == 2
    with pytest.raises(OverloadedError):
        await pool.run_many("depth", [lambda: ran.append(0)] * 3)
    assert pool.waiting() == 2
    # larger than the lane, but alone in it: it could never be answered otherwise
    (large,) = await started(pool.run_many("classify", [lambda: 1] * 9))
    assert pool.waiting() == 11
    with pytest.raises(OverloadedError):
        await pool.run("classify", int)
    gate.set()
    assert await large == [1] * 9
    assert await asyncio.gather(*tasks) == [True] * 3
    assert ran == []
    assert pool.waiting() == 0


async def test_a_call_that_fails_takes_its_siblings_out_of_the_queue(pool, gate):
    ran, failed = [], threading.Event()

    def fail() -> None:
        gate.wait(5)
        raise ZeroDivisionError

    # The second is the only thread's next call; it lasts until the loop knows of the failure.
    (failing,) = await started(pool.run_many("depth", [fail, lambda: failed.wait(5), *[lambda: ran.append(0)] * 3]))
    gate.set()
    with pytest.raises(ZeroDivisionError):
        await failing
    assert pool.waiting() == 0
    failed.set()
    assert await pool.run("depth", int) == 0
    assert ran == []


async def test_a_request_that_leaves_takes_all_of_its_calls_along(pool, gate):
    ran: list[int] = []
    (leaving,) = await started(pool.run_many("depth", [lambda: gate.wait(5), *[lambda: ran.append(0)] * 4]))
    assert pool.waiting() == 4
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert pool.waiting() == 0
    gate.set()
    assert await pool.run("depth", int) == 0
    assert ran == []


async def test_a_closed_pool_says_so_to_several_calls(pool, gate):
    (waiting,) = await started(pool.run_many("depth", [lambda: gate.wait(5)] * 3))
    pool.close()
    with pytest.raises(NotReadyError):
        await waiting
    with pytest.raises(NotReadyError):
        await pool.run_many("depth", [int])
