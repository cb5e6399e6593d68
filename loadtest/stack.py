"""Runs the service and Prometheus as separate processes for the duration of a block of code.

Load tests, the dashboards' screenshots and tests start them here, on free ports of the loopback interface. No process
is left behind.
"""

from __future__ import annotations

import contextlib
import http.client
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
_PORTS = 5  # ports to try for a program that cannot choose a free one itself


class StackError(Exception):
    """A process does not start or does not become ready; the message says why."""


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        url: its address, without a trailing slash.
        pid: its process id; None if it was not started here.
    """

    url: str
    pid: int | None


@dataclass(frozen=True)
class Started(Service):
    """A service started here.

    Attributes:
        process: its process; standard output has been read up to the line with the address.
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
    """A ready service on a free port; stopped at the end.

    Args:
        options: options of `python -m service serve`. They override the defaults used here: log warnings, no draining.
        variables: additional environment variables.
        cpus: the CPUs that it may use; by default those of this process.
        log: file for its log; by default this process's standard error.
        root: the checkout to run the service from.

    Raises:
        StackError: it did not start or did not become ready.
    """
    command = [sys.executable, "-m", "service", "serve", "--json", "--port", "0", "--log-level", "warning"]
    command += ["--drain-s", "0"]  # there is no load balancer that must notice the shutdown
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
            why = line.strip()[:500] or (log.read_text().strip()[-500:] if log else "see its messages above")
            raise StackError(f"The service did not start: {why}")
        wait_ready(said["url"], process)
        yield Started(said["url"], process.pid, process)


@contextlib.contextmanager
def prometheus(
    targets: Sequence[str], folder: Path, *, scrape_s: int = 1, discovery: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of a Prometheus that scrapes `targets` with the configuration of deploy/prometheus.

    Args:
        targets: addresses of services.
        folder: existing folder for its data, configuration and log.
        scrape_s: seconds between scrapes.
        discovery: HTTP service discovery configuration, for additional targets.

    Raises:
        StackError: Prometheus is not installed or did not start.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise StackError("Prometheus is not installed (Debian and Ubuntu: apt-get install prometheus).")
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
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with listening(command, folder / "prometheus.log") as address:
        yield f"http://{address}"


@contextlib.contextmanager
def listening(command: Sequence[str], log: Path) -> Iterator[str]:
    """The address, such as `127.0.0.1:9090`, of a program of the Prometheus family that is ready; stopped at the end.

    Args:
        command: the program and its options, without `--web.listen-address`.
        log: file for its output.

    Raises:
        StackError: it did not start or did not become ready.
    """
    name = Path(command[0]).name
    for left in reversed(range(_PORTS)):
        address = f"127.0.0.1:{free_port()}"
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("wb"))
            process = subprocess.Popen(  # noqa: S603  no shell, and arguments of our own
                [*command, f"--web.listen-address={address}"], stdout=output, stderr=subprocess.STDOUT
            )
            stack.callback(stop, process)

            def ready(process: subprocess.Popen[bytes] = process, address: str = address) -> bool:
                if process.poll() is not None:
                    return True
                with contextlib.suppress(OSError):
                    get(f"http://{address}/-/ready")
                    return True
                return False

            wait_for(f"{name} is ready", ready)
            if process.poll() is None:
                yield address
                return
            said = log.read_text()[-500:]
            # Somebody may have taken the port since it was free: then another one.
            if not (left and "address already in use" in said.lower()):
                raise StackError(f"{name} exited with {process.returncode}: {said}")


def wait_ready(url: str, process: subprocess.Popen[str] | None) -> None:
    """Waits until a service answers requests.

    Raises:
        StackError: it is not ready within START_S, reports that it failed, or has ended.
    """
    give_up = time.monotonic() + START_S
    said = "it does not answer"
    while time.monotonic() < give_up:
        try:
            get(f"{url}/readyz")
        except urllib.error.HTTPError as error:
            said, final = _refusal(error)
            if final:
                break
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
        else:
            return
        if process is not None and process.poll() is not None:
            said = f"it exited with {process.returncode}"
            break
        time.sleep(0.1)
    raise StackError(f"The service at {url} is not ready: {said}")


def _refusal(error: urllib.error.HTTPError) -> tuple[str, bool]:
    """What an error status of `/readyz` says, and whether it will stay. A proxy or another program may have sent it."""
    try:
        body = json.loads(error.read())
        return " ".join(body["reasons"]), body["state"] == "failed"
    except (OSError, ValueError, KeyError, TypeError):  # not the service's document
        return f"/readyz was answered with {error.code} {error.reason}", error.code < 500


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Polls until a condition holds.

    Raises:
        StackError: it did not hold in time; `what` describes it.
    """
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            raise StackError(f"Timed out after {timeout_s:g} s waiting until: {what}.")
        time.sleep(0.1)


def get(url: str, timeout_s: float = 10.0) -> str:
    """The body of a response.

    Raises:
        OSError: there was no response, or it has an error status (`urllib.error.HTTPError`).
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
    """The command restricted to these CPUs from its start, so that the process counts only these.

    Raises:
        StackError: taskset is not installed.
    """
    if cpus is None:
        return list(command)
    if shutil.which("taskset") is None:
        raise StackError("Pinning processes needs taskset (Debian and Ubuntu: apt-get install util-linux).")
    return ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


def stop(process: subprocess.Popen[Any]) -> int:
    """Terminates a process, and kills it if necessary. Returns its exit code."""
    process.terminate()
    return ended(process)


def ended(process: subprocess.Popen[Any]) -> int:
    """Waits for a process that was told to end, and kills it after STOP_S. Returns its exit code."""
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
