"""The measurement of what a request costs: its load generator, its clock and its arithmetic."""

import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Event
from threading import Thread

import pytest

from loadtest import overhead
from loadtest.keepalive import Driven, LoadError, post
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


class Server(ThreadingHTTPServer):
    """Keeps what went wrong for the test, rather than printing it, but for clients that hang up as they should."""

    daemon_threads = False  # so that `server_close` waits until all of them have said what went wrong

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[bytes] = []
        self.failures: list[BaseException | None] = []

    def handle_error(self, *_: object) -> None:
        if not isinstance(error := sys.exc_info()[1], ConnectionError):
            self.failures.append(error)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()
    assert not made.failures


def url(server: Server, path: str = "/ok") -> str:
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
def test_what_is_no_answer_is_an_error(server, path, reason, capsys):
    with pytest.raises(LoadError, match=reason):
        post(url(server, path), b"x", requests=3, at_once=2)
    server.shutdown()
    server.server_close()
    assert capsys.readouterr().err == "", "the server complains of clients that hang up"


def _burn(seconds: float, burnt: Event) -> None:
    while time.process_time() < seconds:
        pass
    burnt.set()
    time.sleep(60)


def test_the_clock_of_a_process_has_its_cpu_and_not_its_waiting():
    spawn = multiprocessing.get_context("spawn")
    burnt = spawn.Event()
    child = spawn.Process(target=_burn, args=(1.0, burnt))
    child.start()
    try:
        assert burnt.wait(120)
        before = cpu_s(child.pid)
        time.sleep(0.3)  # what must not be counted
        assert 1.0 <= before <= cpu_s(child.pid) < before + 0.1
    finally:
        child.kill()
        child.join()


def test_a_slow_while_of_the_machine_does_not_shift_the_median_of_a_process():
    server = _Up("fastapi", "", 0, {4: [(1.5, 100.0)] * 30 + [(9.0, 10.0)] * 9})
    assert server.medians(4) == (1.5, 100.0)


def test_a_row_has_the_mean_over_the_processes_and_its_interval():
    ours, peer = [(1.5, 90.0), (1.7, 110.0), (1.6, 100.0)], [(1.4, 1.0), (1.6, 1.0), (1.5, 1.0)]
    row = _row("bireal-serve", 4, 0.002, ours, peer)
    assert row == {
        "server": "bireal-serve",
        "concurrency": 4,
        "requests_per_s": 100.0,
        "cpu_ms": 3.2,
        "beyond_work_ms": 1.2,
        "plus_minus_ms": pytest.approx(4.303 * 0.2 / 3**0.5, abs=0.001),
        "beyond_fastapi_ms": 0.2,  # the same in each pair of processes
        "beyond_fastapi_plus_minus_ms": 0,
        "by_process_ms": [1.0, 1.4, 1.2],
    }
    assert _row("bireal-serve", 4, 0.002, ours[:1], peer[:1])["plus_minus_ms"] is None
    assert _row("bireal-serve", 4, 0.002, ours * 20, peer * 20)["plus_minus_ms"] < 0.1


def test_every_server_is_started_anew_for_each_process(monkeypatch: pytest.MonkeyPatch):
    """Servers that are made up: each process of the service costs something else."""
    started: list[str] = []

    @contextmanager
    def serving(name: str, *_: object) -> Iterator[tuple[str, int]]:
        started.append(name)
        url = f"{name}/{started.count(name)}"
        pids[url] = len(started)
        yield url, pids[url]

    spent = {"bireal-serve": 0.003, "fastapi": 0.002, "mosec": 0.001}
    pids: dict[str, int] = {}
    clock = dict.fromkeys(range(100), 0.0)

    def posted(url: str, _body: bytes, *, requests: int, at_once: int) -> Driven:
        name, _, number = url.partition("/")
        clock[pids[url]] += requests * (spent[name] + 0.001 * int(number) * (name == "bireal-serve"))
        return Driven(requests, 1.0, 0.0, (0.1,) * requests)

    monkeypatch.setattr(overhead, "_serving", serving)
    monkeypatch.setattr(overhead, "post", posted)
    monkeypatch.setattr(overhead, "cpu_s", clock.__getitem__)
    monkeypatch.setattr(overhead, "_work_s", lambda _: 0.001)
    monkeypatch.setattr(overhead.time, "sleep", lambda _: None)
    arguments = overhead._parser().parse_args(["--processes", "2", "--rounds", "2", "--concurrency", "1"])
    report = overhead.compare(arguments, b"")
    assert started == ["bireal-serve", "fastapi", "mosec"] * 2
    service, fastapi, mosec = report["rows"]
    assert service["by_process_ms"] == pytest.approx([3, 4])
    assert service["plus_minus_ms"] == pytest.approx(12.706 * 0.5, abs=0.01)
    assert (service["beyond_fastapi_ms"], fastapi["beyond_work_ms"], mosec["beyond_work_ms"]) == (2.5, 1, 0)
    assert (report["processes"], report["slices"]) == (2, 4)


def test_the_work_in_threads_is_counted_over_the_time_it_took(monkeypatch: pytest.MonkeyPatch):
    """One repetition takes longer than the time that is asked for: it counts as what it is, at most 5 a second."""
    monkeypatch.setattr(overhead, "work", lambda _: time.sleep(0.2))
    # Over the time that was asked for it would be 40. No close bound below: a busy machine wakes threads late.
    assert 1 < overhead._work_in_threads(b"", 2, 0.05) <= 10.1


def test_one_core_and_two_are_not_compared_where_there_is_one(monkeypatch: pytest.MonkeyPatch, capsys):
    def measured(*_: object, **__: object) -> None:
        pytest.fail("it is measured all the same")

    monkeypatch.setattr(overhead.os, "sched_getaffinity", lambda _: {3})
    monkeypatch.setattr(overhead, "service", measured)
    assert overhead.main(["--cores"]) == 2
    assert "two CPUs" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--beside", "."], ["--processes", "2"], ["--concurrency", "4"]])
def test_one_core_and_two_are_not_compared_with_options_that_say_nothing_of_them(
    option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def measured(*_: object) -> None:
        pytest.fail("it is measured all the same")

    monkeypatch.setattr(overhead, "cores", measured)
    with pytest.raises(SystemExit):
        overhead.main(["--cores", *option])
    assert f"with --cores, {option[0]} has no effect: leave it out" in capsys.readouterr().err
