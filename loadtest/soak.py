"""Soak test at saturation: `python -m loadtest.soak --minutes 10` keeps the service full and watches its memory.

More clients than the queue can hold send valid and invalid pictures to every task and variant, and check each response.
Resident memory is sampled twice per second; its slope is fitted by least squares over the second half of the time, when
caches and allocators are warm. Exit code 1 means a wrong response, a status 500, memory that grows faster than
`--max-slope`, or a service that ended too early.
"""

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from loadtest.options import add_report, run_report
from loadtest.pictures import photo_like
from loadtest.scenarios.drive import Usage
from loadtest.stack import StackError, service, stop
from models.command_line import Parser, count, positive

#: The expected statuses. 429 is normal at saturation.
_RIGHT = {200, 429}
_BAD = {"cut": 422, "text": 415}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the soak test. Returns the exit code: 0, 1 (something was wrong) or 2 (it could not run)."""
    return run_report(soak, _parser().parse_args(argv), StackError)


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Starts a service, keeps it saturated for the given time, and returns the report.

    Raises:
        StackError: The service does not start.
    """
    seconds = 60 * arguments.minutes
    options = ["--queue-size", arguments.queue_size]
    if arguments.model_dir:
        options += ["--model-dir", arguments.model_dir, "--fallback", "reference"]
    counts: list[Counter[str]] = [Counter() for _ in range(arguments.clients)]  # one each: counting is not atomic
    wrong: list[str] = []
    with service(options) as server:
        done = threading.Event()
        ready = threading.Barrier(arguments.clients + 1)  # the time counts from when all have made their images
        clients = [
            threading.Thread(target=_client, args=(server.url, number, ready, done, counts[number], wrong), daemon=True)
            for number in range(arguments.clients)
        ]
        for client in clients:
            client.start()
        ready.wait()
        try:
            times, memory = _watch(server.process, seconds)
        finally:
            done.set()
        for client in clients:
            client.join(60)
        exit_code = stop(server.process)
    lasted_s = float(times[-1])
    late = times >= lasted_s / 2
    whole = lasted_s >= seconds
    slope = float(np.polyfit(times[late], memory[late], 1)[0]) * 60 if late.sum() > 2 else 0.0
    total = sum(counts, Counter[str]())
    answered = sum(number for name, number in total.items() if name.endswith(" 200"))
    return {
        "kind": "soak",
        "minutes": round(lasted_s / 60, 1),
        "clients": arguments.clients,
        "queue_size": arguments.queue_size,
        "answered": answered,
        "answered_per_s": round(answered / max(lasted_s, 1e-9), 2),
        "counts": dict(sorted(total.items())),
        "wrong": wrong[:20],
        "rss_mb": {
            "start": round(float(memory[0]) / 1e6, 1),
            "half": round(float(memory[late][0]) / 1e6, 1),
            "end": round(float(memory[-1]) / 1e6, 1),
            "highest": round(float(memory.max()) / 1e6, 1),
        },
        "slope_kb_per_min_second_half": round(slope / 1e3, 1),
        "max_slope_kb_per_min": arguments.max_slope,
        "exit_code": exit_code,
        "ok": whole and not wrong and exit_code == 0 and answered > 0 and slope / 1e3 <= arguments.max_slope,
    }


def _watch(process: Popen[str], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Samples times (s) and resident memory (bytes) for the given time or until the process ends; at least once."""
    begun = time.monotonic()
    times: list[float] = []
    memory: list[int] = []
    with tqdm(total=round(seconds), unit="s", file=sys.stderr) as bar:
        while True:
            used = Usage.of(process.pid).resident_bytes
            if times and (used == 0 or process.poll() is not None):  # the process has ended
                break
            times.append(time.monotonic() - begun)
            memory.append(used)
            bar.update(round(times[-1]) - bar.n)
            if times[-1] >= seconds:
                break
            time.sleep(0.5)
    return np.array(times), np.array(memory, dtype=np.float64)


def _client(
    url: str,
    number: int,
    ready: threading.Barrier,
    done: threading.Event,
    counts: Counter[str],
    wrong: list[str],
) -> None:
    """Sends requests until told to stop; each client has its own pictures."""
    pictures = [photo_like(seed=number, width=320 + 40 * (number % 7)), photo_like(1242, 375, seed=number)]
    paths = ["/classify", "/classify?variant=full", "/depth?variant=binary", "/compare/classify", "cut", "text"]
    weights = [16, 4, 2, 2, 1, 1]
    rng = np.random.default_rng(number)
    ready.wait()
    with httpx.Client(base_url=url, timeout=60) as http:
        while not done.is_set():
            path = paths[rng.choice(len(paths), p=np.array(weights) / sum(weights))]
            body = pictures[path.startswith("/depth")]
            right = _RIGHT
            target = path
            if path in _BAD:
                body, target, right = {"cut": body[:5000], "text": b"no picture"}[path], "/classify", {_BAD[path], 429}
            try:
                response = http.post(target, content=body, headers={"content-type": "application/octet-stream"})
            except httpx.HTTPError as error:
                wrong.append(f"{path}: {type(error).__name__} {error}")
                done.wait(0.1)  # do not spin: an ended service refuses immediately
                continue
            counts[f"{path} {response.status_code}"] += 1
            if response.status_code not in right:
                wrong.append(f"{path}: {response.status_code} {response.text[:200]}")
            if response.status_code == 429:
                time.sleep(0.02)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m loadtest.soak", description=__doc__)
    parser.add_argument("--minutes", type=positive, default=10.0, help="duration (default %(default)s)")
    parser.add_argument("--clients", type=count, default=24, help="concurrent clients (default %(default)s)")
    parser.add_argument("--queue-size", type=count, default=8, help="the service's queue, small (default %(default)s)")
    parser.add_argument("--max-slope", type=float, default=500.0, help="memory growth limit, kB/min (%(default)s)")
    parser.add_argument("--model-dir", type=Path, help="models to use instead of the shipped ones")
    add_report(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
