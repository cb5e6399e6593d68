"""Compares scheduler settings on this machine: `python -m loadtest.scheduling`.

A fixed number of callers submit images directly to the service's scheduler, each sending the next one when the previous
one is answered. There is no HTTP and no decoding, so that only scheduling and inference are measured. For each network,
one multi-threaded worker is compared with several single-threaded workers, each with different limits on how many
waiting images are batched (`max_batch`). Configurations take turns in short rounds, so that a slowdown of the machine
affects all of them; the median round counts. A first round, which warms up, does not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from loadtest.machine import describe_machine
from loadtest.options import deliver, file_to_write
from loadtest.records.schema import Machine
from models.command_line import Distinct, Parser, count, expects, positive
from service.card import TaskName
from service.errors import ServiceError
from service.host import usable_cpus
from service.registry import Handle, Registry
from service.scheduler import Scheduler
from service.settings import SHIPPED_MODELS, load_settings

NETWORKS: tuple[tuple[TaskName, str], ...] = (
    ("classify", "binary"),
    ("classify", "full"),
    ("depth", "binary"),
    ("depth", "full"),
)


class Row(BaseModel):
    """One network under one configuration.

    Attributes:
        network: `model/variant`.
        workers: concurrent runs.
        threads: threads per run.
        max_batch: maximum batch size.
        images_per_s: throughput, median over the rounds.
        rounds_per_s: lowest and highest throughput of a round; None in older records.
        p50_ms: median latency from submission to result, over all rounds.
        p95_ms: 95th percentile of the latency.
        batch: mean batch size of the runs. Older records have the mean over the images, which counts a run as often as
            it has images.
    """

    model_config = ConfigDict(extra="forbid")

    network: str
    workers: int
    threads: int
    max_batch: int
    images_per_s: float
    rounds_per_s: tuple[float, float] | None = None
    p50_ms: float
    p95_ms: float
    batch: float


class Document(BaseModel):
    """A whole measurement."""

    model_config = ConfigDict(extra="forbid")

    machine: Machine
    callers: int
    seconds: float
    rounds: int
    rows: list[Row]


@dataclass
class Tried:
    """The measurements of one configuration so far."""

    scheduler: Scheduler
    handle: Handle
    threads: int
    rates: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def forget(self) -> None:
        """Drops the measurements so far."""
        for measured in (self.rates, self.latencies_s, self.batches):
            measured.clear()


async def drive(tried: Tried, image: np.ndarray, *, callers: int, seconds: float) -> None:
    """Runs one round."""
    end = time.perf_counter() + seconds
    answers = 0

    async def caller() -> None:
        nonlocal answers
        while (begun := time.perf_counter()) < end:
            outcome = await tried.scheduler.submit(tried.handle.model, image)
            tried.latencies_s.append(time.perf_counter() - begun)
            tried.batches.append(outcome.batch_size)
            answers += 1

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    tried.rates.append(answers / (time.perf_counter() - begun))


def measure(arguments: argparse.Namespace) -> Document:
    """Measures everything."""
    machine = describe_machine()
    shapes = [(1, threads) for threads in sorted({1, arguments.cpus})]
    if arguments.cpus > 1:
        shapes.append((arguments.cpus, 1))
    registries = {threads: loaded(arguments.models, threads) for threads in sorted({1, arguments.cpus})}
    rows = []
    for task, variant in NETWORKS:
        candidates = []
        for (workers, threads), max_batch in itertools.product(shapes, arguments.max_batch):
            scheduler = Scheduler(workers=workers, queue_size=4 * arguments.callers, max_batch=max_batch)
            candidates.append(Tried(scheduler, registries[threads].resolve(task, None, variant), threads))
        height, width = (getattr(candidates[0].handle.card.input, side) for side in ("height", "width"))
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        for number in range(1 + arguments.rounds):
            for tried in candidates:
                asyncio.run(drive(tried, image, callers=arguments.callers, seconds=arguments.seconds))
                if number == 0:  # the warm-up
                    tried.forget()
        for tried in candidates:
            tried.scheduler.close(1)
            rows.append(row(tried))
            print(" ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    return Document(
        machine=machine, callers=arguments.callers, seconds=arguments.seconds, rounds=arguments.rounds, rows=rows
    )


def loaded(models: Path, threads: int) -> Registry:
    """Loads the models for runs with the given number of threads."""
    registry = Registry(load_settings({"model_dir": models, "intra_op_threads": threads}))
    registry.load(lambda _, variant: variant != "reference")
    return registry


def row(tried: Tried) -> Row:
    """Summarises a configuration."""
    p50, p95 = np.percentile(tried.latencies_s, [50, 95])
    return Row(
        network=f"{tried.handle.card.name}/{tried.handle.variant}",
        workers=tried.scheduler.workers,
        threads=tried.threads,
        max_batch=tried.scheduler.max_batch,
        images_per_s=round(statistics.median(tried.rates), 2),
        rounds_per_s=(round(min(tried.rates), 2), round(max(tried.rates), 2)),
        p50_ms=round(1000 * p50, 2),
        p95_ms=round(1000 * p95, 2),
        # Each image brings the size of its run, so a run of 8 is there 8 times: their harmonic mean is images / runs.
        batch=round(statistics.harmonic_mean(tried.batches), 2),
    )


def cells(entry: Row) -> list[str]:
    """A row as text."""
    return [
        entry.network,
        f"{entry.workers} x {entry.threads}",
        str(entry.max_batch),
        f"{entry.images_per_s:.1f}",
        f"{entry.p50_ms:.1f}",
        f"{entry.p95_ms:.1f}",
        f"{entry.batch:.1f}",
    ]


def table(document: Document) -> Iterator[str]:
    """The rows as a table in Markdown."""
    machine = document.machine
    where = f"{machine.cpu}, {machine.isa}, {machine.usable_cpus} CPUs"
    yield f"{where}, commit {machine.commit}, {document.callers} callers"
    yield ""
    yield "| network | workers x threads | max_batch | images/s | p50 ms | p95 ms | images a run |"
    yield "|---|---|---|---|---|---|---|"
    for entry in document.rows:
        yield "| " + " | ".join(cells(entry)) + " |"


@expects(ServiceError)
def main(argv: list[str] | None = None) -> int:
    """Runs the measurement."""
    parser = Parser(prog="python -m loadtest.scheduling", description="Compares workers, threads and batch sizes.")
    parser.add_argument("--models", type=Path, default=SHIPPED_MODELS, metavar="DIR", help="folder of models")
    parser.add_argument("--cpus", type=count, default=usable_cpus(), help="total threads (default: all usable CPUs)")
    parser.add_argument(
        "--max-batch",
        type=count,
        nargs="+",
        action=Distinct,
        default=[1, 2, 4, 8],
        metavar="N",
        help="batch limits (default 1 2 4 8)",
    )
    parser.add_argument("--callers", type=count, default=16, help="concurrent callers (default 16)")
    parser.add_argument("--seconds", type=positive, default=1.0, help="length of a round (default 1)")
    parser.add_argument("--rounds", type=count, default=7, help="rounds per configuration (default 7)")
    parser.add_argument("--out", type=file_to_write, metavar="FILE", help="also write the JSON document to a file")
    arguments = parser.parse_args(argv)
    document = measure(arguments)
    return deliver(document.model_dump_json(indent=1), "\n".join(table(document)), arguments.out)


if __name__ == "__main__":
    raise SystemExit(main())
