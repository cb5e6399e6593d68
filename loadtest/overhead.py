"""Measures the CPU overhead per request of the service, FastAPI and mosec: `python -m loadtest.overhead`.

Every server does the same work: decode, preprocess and run the shipped 1-bit classifier. All servers run at once and
take turns in short slices, so that disturbances affect all of them equally. The CPU time of the work alone is measured
in this process, single-threaded, before and after each slice. Each slice's CPU time is divided by it, and the median
over the slices of a process is taken, which a temporarily slow machine does not shift. CPU times are those of the
server's processes and exclude the load generator (`loadtest.keepalive`).

Two processes of the same program differ by more than the slices of one (addresses, hashes, which thread runs where). So
all servers are started anew `--processes` times, and the result is the mean over the processes with its 95 % interval.

The service does more per request than its peers: limits, deadlines, request ids, per-stage metrics, a log line,
fairness, a signed token. `--cores` instead measures the requests per second on one core and on two, with the load
generator on the same cores, and the CPU time used by other processes meanwhile.
"""

import argparse
import contextlib
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from loadtest.keepalive import LoadError, post
from loadtest.measures.throughput import images_per_s
from loadtest.options import add_report, progress, run_report
from loadtest.overhead_peers import work
from loadtest.pictures import photo_like
from loadtest.stack import ROOT, StackError, ended, free_port, service
from models.command_line import Distinct, Parser, count
from service.host import usable_cpus

SERVERS = ("bireal-serve", "fastapi", "mosec")
PEER = "fastapi"
_WORKS = 15  # repetitions of the work between two slices
# 97.5 % quantiles of Student's t, by degrees of freedom; beyond, that of 30 is used, which is slightly too wide.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_CLOCK_OF_A_PROCESS = 2  # clock_getcpuclockid(3): the low bits of a CPU clock's number


@dataclass
class _Up:
    """A running server and its measurements by concurrency: (CPU / work, requests per second)."""

    name: str
    url: str
    pid: int
    slices: dict[int, list[tuple[float, float]]] = field(default_factory=dict)

    def medians(self, at_once: int) -> tuple[float, float]:
        """Medians over the slices at a concurrency: CPU / work, and requests per second."""
        ratios, rates = zip(*self.slices[at_once], strict=True)
        return statistics.median(ratios), statistics.median(rates)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison. Returns the exit code: 0 or 2 (it could not run)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.cores:
        unused = [name for name in ("processes", "concurrency", "beside") if getattr(arguments, name) is not None]
        if unused:
            parser.error(f"with --cores, --{unused[0]} has no effect: leave it out")
    return run_report(_measure, arguments, StackError, LoadError, OSError)


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    picture = photo_like(*arguments.picture)
    arguments.rounds = arguments.rounds or (24 if arguments.cores else 5)
    arguments.processes = arguments.processes or 8
    arguments.concurrency = arguments.concurrency or [1, 4, 16]
    return cores(arguments, picture) if arguments.cores else compare(arguments, picture)


def compare(arguments: argparse.Namespace, picture: bytes) -> dict[str, Any]:
    """Measures all servers at all concurrencies.

    Raises:
        StackError: A server does not start.
        LoadError: A request was not answered with 200.
        OSError: A server has ended.
    """
    works = [_work_s(picture)]
    generations: list[list[_Up]] = []
    with contextlib.suppress(KeyboardInterrupt):  # report what has been measured so far
        for number in range(arguments.processes):
            generations.append(_generation(arguments, picture, works, number))  # noqa: PERF401  keeps the complete ones
    if not generations:
        raise LoadError("No round was completed.")
    work_s = statistics.quantiles(works, n=10)[0]
    names = [server.name for server in generations[0]]
    rows = []
    for place, name in enumerate(names):
        for at_once in arguments.concurrency:
            medians = [generation[place].medians(at_once) for generation in generations]
            peer = [generation[names.index(PEER)].medians(at_once) for generation in generations]
            rows.append(_row(name, at_once, work_s, medians, peer))
    return {
        "kind": "overhead",
        "picture": {"width": arguments.picture[0], "height": arguments.picture[1], "bytes": len(picture)},
        "processes": len(generations),
        "requests": arguments.requests * arguments.rounds * len(generations),
        "slices": arguments.rounds * len(generations),
        "mosec_workers": usable_cpus(),
        "work_ms": round(1000 * work_s, 3),
        "rows": rows,
    }


