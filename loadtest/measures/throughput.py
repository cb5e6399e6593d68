"""Throughput of concurrent single-threaded sessions, by their number."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import perf_counter

from loadtest.options import progress
from loadtest.peers.onnx_runtime import BINARY, ORT_FP32, Workload
from loadtest.peers.photos import photos
from loadtest.records.schema_costs import Throughput
from service.host import usable_cpus

WAYS = (ORT_FP32, BINARY)


def measure_throughput(workload: Workload, windows: int, seconds: float) -> list[Throughput]:
    """Measures images per second with 1, 2, ... sessions, up to the number of usable CPUs, in interleaved windows.

    Args:
        workload: the pair.
        windows: time windows per number of sessions.
        seconds: length of a window.
    """
    images = photos(1, workload.pair.height, workload.pair.width)
    numbers = range(1, usable_cpus() + 1)
    rows = []
    for way in WAYS:
        name = workload.row_name(way)
        progress(f"{name}: throughput of up to {numbers[-1]} sessions")
        runs = [way.open(workload, 1, images).call for _ in numbers]
        rates: dict[int, list[float]] = {number: [] for number in numbers}
        for _ in range(windows):
            for number in numbers:
                rates[number].append(images_per_s(runs[:number], seconds))
        medians = {number: statistics.median(values) for number, values in rates.items()}
        rows += [
            Throughput(
                name=name,
                sessions=number,
                images_per_s=round(rate, 3),
                scaling=round(rate / medians[1], 4),
                n=windows,
            )
            for number, rate in medians.items()
        ]
    return rows


def images_per_s(runs: Sequence[Callable[[], object]], seconds: float) -> float:
    """Total runs per second, with each run repeated on its own thread."""
    start = Barrier(len(runs))

    def work(run: Callable[[], object]) -> float:
        try:
            run()  # brings the weights into the caches
        finally:
            start.wait()  # even if it failed: the others wait for it, without end
        begin = perf_counter()
        count = 0
        while perf_counter() - begin < seconds:
            run()
            count += 1
        return count / (perf_counter() - begin)

    with ThreadPoolExecutor(len(runs)) as pool:
        return sum(pool.map(work, runs))
