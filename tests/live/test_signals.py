"""Stopping: readiness first, then the port, then what is in flight; and nothing that was accepted is lost."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.live.service_process import ROOT, START_S, LiveService, command, running
from tests.pictures import encode, photo
from tests.waiting import wait

JPEG = encode(photo(), "JPEG")


class SlowUpload:
    """A request whose body is held back until it is told to finish."""

    def __init__(self, service: LiveService) -> None:
        self._go = threading.Event()
        self._service = service
        self.begun = threading.Event()
        self.status: int | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        assert self.begun.wait(10)

    def _body(self) -> Iterator[bytes]:
        yield JPEG[:1000]
        self.begun.set()
        self._go.wait(30)
        yield JPEG[1000:]

    def _send(self) -> None:
        try:
            with self._service.client() as client:
                self.status = client.post("/classify?variant=full", content=self._body()).status_code
        except httpx.HTTPError as error:
            self.error = error

    def finish(self) -> None:
        self._go.set()
        self._thread.join(30)


def listens(service: LiveService) -> bool:
    address = urlsplit(service.url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


def test_sigterm_under_load_loses_no_request(zoo, tmp_path):
    """Clients behind a balancer: it looks at /readyz, and sends nothing new once that says 503."""
    with running(zoo, tmp_path / "log", "--drain-s", 2, "--fallback", "reference", "--queue-size", 500) as service:
        routed = threading.Event()
        routed.set()
        signalled = threading.Event()
        after_signal = 0
        answers: list[int | str] = []

        def look() -> None:
            while routed.is_set():
                try:
                    ready = service.readiness().status_code == 200
                except httpx.HTTPError as error:
                    answers.append(f"readiness: {error!r}")
                    ready = False
                if not ready:
                    time.sleep(0.2)  # a balancer is not that quick
                    routed.clear()
                time.sleep(0.05)

        def client(number: int) -> None:
            nonlocal after_signal
            path = ("/classify", "/classify?variant=full", "/depth?variant=full")[number % 3]
            with service.client() as connection:
                while routed.is_set():
                    late = signalled.is_set()
                    try:
                        answers.append(connection.post(path, content=JPEG).status_code)
                    except httpx.HTTPError as error:
                        answers.append(repr(error))
                    after_signal += late

        with ThreadPoolExecutor(9) as pool:
            pool.submit(look)
            clients = [pool.submit(client, number) for number in range(8)]
            wait(lambda: len(answers) >= 30, 30)
            service.process.send_signal(signal.SIGTERM)
            signalled.set()
            for finished in clients:
                finished.result(30)
        assert service.process.wait(20) == 0, service.log.read_text()
    assert set(answers) == {200}
    assert after_signal > 0  # requests that came in the grace period were taken


def test_clients_that_go_on_until_the_port_closes_are_answered_or_refused(zoo, tmp_path):
    """Not behind a balancer: a new connection a request. None may be reset while it waits to be taken or read."""
    options = ("--drain-s", 0.3, "--fallback", "reference", "--queue-size", 500)
    with running(zoo, tmp_path / "log", *options) as service:
        answers: list[int | str] = []

        def client() -> None:
            while True:
                try:
                    with service.client() as connection:
                        answers.append(connection.post("/classify?variant=full", content=JPEG).status_code)
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:
                    answers.append(repr(error))

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(client) for _ in range(16)]
            wait(lambda: len(answers) >= 30, 30)
            service.process.send_signal(signal.SIGTERM)
            for finished in clients:
                finished.result(30)
        assert service.process.wait(20) == 0, service.log.read_text()
    assert set(answers) == {200}


def test_a_client_that_was_accepted_last_has_time_for_its_request(zoo, tmp_path):
    with running(zoo, tmp_path / "log", "--drain-s", 0, "--fallback", "reference") as service:
        address = urlsplit(service.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            service.process.send_signal(signal.SIGTERM)
            wait(lambda: not listens(service), 20)
            time.sleep(0.4)  # a slow client: a service that closed what it has just accepted would have done so
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert service.process.wait(10) == 0


def test_the_order_of_stopping(zoo, tmp_path):
    with running(zoo, tmp_path / "log", "--drain-s", 5) as service:
        upload = SlowUpload(service)
        with service.client() as client:
            service.process.send_signal(signal.SIGTERM)
            assert service.wait_state("draining", 5)["ready"] is False
            # still taken, and told to come back over another connection
            response = client.post("/classify?variant=full", content=JPEG)
            assert response.status_code == 200
            assert response.headers["connection"] == "close"
            assert "bireal_ready 0.0" in client.get("/metrics").text
        wait(lambda: not listens(service), 20)
        assert service.process.poll() is None  # waits for the upload
        upload.finish()
        assert (upload.status, upload.error) == (200, None)
        assert service.process.wait(10) == 0


def test_ctrl_c_does_not_wait_for_a_balancer(zoo, tmp_path):
    with running(zoo, tmp_path / "log", "--drain-s", 60) as service:
        upload = SlowUpload(service)
        service.process.send_signal(signal.SIGINT)
        wait(lambda: not listens(service))
        upload.finish()
        assert upload.status == 200
        assert service.process.wait(10) == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(zoo, tmp_path, first, second):
    """Whether it still accepts requests, as after SIGTERM, or waits for those in flight, as after Ctrl-C."""
    with running(zoo, tmp_path / "log", "--drain-s", 60) as service:
        upload = SlowUpload(service)
        service.process.send_signal(first)
        wait(lambda: "no longer ready" in service.log.read_text())
        so_far = len(service.log.read_text())
        started = time.monotonic()
        assert service.stop(second) == 128 + second
        assert time.monotonic() - started < 3
        upload.finish()
        assert upload.status != 200
        since = service.log.read_text()[so_far:].splitlines()
        lines = [line for line in since if "uvicorn.error: Shutting" not in line]
        assert len(lines) == 1, lines
        assert lines[0].endswith(f"{second.name}: the second signal; ended at once, requests left unanswered: 1")


def test_a_second_signal_does_not_wait_for_the_application_to_close(tmp_path):
    """Which can take as long as the slowest run of a network."""
    code = """
