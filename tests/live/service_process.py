"""The service as a user starts it: a process of its own, on a free port, driven over a socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


@dataclass
class LiveService:
    """A running service."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def client(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30, **options)

    def readiness(self) -> httpx.Response:
        return httpx.get(f"{self.url}/readyz", timeout=30)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            response = self.readiness()
            if response.status_code == 200:
                return
            assert response.json()["state"] == "starting", response.json()
            assert time.monotonic() < deadline, response.json()
            time.sleep(0.05)

    def wait_state(self, state: str, timeout_s: float = START_S) -> dict:
        deadline = time.monotonic() + timeout_s
        while (body := self.readiness().json())["state"] != state:
            assert time.monotonic() < deadline, body
            time.sleep(0.02)
        return body

    def logged(self, request_id: str, timeout_s: float = 30) -> list[dict]:
        """The log's records of a request, once there is one: a client has its answer before the line is written."""
        deadline = time.monotonic() + timeout_s
        while True:
            lines = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
            records = [json.loads(line) for line in lines if line.startswith("{")]
            if found := [record for record in records if record.get("request_id") == request_id]:
                return found
            assert time.monotonic() < deadline, f"{request_id} is not in {self.log}"
            time.sleep(0.02)

    def stop(self, sig: int = signal.SIGINT, timeout_s: float = 30) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(timeout_s)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "service", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BIREAL_")}
    return inherited | variables


@contextmanager
def running(zoo: Path, log: Path, *options: object, ready: bool = True, **variables: str) -> Iterator[LiveService]:
    """Starts the service on a free port; stops it at the end, if the test has not."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command("serve", "--json", "--port", 0, "--model-dir", zoo, *options),
            cwd=ROOT,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        try:
            line = process.stdout.readline()
            assert line, f"the service did not start:\n{log.read_text()}"
            service = LiveService(json.loads(line)["url"], process, log)
            if ready:
                service.wait_ready()
            yield service
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(10)
            process.stdout.close()
