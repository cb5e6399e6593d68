"""Soak test at saturation: `python -m loadtest.soak --minutes 10` keeps the service full and watches its memory.

More clients than the queue can hold send valid and invalid pictures to every task and variant. Each response is checked
against the answer of the idle service to the same picture (`loadtest.soak_answers`). Resident memory is sampled twice
per second; its slope is fitted by least squares over the second half of the time, when caches and allocators are warm.
Exit code 1 means a wrong response or answer, a path that was never answered with 200, a client that ended early or did
not end, memory that grows faster than `--max-slope` or was sampled too rarely to tell, or a service that ended early.
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

from loadtest.options import add_report, progress, run_report
from loadtest.scenarios.drive import Usage
from loadtest.soak_answers import BAD, HEADERS, VALID, WEIGHTS, Client, prepare
from loadtest.stack import StackError, service, stop
from models.command_line import Parser, count, positive

_SAMPLE_S = 0.5
_FEWEST = 5  # samples for a slope
_JOIN_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the soak test. Returns the exit code: 0, 1 (something was wrong) or 2 (it could not run)."""
    return run_report(soak, _parser().parse_args(argv), StackError, httpx.HTTPError)


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Starts a service, keeps it saturated for the given time, and returns the report.

    Raises:
        StackError: The service does not start.
        httpx.HTTPError: It does not answer while it is idle.
    """
    seconds = 60 * arguments.minutes
    options = ["--queue-size", arguments.queue_size]
    if arguments.model_dir:
        options += ["--model-dir", arguments.model_dir, "--fallback", "reference"]
    counts: list[Counter[str]] = [Counter() for _ in range(arguments.clients)]  # one each: counting is not atomic
    wrong: list[str] = []
    with service(options) as server:
        progress(f"{arguments.clients} clients ask for the answers of the idle service")
        with httpx.Client(base_url=server.url, timeout=60) as http:
            clients = [prepare(http, number, wrong) for number in range(arguments.clients)]
        done = threading.Event()
        threads = [
            threading.Thread(target=_guarded, args=(server.url, number, clients[number], done, own, wrong), daemon=True)
            for number, own in enumerate(counts)
        ]
        for thread in threads:
            thread.start()
        try:
            times, memory = _watch(server.process, seconds)
        finally:
            done.set()
        give_up = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        wrong += [f"client {number} still waits" for number, thread in enumerate(threads) if thread.is_alive()]
        exit_code = stop(server.process)
    lasted_s = float(times[-1])
    slope = slope_kb_per_min(times, memory)
    late = times >= lasted_s / 2
    total = sum(counts, Counter[str]())
    answered = sum(number for name, number in total.items() if name.endswith(" 200"))
    unanswered = [path for path in VALID if not total[f"{path} 200"]]
    return {
        "kind": "soak",
        "minutes": round(lasted_s / 60, 1),
        "clients": arguments.clients,
        "queue_size": arguments.queue_size,
        "answered": answered,
        "answered_per_s": round(answered / max(lasted_s, 1e-9), 2),
        "counts": dict(sorted(total.items())),
        "never_answered": unanswered,
        # Equal answers to the pictures of different clients would hide that they were mixed up.
        "different_answers": {path: len({str(one.expected[path]) for one in clients}) for path in VALID},
        "wrong_total": len(wrong),
        "wrong": list(dict.fromkeys(wrong))[:20],
        "rss_mb": {
            "start": round(float(memory[0]) / 1e6, 1),
            "half": round(float(memory[late][0]) / 1e6, 1),
            "end": round(float(memory[-1]) / 1e6, 1),
            "highest": round(float(memory.max()) / 1e6, 1),
        },
        "rss_samples": {"s": [round(float(at), 1) for at in times], "mb": [round(float(v) / 1e6, 2) for v in memory]},
        "slope_kb_per_min_second_half": None if slope is None else round(slope, 1),
        "max_slope_kb_per_min": arguments.max_slope,
        "exit_code": exit_code,
        "ok": lasted_s >= seconds
        and not wrong
        and not unanswered
        and exit_code == 0
        and slope is not None
        and slope <= arguments.max_slope,
    }


def slope_kb_per_min(times_s: np.ndarray, memory_bytes: np.ndarray) -> float | None:
    """Growth of memory in the second half of the time, kB per minute; None if there are too few samples to tell."""
    late = times_s >= times_s[-1] / 2
    if late.sum() < _FEWEST:
        return None
    return float(np.polyfit(times_s[late], memory_bytes[late], 1)[0]) * 60 / 1e3


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
            time.sleep(_SAMPLE_S)
    return np.array(times), np.array(memory, dtype=np.float64)


def _guarded(
    url: str, number: int, client: Client, done: threading.Event, counts: Counter[str], wrong: list[str]
) -> None:
    """Runs a client; one that fails counts as wrong instead of being missed."""
    try:
        _client(url, number, client, done, counts, wrong)
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs into the report
        wrong.append(f"client {number} ended: {type(error).__name__} {error}")


def _client(
    url: str, number: int, client: Client, done: threading.Event, counts: Counter[str], wrong: list[str]
) -> None:
    """Sends requests until told to stop. What was refused is sent again, or a full service might never answer some."""
    paths, weights = list(WEIGHTS), np.array(list(WEIGHTS.values()))
    rng = np.random.default_rng(number)
    refused = False
    path = paths[0]
    with httpx.Client(base_url=url, timeout=60) as http:
        while not done.is_set():
            if not refused:
                path = paths[rng.choice(len(paths), p=weights / weights.sum())]
            target = "/classify" if path in BAD else path
            try:
                response = http.post(target, content=client.body(path), headers=HEADERS)
            except httpx.HTTPError as error:
                wrong.append(f"{path}: {type(error).__name__} {error}")
                done.wait(0.1)  # do not spin: an ended service refuses immediately
                continue
            counts[f"{path} {response.status_code}"] += 1
            wrong.extend(client.faults(path, response))
            refused = response.status_code == 429
            if refused:
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
