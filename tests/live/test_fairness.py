"""A flood of /depth beside a trickle of /classify, with the models as shipped: the trickle goes on flowing."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx

from service.settings import SHIPPED_MODELS
from tests.live.service_process import LiveService, running
from tests.pictures import encode, photo
from tests.waiting import wait

JPEG = encode(photo(), "JPEG")
FLOOD = 12  # clients that never wait, on one worker and one decoding thread
TRICKLE = 15  # answers

Answers = list[tuple[int, float]]  # the status and the time of each


def ask(service: LiveService, path: str, answers: Answers, done: Callable[[], bool]) -> None:
    """Asks again and again."""
    with service.client() as client:
        while not done():
            begun = time.perf_counter()
            answers.append((client.post(path, content=JPEG).status_code, time.perf_counter() - begun))


def flooded(service: LiveService) -> tuple[Answers, Answers]:
    """A flood of /depth, and beside it, once every client of the flood has had an answer, a trickle of /classify."""
    done, flood, trickle = Event(), [[] for _ in range(FLOOD)], []
    with ThreadPoolExecutor(FLOOD) as pool:
        asking = [pool.submit(ask, service, "/depth", answers, done.is_set) for answers in flood]
        try:
            wait(lambda: all(flood), 30)
            before = [len(answers) for answers in flood]
            ask(service, "/classify", trickle, lambda: len(trickle) >= TRICKLE)
        finally:
            done.set()
        for task in asking:
            task.result()
    return [each for answers, first in zip(flood, before, strict=True) for each in answers[first:]], trickle


def test_depth_cannot_starve_classify(op, tmp_path):
    options = ("--workers", 1, "--intra-op-threads", 1, "--decode-threads", 1)
    with running(SHIPPED_MODELS, tmp_path / "log", *options) as service:
        for path in ("/depth", "/classify"):
            assert httpx.post(service.url + path, content=JPEG, timeout=30).status_code == 200
        depth, classify = flooded(service)
    assert {status for status, _ in classify} == {200}
    assert {status for status, _ in depth} == {200}
    slow, fast = (statistics.median(seconds for _, seconds in answers) for answers in (depth, classify))
    # In one queue the trickle would wait as long as the flood does: for all who came before. Apart and fair, it waits
    # for the run under way, one of the twelve.
    assert fast < slow / 3, f"/classify took {fast:.3f} s beside /depth's {slow:.3f} s"
    assert len(classify) > len(depth) / FLOOD * 3, "more answers than any one client of the flood"


def test_a_flood_that_is_refused_refuses_nobody_else(op, tmp_path):
    options = ("--workers", 1, "--intra-op-threads", 1, "--decode-threads", 1, "--queue-size", 2)
    with running(SHIPPED_MODELS, tmp_path / "log", *options) as service:
        depth, classify = flooded(service)
        assert {status for status, _ in depth} == {200, 429}
        assert {status for status, _ in classify} == {200}