def _generation(arguments: argparse.Namespace, picture: bytes, works: list[float], number: int) -> list[_Up]:
    """Starts every server and measures its slices; the servers have ended afterwards."""
    with contextlib.ExitStack() as stack:
        servers = [_Up(name, *stack.enter_context(_serving(name))) for name in SERVERS]
        if arguments.beside:
            servers.append(_Up("beside", *stack.enter_context(_serving("bireal-serve", arguments.beside))))
        for server in servers:
            post(server.url, picture, requests=100, at_once=4)
        for server in servers:
            _settle(server)
        progress(f"processes {number + 1} of {arguments.processes} are up: measuring")
        works.append(_work_s(picture))
        _take_turns(servers, arguments, picture, works, number)
    return servers


def _settle(server: _Up) -> None:
    """Waits until an idle server takes no CPU, as it does while more worker processes of its own load the model.

    Raises:
        StackError: It still does after a minute.
        OSError: It has ended.
    """
    deadline, before = time.monotonic() + 60, cpu_s(server.pid)
    while True:
        time.sleep(0.5)
        now = cpu_s(server.pid)
        if now - before < 0.05:
            return
        if time.monotonic() > deadline:
            raise StackError(f"{server.name} is not idle a minute after its start.")
        before = now


def _take_turns(
    servers: Sequence[_Up], arguments: argparse.Namespace, picture: bytes, works: list[float], generation: int
) -> None:
    """Measures slices of all servers, and after each slice the CPU seconds of the work, appended to `works`."""
    turns = [(server, at_once) for at_once in arguments.concurrency for server in servers]
    for number in range(arguments.rounds):
        # In a random order (with a fixed seed), so that no server always follows the same one.
        for server, at_once in random.Random(generation * arguments.rounds + number).sample(turns, len(turns)):
            begun = cpu_s(server.pid)
            driven = post(server.url, picture, requests=arguments.requests, at_once=at_once)
            spent_s = (cpu_s(server.pid) - begun) / arguments.requests
            works.append(_work_s(picture))
            beside_s = (works[-2] + works[-1]) / 2
            server.slices.setdefault(at_once, []).append((spent_s / beside_s, driven.per_s))


