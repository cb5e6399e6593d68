"""The measurement of what a request costs: its load generator, its clock and its arithmetic."""

import multiprocessing
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from loadtest.keepalive import LoadError, post
from loadtest.overhead import _row, _Up, cpu_s

BODY = bytes(range(256)) * 2000


class Handler(BaseHTTPRequestHandler):
    """Answers, in pieces, how many bytes came and whether they were the right ones."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        given = self.rfile.read(int(self.headers["Content-Length"]))
        answer = b"%d %r" % (len(given), given == BODY)
        self.server.answers.append(answer)
        self.send_response({"/busy": 429}.get(self.path, 200))
        if self.path != "/endless":
            self.send_header("content-length", str(len(answer) + (5 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(answer[:3])
        self.wfile.flush()
        self.wfile.write(answer[3:])
        self.close_connection = self.path == "/short"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.answers, made.daemon_threads = [], True
    Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def url(server: ThreadingHTTPServer, path: str = "/ok") -> str:
    return f"http://127.0.0.1:{server.server_port}{path}"


@pytest.mark.parametrize(("requests", "at_once"), [(1, 1), (30, 4), (3, 16)])
def test_every_request_is_sent_whole_and_waited_for(server, requests, at_once):
    began = time.perf_counter()
    driven = post(url(server), BODY, requests=requests, at_once=at_once)
    assert server.answers == [b"%d True" % len(BODY)] * requests
    assert driven.requests == len(driven.latencies_s) == requests
    assert 0 < max(driven.latencies_s) <= driven.seconds <= time.perf_counter() - began
    assert 0 <= driven.client_cpu_s <= driven.seconds + 0.1
    assert driven.per_s == pytest.approx(requests / driven.seconds)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/busy", "response HTTP/1.1 429"), ("/endless", "without Content-Length"), ("/short", "closed before")],
)
def test_what_is_no_answer_is_an_error(server, path, reason):
    with pytest.raises(LoadError, match=reason):
        post(url(server, path), b"x", requests=3, at_once=2)


def _burn(seconds: float) -> None:
    while time.process_time() < seconds:
        pass
    time.sleep(60)


def test_the_clock_of_a_process_has_its_cpu_and_not_its_waiting():
    child = multiprocessing.get_context("spawn").Process(target=_burn, args=(2.0,))
    child.start()
    try:
        deadline = time.monotonic() + 120
        while cpu_s(child.pid) < 2.0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        assert 2.0 <= cpu_s(child.pid) < 2.5
    finally:
        child.kill()
        child.join()


def test_a_slow_while_of_the_machine_does_not_shift_the_median():
    server = _Up("fastapi", "", 0, {4: [(1.5, 100.0)] * 30 + [(9.0, 10.0)] * 9})
    row = _row(server, 4, 0.002)
    assert row == {
        "server": "fastapi",
        "concurrency": 4,
        "requests_per_s": 100.0,
        "cpu_ms": 3.0,
        "beyond_work_ms": 1.0,
        "plus_minus_ms": 0.0,
    }
    spread = _row(_Up("mosec", "", 0, {1: [(1 + i / 100, 1.0) for i in range(101)]}), 1, 0.001)
    assert spread["plus_minus_ms"] == pytest.approx(1.57 * 0.51 / 101**0.5, rel=0.01)