import asyncio, uvicorn
from service.server.draining import DrainingServer

async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("closing", flush=True)
    await asyncio.sleep(60)

config = uvicorn.Config(app, port=0, log_config=None)
nothing = lambda: None
DrainingServer(config, drain_s=0, announce=lambda: print("up", flush=True), leave=nothing).run()
"""
    whole = [sys.executable, "-c", code]
    with subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for said in ("up", "closing"):
            assert process.stdout.readline() == f"{said}\n"
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT
        assert process.stderr.read() == "SIGINT: the second signal; ended at once, requests left unanswered: 0\n"


def test_a_signal_while_models_load(zoo, tmp_path):
    with running(zoo, tmp_path / "log", ready=False) as service:
        assert service.stop(signal.SIGINT) == 0, service.log.read_text()


def test_a_signal_before_anything_is_up_ends_a_containers_first_process(zoo):
    apart = ["unshare", "--pid", "--fork"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces of processes")
    outer = subprocess.Popen([*apart, *command("serve", "--port", 0, "--model-dir", zoo)], cwd=ROOT)
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    try:
        wait(lambda: children.read_text().split())
        first = int(children.read_text())
        wait(lambda: handles(first, signal.SIGTERM), START_S)
        os.kill(first, signal.SIGTERM)
        assert outer.wait(10) == 128 + signal.SIGTERM
    finally:
        for left in map(int, children.read_text().split() if outer.poll() is None else ()):
            os.kill(left, signal.SIGKILL)
        outer.wait(10)


def handles(pid: int, sig: int) -> bool:
    """Whether a process handles a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[1], 16) >> (sig - 1) & 1)


def test_an_idle_connection_does_not_hold_it_up(zoo, tmp_path):
    options = ("--drain-s", 0, "--keep-alive-s", 600)
    with running(zoo, tmp_path / "log", *options) as service, service.client() as client:
        client.get("/healthz")
        started = time.monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert time.monotonic() - started < 5


def test_an_idle_connection_is_kept_as_long_as_the_setting_says(zoo, tmp_path):
    """uvicorn's own default, 5 s, is neither as short as one of these nor as long as the other."""
    for keep_alive_s, is_kept in ((1, False), (75, True)):
        with running(zoo, tmp_path / "log", "--keep-alive-s", keep_alive_s) as service:
            address = urlsplit(service.url)
            with socket.create_connection((address.hostname, address.port), timeout=4 if not is_kept else 8) as idle:
                idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n")
                assert idle.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
                try:
                    closed = idle.recv(1) == b""
                except TimeoutError:
                    closed = False
                assert closed != is_kept
