"""A flood of /depth beside a trickle of /classify, with the models as shipped: the trickle goes on flowing."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import httpx

from service.settings import SHIPPED_MODELS
from tests.live.service_process import LiveService, running
from tests.pictures import encode, photo

JPEG = encode(photo(), "JPEG")
FLOOD = 12  # clients that never wait, on one worker and one decoding thread
LASTS_S = 4.0


def ask(service: LiveService, path: str, done: Event) -> list[tuple[int, float]]:
    """Asks again and again; the status and the time of each answer."""
    answers = []
    with service.client() as client:
        while not done.is_set():
            begun = time.perf_counter()
            answers.append((client.post(path, content=JPEG).status_code, time.perf_counter() - begun))
    return answers


def test_depth_cannot_starve_classify(op, tmp_path):
    options = ("--workers", 1, "--intra-op-threads", 1, "--decode-threads", 1)
    with running(SHIPPED_MODELS, tmp_path / "log", *options) as service:
        for path in ("/depth", "/classify"):
            assert httpx.post(service.url + path, content=JPEG, timeout=30).status_code == 200
        done = Event()
        with ThreadPoolExecutor(FLOOD + 1) as pool:
            flood = [pool.submit(ask, service, "/depth", done) for _ in range(FLOOD)]
            time.sleep(0.5)  # the depth queue is full of them
            trickle = pool.submit(ask, service, "/classify", done)
            time.sleep(LASTS_S)
            done.set()
        depth = [answer for task in flood for answer in task.result()]
        classify = trickle.result()
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
        done = Event()
        with ThreadPoolExecutor(FLOOD + 1) as pool:
            flood = [pool.submit(ask, service, "/depth", done) for _ in range(FLOOD)]
            time.sleep(0.3)
            trickle = pool.submit(ask, service, "/classify", done)
            time.sleep(2)
            done.set()
        statuses = {status for task in flood for status, _ in task.result()}
        assert statuses == {200, 429}
        assert {status for status, _ in trickle.result()} == {200}
