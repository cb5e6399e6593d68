"""The service in a process of its own on a free port, for commands that drive, kill or photograph it."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_S = 120.0
STOP_S = 60.0


class ServerError(Exception):
    """The service cannot be started; the message says why."""


@dataclass(frozen=True)
class Server:
    """A running service.

    Attributes:
        url: Its address, without a slash at the end.
        process: Its process; standard output is read up to the line that names the address.
    """

    url: str
    process: subprocess.Popen[str]

    def wait_ready(self) -> None:
        """Waits until `/readyz` answers 200.

        Raises:
            ServerError: It ended, or was not ready in time.
        """
        deadline = time.monotonic() + START_S
        with httpx.Client(timeout=10) as client:
            while client.get(f"{self.url}/readyz").status_code != 200:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError("The service did not become ready; it says why above.")
                time.sleep(0.05)

    def stop(self, sig: signal.Signals = signal.SIGINT) -> int:
        """Sends a signal and waits for the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(STOP_S)


@contextlib.contextmanager
def serving(
    *options: object, prefix: Sequence[str] = (), log: Path | None = None, root: Path = ROOT
) -> Iterator[Server]:
    """Starts `python -m service serve` with options, waits until it is ready, and ends it.

    Args:
        options: Of `serve`.
        prefix: Put before the command: `taskset -c 0`.
        log: Where its log goes, errors only; to this process's standard error by default.
        root: The checkout whose service it is.

    Raises:
        ServerError: It does not start.
    """
    command = [sys.executable, "-m", "service", "serve", "--json", "--port", "0", "--log-level", "error"]
    with contextlib.nullcontext() if log is None else log.open("w") as errors:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [*prefix, *command, *map(str, options)], cwd=root, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            why = "; it says why above" if log is None else f": {log.read_text().strip()[-500:]}"
            raise ServerError(f"The service did not start{why}.")
        said = json.loads(line)
        if "url" not in said:
            raise ServerError(f"The service did not start: {line.strip()[:500]}")
        server = Server(said["url"], process)
        server.wait_ready()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
