"""The processes that programs drive: why they do not start is said, and what they do when they end early is seen."""

import os
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtest import kill, soak, stack


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(stack.StackError, match="abacus"), stack.service(["--kernel", "abacus"], log=tmp_path / "log"):
        pass


READY = """#!{python}
import http.server, sys
port = int(sys.argv[-1].rpartition(":")[2])
with http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler) as server:
    server.serve_forever()
"""


@pytest.mark.parametrize("tries", [1, 5])
def test_another_port_is_tried_where_somebody_took_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries) -> None:
    """A program that answers `/-/ready` wherever it is told to listen, and first at a port that somebody has."""
    (tmp_path / "-").mkdir()
    (tmp_path / "-" / "ready").touch()
    program = tmp_path / "program"
    program.write_text(READY.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stack, "_PORTS", tries)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken, free = other.getsockname()[1], stack.free_port
        ports = iter([taken])
        monkeypatch.setattr(stack, "free_port", lambda: next(ports, None) or free())
        if tries == 1:
            with (
                pytest.raises(stack.StackError, match="already in use"),
                stack.listening([str(program)], tmp_path / "log"),
            ):
                pass
        else:
            with stack.listening([str(program)], tmp_path / "log") as address:
                assert address != f"127.0.0.1:{taken}"
                assert stack.get(f"http://{address}/-/ready") == ""


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b'{"detail": "Not Found"}', "404"),
        (503, b"<html>no healthy upstream</html>", "503"),
        (503, b'["reasons"]', "503"),
        (503, b'{"state": "failed", "reasons": ["No model.", "No operator."]}', "No model. No operator."),
    ],
)
def test_what_is_not_ready_or_is_another_program_is_said(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, said: str
) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(stack, "START_S", 0.2)
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(stack.StackError, match=f"not ready: .*{said}"):
                stack.wait_ready(f"http://127.0.0.1:{server.server_port}", None)
        finally:
            server.shutdown()
            thread.join()


def test_a_process_that_does_not_end_is_killed_and_its_code_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "STOP_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert stack.stop(process) == -9


PROGRAM = """
import argparse, contextlib, subprocess, sys, time
from deploy.grafana import pictures
from loadtest import load, options, ray_trial, screenshots, stack
def measure(*_):
    with contextlib.ExitStack() as started:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        started.callback(stack.stop, child)
        print(child.pid, flush=True)
        time.sleep(600)
options.describe_machine = lambda: None
load.measure = ray_trial.run = screenshots.service = pictures._run_and_draw = measure
ray_trial.missing = lambda: None
run = {
    "report": lambda: options.run_report(measure, argparse.Namespace(out=None)),
    "main": lambda: options.run_main(measure, argparse.Namespace(out=None), list),
    "load": lambda: load.main([]),
    "ray": lambda: ray_trial.main([]),
    "screenshots": lambda: screenshots.main([]),
    "pictures": lambda: pictures.main([]),
}
sys.exit(run[sys.argv[1]]())
"""


@pytest.mark.parametrize("how", ["report", "main", "load", "ray", "screenshots", "pictures"])
def test_a_program_that_is_terminated_leaves_no_process_behind(how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        child = int(program.stdout.readline())
        os.kill(child, 0)
        program.terminate()
        assert program.wait(60) == 143
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_soak_ends_with_the_service_and_counts_no_memory_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            process.stdin.close()  # its end
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a dead process that nobody has waited for

    monkeypatch.setattr(soak, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    times, memory = soak._watch(process, 60)
    assert process.wait(10) == 0
    assert len(times) == len(memory) == 3
    assert min(memory) > 0


def test_a_client_that_still_waits_leaves_nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    forever = threading.Event()
    monkeypatch.setattr(kill, "_client", lambda *_: forever.wait())
    monkeypatch.setattr(kill, "CLIENT_S", -29.9)
    server = stack.Started("http://127.0.0.1:9", 0, None)  # type: ignore[arg-type]  its process is not looked at
    done = threading.Event()
    begun = time.monotonic()
    try:
        with (
            pytest.raises(stack.StackError, match="still waits"),
            kill._clients(Namespace(clients=1), server, done, kill.Tally()),
        ):
            pass
        assert done.is_set()
        assert time.monotonic() - begun < 10
    finally:
        forever.set()


def test_what_was_lost_before_the_kill_is_not_blamed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(_url: str, _number: int, done: threading.Event, tally: kill.Tally, *_: object) -> None:
        tally.lost.append("ReadError early")
        tally.acknowledged.append(kill.Label("token", 0))
        done.wait()
        tally.lost.append("ReadError at the kill")

    monkeypatch.setattr(kill, "_client", client)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], text=True)
    server = stack.Started("http://127.0.0.1:9", process.pid, process)
    tally = kill._kill_one(server, Namespace(clients=1, labels=1, seconds=0.01))
    assert tally.lost == ["ReadError at the kill"]
    assert tally.wrong == ["before the kill: ReadError early"]


def test_a_service_that_ended_under_load_is_not_called_slow() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"], text=True)
    process.wait()
    server = stack.Started("http://127.0.0.1:9", process.pid, process)
    with pytest.raises(stack.StackError, match="The service ended with 3 before a request was answered"):
        kill._wait(0.01, "a request was answered", lambda: False, server)
