"""CPU that a request costs beyond its work: `python -m loadtest.overhead`, the service against FastAPI and mosec.

Each server does the same: decode, prepare, run the shipped 1-bit classifier. CPU is that of the server's processes,
from the kernel's counters, so that the load generator (`hey`, Debian: apt-get install hey) is not in it. What the work
itself takes is measured in one process, single-threaded, in the same run, and taken off.

The service does more for a request than its peers: limits, deadlines, ids, metrics of each stage, a log line, fairness,
a signed token. `--cores` adds how many requests a second one core and two answer.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from loadtest.machine import describe_machine
from loadtest.overhead_peers import work
from loadtest.pictures import photo_like
from loadtest.server import ROOT, ServerError, serving
from models.command_line import Parser

SERVERS = ("bireal-serve", "fastapi", "mosec")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison. Returns the exit code: 0 or 2 (it could not be run)."""
    arguments = _parser().parse_args(argv)
    if shutil.which("hey") is None:
        print("error: the load generator hey was not found: install it (Debian: apt-get install hey).", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "photo.jpg"
            picture.write_bytes(photo_like())
            document = compare(arguments, picture)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(document, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)
    return 0


def compare(arguments: argparse.Namespace, picture: Path) -> dict[str, Any]:
    """All rows, the servers one after the other.

    Raises:
        ServerError: One of them does not start.
    """
    work_ms = 1000 * _work_s(picture.read_bytes(), arguments.requests)
    rows = []
    for name in SERVERS:
        with _serving(name) as (url, pid):
            _drive(url, picture, 50, 4)
            for at_once in arguments.concurrency:
                begun = _cpu_s(pid)
                per_s = _drive(url, picture, arguments.requests, at_once)
                cpu_ms = 1000 * (_cpu_s(pid) - begun) / arguments.requests
                rows.append(
                    {
                        "server": name,
                        "concurrency": at_once,
                        "requests_per_s": round(per_s, 1),
                        "cpu_ms": round(cpu_ms, 3),
                        "beyond_work_ms": round(cpu_ms - work_ms, 3),
                    }
                )
    document = {
        "kind": "overhead",
        "requests": arguments.requests,
        "work_ms": round(work_ms, 3),
        "rows": rows,
        "machine": describe_machine().model_dump(mode="json"),
    }
    if arguments.cores:
        document["cores"] = _cores(picture, arguments.requests)
    return document


def _cores(picture: Path, requests: int) -> dict[str, Any]:
    """Requests per CPU second bound to one core and to two: with the load generator on the same cores, CPU tells."""
    found: dict[str, Any] = {}
    for count in (1, 2):
        cpus = sorted(os.sched_getaffinity(0))[:count]
        options = ["--workers", count, "--decode-threads", count, "--intra-op-threads", 1]
        with serving(*options, prefix=["taskset", "-c", ",".join(map(str, cpus))]) as server:
            _drive(server.url, picture, 50, 4)
            begun, clock = _cpu_s(server.process.pid), time.monotonic()
            per_s = _drive(server.url, picture, requests, 8)
            cpu_s, wall_s = _cpu_s(server.process.pid) - begun, time.monotonic() - clock
            found[str(count)] = {
                "requests_per_s": round(per_s, 1),
                "server_cpus_busy": round(cpu_s / wall_s, 3),
                "requests_per_s_if_all_cpu_were_the_servers": round(requests / cpu_s * count, 1),
            }
    return found


def _work_s(data: bytes, count: int) -> float:
    """CPU seconds that the work takes without a server."""
    for _ in range(20):
        work(data)
    begun = time.process_time()
    for _ in range(count):
        work(data)
    return (time.process_time() - begun) / count


@contextlib.contextmanager
def _serving(name: str) -> Iterator[tuple[str, int]]:
    if name == "bireal-serve":
        with serving("--intra-op-threads", 1) as server:
            yield server.url, server.process.pid
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    module = {"fastapi": "loadtest.overhead_peers", "mosec": "loadtest.overhead_mosec"}[name]
    command = [sys.executable, "-m", module, "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, cwd=ROOT, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    paths = {"fastapi": "/classify", "mosec": "/inference"}
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.post(url + paths[name], content=photo_like(), timeout=10).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"{name} did not start; it says why above.")
            time.sleep(0.2)
        yield url + ("" if name == "fastapi" else "/inference"), process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _drive(url: str, picture: Path, requests: int, at_once: int) -> float:
    """Requests a second that `hey` got answered; all of them must be."""
    target = url if url.endswith("/inference") else f"{url}/classify"
    command = ["hey", "-n", str(requests), "-c", str(at_once), "-m", "POST", "-D", str(picture)]
    command += ["-T", "application/octet-stream", target]
    out = subprocess.run(  # noqa: S603 - hey, with our own arguments
        command, capture_output=True, text=True, check=True, timeout=300
    ).stdout
    answered = re.search(r"\[200\]\s+(\d+) responses", out)
    per_s = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if answered is None or per_s is None or int(answered[1]) < requests - requests % at_once:
        raise ServerError(f"Not every request of {target} was answered:\n{out}")
    return float(per_s[1])


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all below it, user and system."""
    total = 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    total += (int(fields[11]) + int(fields[12])) * _TICK_S
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            total += _cpu_s(int(child))
    return total


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m loadtest.overhead", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="a row (%(default)s)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16], help="at once (%(default)s)")
    parser.add_argument("--cores", action="store_true", help="also one core against two")
    parser.add_argument("--out", type=Path, help="write the report here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
