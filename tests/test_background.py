"""Background work: only while nothing waits, dropped when its turn does not come, and never lost without a word."""

import asyncio

import pytest

from service import background
from service.background import Background
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Queue:
    """Stands in for the scheduler: as many images wait as the test says."""

    def __init__(self) -> None:
        self.images = 0
        self.asked = 0

    def waiting(self) -> int:
        self.asked += 1
        return self.images


class Pieces:
    """Work that says what became of it."""

    def __init__(self, work: Background) -> None:
        self._work = work
        self.ran: list[str] = []
        self.dropped: list[str] = []

    def offer(self, name: str, failure: Exception | None = None) -> None:
        async def run() -> None:
            self.ran.append(name)
            if failure is not None:
                raise failure

        self._work.offer(run, lambda: self.dropped.append(name))

    async def until(self, count: int) -> None:
        await until(lambda: len(self.ran) + len(self.dropped) >= count)


@pytest.mark.parametrize("busy", [0, 1], ids=["networks", "decoding"])
async def test_it_waits_until_nothing_waits_in_any_stage(busy: int):
    stages = [Queue(), Queue()]
    queue = stages[busy]
    work = Background(*stages, capacity=2)
    work.start()
    pieces, queue.images = Pieces(work), 1
    pieces.offer("a")
    await until(lambda: queue.asked >= 3)
    assert (pieces.ran, pieces.dropped) == ([], [])
    queue.images = 0
    await pieces.until(1)
    assert (pieces.ran, pieces.dropped) == (["a"], [])
    await work.close()


async def test_a_piece_whose_turn_does_not_come_is_dropped_and_the_next_runs(monkeypatch):
    monkeypatch.setattr(background, "_PATIENCE_S", 0.05)
    queue = Queue()
    work = Background(queue, capacity=2)
    work.start()
    pieces, queue.images = Pieces(work), 1
    pieces.offer("a")
    await pieces.until(1)
    assert (pieces.ran, pieces.dropped) == ([], ["a"])
    monkeypatch.setattr(background, "_PATIENCE_S", 30)
    queue.images = 0
    pieces.offer("b")
    await pieces.until(2)
    assert (pieces.ran, pieces.dropped) == (["b"], ["a"])
    await work.close()


async def test_what_finds_no_place_is_dropped_at_once():
    work = Background(Queue(), capacity=1)
    pieces = Pieces(work)
    pieces.offer("before it starts")
    work.start()
    pieces.offer("a")
    pieces.offer("b")
    assert (pieces.dropped, work.waiting()) == (["before it starts", "b"], 1)
    await work.close()
    pieces.offer("after its end")
    assert pieces.dropped[-1] == "after its end"


async def closed_with_three() -> Pieces:
    """What became of three pieces: one had been taken and waited for its turn, and two were still in the queue."""
    queue = Queue()
    work = Background(queue, capacity=3)
    work.start()
    pieces, queue.images = Pieces(work), 1
    for name in "abc":
        pieces.offer(name)
    await until(lambda: work.waiting() == 2)
    await work.close()
    return pieces


async def test_whatever_is_in_the_queue_when_it_is_closed_is_dropped():
    pieces = await closed_with_three()
    assert (pieces.ran, pieces.dropped[-2:]) == ([], ["b", "c"])


async def test_so_is_the_piece_that_waits_for_its_turn():
    pieces = await closed_with_three()
    assert "a" in pieces.dropped


async def test_so_is_the_piece_under_way():
    work, begun, dropped = Background(Queue(), capacity=2), asyncio.Event(), []
    work.start()

    async def run() -> None:
        begun.set()
        await asyncio.Event().wait()

    work.offer(run, lambda: dropped.append("under way"))
    work.offer(run, lambda: dropped.append("waiting"))
    async with asyncio.timeout(30):
        await begun.wait()
        await work.close()
    assert dropped == ["under way", "waiting"]


async def test_a_piece_that_fails_does_not_stop_the_next(caplog):
    work = Background(Queue(), capacity=3)
    work.start()
    pieces = Pieces(work)
    pieces.offer("a", ZeroDivisionError())
    pieces.offer("b")
    await pieces.until(2)
    assert (pieces.ran, pieces.dropped) == (["a", "b"], [])
    assert "background work failed" in caplog.text
    await work.close()
