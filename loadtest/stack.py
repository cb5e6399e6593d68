"""The service and Prometheus as processes of their own, for as long as a block of code runs.

What drives, kills or photographs them (load tests, the pictures of the dashboards, tests) starts them here, on free
ports of the loopback interface, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS_CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"

START_S = 120.0
STOP_S = 60.0


class StackError(Exception):
    """A process does not start or does not become ready; the message says why."""


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        url: its address, without a slash at the end.
        pid: of its process; None where it is somebody else's.
    """

    url: str
    pid: int | None


@dataclass(frozen=True)
class Started(Service):
    """A service that was started here.

    Attributes:
        process: its process; standard output is read up to the line that names the address.
    """

    process: subprocess.Popen[str]


@contextlib.contextmanager
def service(
    options: Sequence[object] = (),
    *,
    variables: Mapping[str, str] | None = None,
    cpus: Sequence[int] | None = None,
    log: Path | None = None,
    root: Path = ROOT,
) -> Iterator[Started]:
    """A service that is ready, on a free port; stopped at the end.

    Args:
        options: for `python -m service serve`; they stand over those here, by which warnings are logged and nothing is
            drained.
        variables: added to the environment.
        cpus: the CPUs that it may use; all of this process's by default.
        log: where its log goes; to this process's standard error by default.
        root: the checkout whose service it is.

    Raises:
        StackError: it did not start or did not become ready.
    """
    command = [sys.executable, "-m", "service", "serve", "--json", "--port", "0", "--log-level", "warning"]
    command += ["--drain-s", "0"]  # nothing balances load here that would have to notice
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("w")) if log else None
        process = subprocess.Popen(  # noqa: S603  no shell, and arguments of our own
            pinned([*command, *map(str, options)], cpus),
            cwd=root,
            env={**os.environ, **(variables or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        stack.callback(stop, process)
        assert process.stdout is not None
        stack.callback(process.stdout.close)
        line = process.stdout.readline()
        said = json.loads(line) if line else {}
        if "url" not in said:
            why = line.strip()[:500] or (log.read_text().strip()[-500:] if log else "it says why above")
            raise StackError(f"The service did not start: {why}")
        wait_ready(said["url"], process)
        yield Started(said["url"], process.pid, process)


@contextlib.contextmanager
def prometheus(
    targets: Sequence[str], folder: Path, *, scrape_s: int = 1, discovery: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a Prometheus that scrapes services as deploy/prometheus says, found at `targets`.

    Args:
        targets: addresses of services.
        folder: for its data, configuration and log; must exist.
        scrape_s: seconds between scrapes.
        discovery: of HTTP service discovery, for targets besides.

    Raises:
        StackError: there is no Prometheus, or it did not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise StackError("There is no prometheus to run (Debian and Ubuntu: apt-get install prometheus).")
    config: dict[str, Any] = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "bireal")
    for key in [key for key in job if key.endswith("_sd_configs")]:
        del job[key]
    if discovery is not None:
        job["http_sd_configs"] = [dict(discovery)]
    job["static_configs"] = [{"targets": [target.removeprefix("http://") for target in targets]}]
    interval = {"scrape_interval": f"{scrape_s}s", "scrape_timeout": f"{scrape_s}s"}
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({"global": config["global"] | interval, "scrape_configs": [job]})
    )
    port = free_port()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "prometheus.log").open("wb"))
        process = subprocess.Popen(  # noqa: S603  no shell, and arguments of our own
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(stop, process)
        address = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            if process.poll() is not None:
                said = (folder / "prometheus.log").read_text()[-500:]
                raise StackError(f"Prometheus ended with {process.returncode}: {said}")
            with contextlib.suppress(OSError):
                get(f"{address}/-/ready")
                return True
            return False

        wait_for("Prometheus is ready", ready)
        yield address


def wait_ready(url: str, process: subprocess.Popen[str] | None) -> None:
    """Waits until a service answers requests.

    Raises:
        StackError: it does not within START_S, says that it never will, or has ended.
    """
    give_up = time.monotonic() + START_S
    said = "it does not answer"
    while time.monotonic() < give_up:
        try:
            get(f"{url}/readyz")
        except urllib.error.HTTPError as error:
            body = json.loads(error.read())
            said = " ".join(body["reasons"])
            if body["state"] == "failed":
                break
        except OSError as error:
            said = str(error)
        else:
            return
        if process is not None and process.poll() is not None:
            said = f"it ended with {process.returncode}"
            break
        time.sleep(0.1)
    raise StackError(f"The service at {url} is not ready: {said}")


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Asks until the answer is yes.

    Raises:
        StackError: it was not in time.
    """
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            raise StackError(f"Not within {timeout_s:g} s: {what}.")
        time.sleep(0.1)


def get(url: str, timeout_s: float = 10.0) -> str:
    """The body of an answer.

    Raises:
        OSError: there was none, or its status is an error's (`urllib.error.HTTPError`).
    """
    with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310  an http address
        text: str = response.read().decode()
        return text


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def pinned(command: Sequence[str], cpus: Sequence[int] | None) -> list[str]:
    """The command on these CPUs only: a process that is started on them counts no others as its own.

    Raises:
        StackError: there is no taskset.
    """
    if cpus is None:
        return list(command)
    if shutil.which("taskset") is None:
        raise StackError("There is no taskset to pin processes with (Debian and Ubuntu: apt-get install util-linux).")
    return ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


def stop(process: subprocess.Popen[Any]) -> int:
    """Ends a process of ours, kindly first. Returns its exit code."""
    process.terminate()
    return ended(process)


def ended(process: subprocess.Popen[Any]) -> int:
    """The exit code of a process that was told to end: -SIGKILL where it did not within STOP_S, and was killed."""
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
