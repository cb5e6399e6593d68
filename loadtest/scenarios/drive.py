"""Runs a plan with Locust in a separate process, and records the service's CPU and memory meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from loadtest.scenarios.plan import Plan
from loadtest.stack import ROOT, Service, StackError, get, pinned

LOCUSTFILE = Path(__file__).with_name("locustfile.py")

PATIENCE_S = 180.0  # for the last responses after the end of the plan

_WATCH_S = 0.05
_SCRAPE_S = 0.5  # a page of metrics costs the service milliseconds
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """One request.

    Attributes:
        name: task and variant.
        ms: latency from the time it was due to the end of its response, milliseconds.
        inference_ms: time of the network's run as reported by the service; None if it did not run.
        status: status of the response; 0 if there was none.
        due_s: when it was due, seconds from the start of the plan.
        late_ms: how much later than due it was sent, i.e. the load generator's delay.
    """

    name: str
    ms: float
    inference_ms: float | None
    status: int
    due_s: float
    late_ms: float


@dataclass(frozen=True)
class Usage:
    """Resource usage of a process at one moment.

    Attributes:
        at_s: `time.perf_counter()` at that moment.
        cpu_s: CPU time so far, user and system.
        resident_bytes: resident memory.
    """

    at_s: float
    cpu_s: float
    resident_bytes: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Reads /proc.

        Raises:
            OSError: there is no such process, or no /proc.
        """
        # The second field, the command's name, is in brackets and may contain spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
        return cls(time.perf_counter(), cpu_s, int(fields[21]) * _PAGE_BYTES)

    @classmethod
    def scraped(cls, url: str) -> Usage | None:
        """Reads a service's process metrics at `/metrics`; None if it has none, as on systems other than Linux.

        Raises:
            OSError: the service does not answer.
        """
        asked_s, page = time.perf_counter(), get(f"{url}/metrics")
        at_s = (asked_s + time.perf_counter()) / 2
        found = {
            sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples
        }
        cpu_s, resident = found.get("process_cpu_seconds_total"), found.get("process_resident_memory_bytes")
        return None if cpu_s is None or resident is None else cls(at_s, cpu_s, int(resident))


@dataclass(frozen=True)
class Run:
    """The recorded result of a plan.

    Attributes:
        samples: all requests, in the order of their responses.
        usage: usage of the service, sampled 20 times per second, or twice per second if it is scraped from `/metrics`.
        began_s: `time.perf_counter()` at the start of the plan; `usage` is on the same clock.
    """

    samples: tuple[Sample, ...]
    usage: tuple[Usage, ...]
    began_s: float


def drive(plan: Plan, service: Service, *, cpus: Sequence[int] | None = None, image: Path | None = None) -> Run:
    """Runs a plan.

    Args:
        plan: what to send.
        service: the service to send it to.
        cpus: CPUs for the load generator; all by default.
        image: a JPEG to send; by default a synthetic one.

    Raises:
        StackError: Locust failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples, described = folder / "samples.json", folder / "plan.json"
        described.write_text(json.dumps(_describe(plan, samples, image)), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"),
            *("--host", service.url, "--stop-timeout", "60", "--loglevel", "ERROR"),
        ]
        search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": search, "LOADTEST_PLAN": str(described)}
        with _watched(service) as usage:
            try:
                ended = subprocess.run(  # noqa: S603  no shell, and arguments of our own
                    pinned(command, cpus),
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=plan.seconds + PATIENCE_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise StackError(f"Locust was still running {PATIENCE_S:g} s after the end of its plan.") from error
        recorded = json.loads(samples.read_text(encoding="utf-8")) if samples.is_file() else {}
    if not recorded.get("samples"):
        raise StackError(f"Locust sent nothing: {(ended.stderr or ended.stdout).strip()[-500:]}")
    return Run(tuple(Sample(*item) for item in recorded["samples"]), tuple(usage), recorded["began_s"])


def _describe(plan: Plan, samples: Path, image: Path | None) -> dict[str, object]:
    return {
        "loop": plan.loop,
        "steps": [{"seconds": step.seconds, "level": step.level} for step in plan.steps],
        "mix": [{"task": kind.task, "variant": kind.variant, "share": share} for kind, share in plan.mix],
        "seed": plan.seed,
        "warm_up_s": plan.warm_up_s,
        "image": str(image.resolve()) if image else "",
        "samples": str(samples),
    }


@contextlib.contextmanager
def _watched(service: Service) -> Iterator[list[Usage]]:
    """A list to which the service's usage is appended; it stays empty if usage is not available."""
    usage: list[Usage] = []
    done = threading.Event()
    if service.pid is None:
        read: Callable[[], Usage | None] = partial(Usage.scraped, service.url)
    else:
        read = partial(Usage.of, service.pid)

    def look() -> None:
        while not done.wait(_SCRAPE_S if service.pid is None else _WATCH_S):
            with contextlib.suppress(OSError):  # the service is too busy, or has ended, which the responses will show
                if (found := read()) is not None:
                    usage.append(found)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        done.set()
        thread.join()