def _row(
    server: str,
    at_once: int,
    work_s: float,
    medians: Sequence[tuple[float, float]],
    peer: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """The result row of a server; milliseconds refer to the machine at its fastest.

    Args:
        server: its name.
        at_once: concurrent requests.
        work_s: CPU seconds of the work.
        medians: CPU / work and requests per second of each process.
        peer: those of the peer that was up at the same time.
    """
    beyond = [1000 * work_s * (ratio - 1) for ratio, _ in medians]
    more = [1000 * work_s * (ratio - other) for (ratio, _), (other, _) in zip(medians, peer, strict=True)]
    return {
        "server": server,
        "concurrency": at_once,
        "requests_per_s": round(statistics.median(per_s for _, per_s in medians), 1),
        "cpu_ms": round(1000 * work_s + statistics.fmean(beyond), 3),
        "beyond_work_ms": round(statistics.fmean(beyond), 3),
        "plus_minus_ms": _interval(beyond),
        f"beyond_{PEER}_ms": round(statistics.fmean(more), 3),
        f"beyond_{PEER}_plus_minus_ms": _interval(more),
        "by_process_ms": [round(each, 3) for each in beyond],
    }


def _interval(values: Sequence[float]) -> float | None:
    """Half the 95 % confidence interval of the mean of independent values; None for one."""
    if len(values) < 2:
        return None
    t = _T[min(len(values) - 1, len(_T)) - 1]
    return round(t * statistics.stdev(values) / math.sqrt(len(values)), 3)


def cores(arguments: argparse.Namespace, picture: bytes) -> dict[str, Any]:
    """Measures the service on one core and on two in turns (with the load generator), and the work alone in threads.

    Raises:
        StackError: The service does not start, or there is only one CPU.
        LoadError: A request was not answered with 200.
        OSError: The service has ended.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise StackError("Comparing one core with two needs two CPUs, and this process may use only one.")
    found: dict[str, list[dict[str, float]]] = {"1": [], "2": []}
    with contextlib.ExitStack() as stack:
        servers = {}
        for number in (1, 2):
            options = ["--workers", number, "--decode-threads", number, "--intra-op-threads", 1]
            servers[number] = stack.enter_context(service(options, cpus=cpus[:number]))
            post(f"{servers[number].url}/classify", picture, requests=100, at_once=4)
        progress("one core and two: measuring")
        try:
            for _ in range(arguments.rounds):
                for number, server in servers.items():
                    os.sched_setaffinity(0, cpus[:number])
                    begun, machine = cpu_s(server.process.pid), _machine_cpu_s()
                    driven = post(f"{server.url}/classify", picture, requests=arguments.requests, at_once=8)
                    spent_s = cpu_s(server.process.pid) - begun
                    others_s = _machine_cpu_s() - machine - spent_s - driven.client_cpu_s
                    found[str(number)].append(
                        {
                            "requests_per_s": driven.per_s,
                            "server_cpus_busy": spent_s / driven.seconds,
                            "generator_cpus_busy": driven.client_cpu_s / driven.seconds,
                            "others_cpus_busy": max(0.0, others_s / driven.seconds),
                            "work_in_threads_per_s": _work_in_threads(picture, number),
                        }
                    )
        finally:
            os.sched_setaffinity(0, cpus)
    medians = {
        number: {name: round(statistics.median(one[name] for one in slices), 3) for name in slices[0]}
        for number, slices in found.items()
    }
    ratio = {name: round(medians["2"][name] / medians["1"][name], 3) for name in medians["1"] if name.endswith("per_s")}
    return {
        "kind": "cores",
        "requests": arguments.requests * arguments.rounds,
        "slices": arguments.rounds,
        **medians,
        "two_over_one": ratio,
    }


def _machine_cpu_s() -> float:
    """CPU seconds of all processes of the machine since it booted, in steps of a tick, including steal time."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def _work_in_threads(data: bytes, threads: int, seconds: float = 0.3) -> float:
    """Repetitions of the work per second in threads, without a server: the scaling that the GIL allows."""
    return images_per_s([partial(work, data)] * threads, seconds)


def _work_s(data: bytes) -> float:
    """CPU seconds of the work without a server."""
    begun = time.process_time()
    for _ in range(_WORKS):
        work(data)
    return (time.process_time() - begun) / _WORKS


@contextlib.contextmanager
def _serving(name: str, root: Path = ROOT) -> Iterator[tuple[str, int]]:
    """Starts a server; yields its classification URL and its process id."""
    if name == "bireal-serve":
        with service(["--intra-op-threads", 1], root=root) as server:
            yield f"{server.url}/classify", server.process.pid
        return
    port = free_port()
    module, path = {
        "fastapi": ("loadtest.overhead_peers", "classify"),
        "mosec": ("loadtest.overhead_mosec", "inference"),
    }[name]
    command = [sys.executable, "-m", module, "--port", str(port)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        command, cwd=ROOT, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}/{path}"
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.post(url, content=photo_like(), timeout=10).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise StackError(f"{name} did not start; see its messages above.")
            time.sleep(0.2)
        yield url, process.pid
    finally:
        for sent in (signal.SIGTERM, signal.SIGKILL):  # SIGKILL for worker processes that mosec leaves behind
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            ended(process)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its descendants, user and system, from clocks finer than the ticks of /proc."""
    total = time.clock_gettime(~pid << 3 | _CLOCK_OF_A_PROCESS)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            total += cpu_s(int(child))
    return total


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m loadtest.overhead", description=__doc__)
    parser.add_argument("--requests", type=count, default=40, help="requests per slice (%(default)s)")
    parser.add_argument(
        "--processes",
        type=count,
        help="starts of every server; Ctrl-C ends with the last complete one (8)",
    )
    parser.add_argument(
        "--rounds", type=count, help="slices per process and concurrency (5), or with --cores per number of cores (24)"
    )
    parser.add_argument("--concurrency", type=count, nargs="+", action=Distinct, help="concurrent requests (1 4 16)")
    parser.add_argument(
        "--picture", type=count, nargs=2, default=[500, 375], metavar=("WIDTH", "HEIGHT"), help="pixels (%(default)s)"
    )
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="another checkout whose service is measured too")
    parser.add_argument("--cores", action="store_true", help="compare one core with two instead")
    add_report(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
