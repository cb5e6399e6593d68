"""Estimate the number of cores for a load: `python -m loadtest.capacity --rate 200 --p99-ms 100`.

Computes from a recorded load test (docs/benchmarks/load) how many cores the 1-bit and the full-precision network need
for a request rate and a latency limit. See loadtest.scenarios.queueing for the model and its assumptions. The model
ignores the overhead of threads that share a process: if the recorded steady runs were slower than predicted, the limit
is divided by the worst ratio.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from loadtest.scenarios.queueing import Service, cores_needed, sojourn
from loadtest.scenarios.schema import Capacity, LoadDocument, RecordError, recorded
from loadtest.stack import ROOT
from models.command_line import Parser, expects, positive

FOLDER = ROOT / "docs" / "benchmarks" / "load"
PERCENT = 99.0


class CapacityError(Exception):
    """There is no data to compute from; the message says why."""


@dataclass(frozen=True)
class Answer:
    """The resources that one kind of request needs.

    Attributes:
        name: task and variant.
        cores: number of cores; None if no number is enough.
        utilisation: utilisation of each core, 0..1.
        p50_ms: predicted median latency.
        p99_ms: predicted and calibrated 99th percentile; if `cores` is None, the lowest with any number of cores.
        calibration: factor on the model's 99th percentile, from the recorded steady runs; 1 or more.
        memory_bytes: total memory of that many replicas with one core each.
    """

    name: str
    cores: int | None
    utilisation: float | None
    p50_ms: float | None
    p99_ms: float
    calibration: float
    memory_bytes: int | None


@dataclass(frozen=True)
class Check:
    """A prediction beside the measurement.

    Attributes:
        name: task and variant.
        rate_per_s: arrival rate at one core.
        utilisation: the resulting utilisation, 0..1.
        predicted_p50_ms: median latency predicted by the model.
        measured_p50_ms: median latency measured by the load test.
        predicted_p99_ms: 99th percentile predicted by the model.
        measured_p99_ms: 99th percentile measured by the load test.
    """

    name: str
    rate_per_s: float
    utilisation: float
    predicted_p50_ms: float
    measured_p50_ms: float
    predicted_p99_ms: float
    measured_p99_ms: float


def calibration(document: LoadDocument, name: str) -> float:
    """Largest ratio of measured to predicted 99th percentile in the steady runs of a kind; 1 or more."""
    ratios = [check.measured_p99_ms / check.predicted_p99_ms for check in checks(document) if check.name == name]
    return max(1.0, *ratios) if ratios else 1.0


def answer(kind: Capacity, rate_per_s: float, p99_ms: float, factor: float = 1.0) -> Answer:
    """The resources that a kind of request needs for a rate and a latency limit.

    Args:
        kind: the measured capacity of one core.
        rate_per_s: request rate.
        p99_ms: limit on the 99th percentile of the latency.
        factor: calibration factor on the model's 99th percentile.
    """
    taken = Service.measured(kind.idle_ms, kind.requests_per_s)
    cores = cores_needed(taken, rate_per_s, PERCENT, p99_ms / factor)
    if cores is None:
        least = factor * sojourn(taken, 1e-6).percentile(PERCENT)
        return Answer(kind.name, None, None, None, round(least, 2), round(factor, 2), None)
    each = sojourn(taken, rate_per_s / cores)
    return Answer(
        kind.name,
        cores,
        round(each.utilisation, 3),
        round(each.percentile(50), 2),
        round(factor * each.percentile(PERCENT), 2),
        round(factor, 2),
        cores * kind.resident_bytes,
    )


def checks(document: LoadDocument) -> Iterator[Check]:
    """Yield every steady step of a load test with its prediction."""
    kinds = {kind.name: kind for kind in document.capacity}
    for run in document.runs:
        if run.scenario != "steady":
            continue
        kind = kinds[run.title]
        taken = Service.measured(kind.idle_ms, kind.requests_per_s)
        for step in run.steps:
            rate = step.groups[0].requests / step.seconds  # actual rate: arrivals are random
            latency = step.groups[0].latency_ms
            if latency is None or rate >= kind.requests_per_s:
                continue
            predicted = sojourn(taken, rate)
            yield Check(
                run.title,
                round(rate, 2),
                round(predicted.utilisation, 3),
                round(predicted.percentile(50), 2),
                latency.p50,
                round(predicted.percentile(PERCENT), 2),
                latency.p99,
            )


def newest(folder: Path = FOLDER) -> LoadDocument:
    """The newest recorded load test in a folder.

    Raises:
        CapacityError: there is none.
        RecordError: a JSON file of the folder is not a record.
    """
    found = recorded(folder)
    if not found:
        raise CapacityError(f"{folder} has no recorded load test: record one with `python -m loadtest.load --record`.")
    return found[0]


@expects(CapacityError, RecordError, ValidationError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 if no number of cores is enough for a variant, 2 on invalid input."""
    arguments = _parser().parse_args(argv)
    document = LoadDocument.model_validate_json(arguments.file.read_text()) if arguments.file else newest()
    kinds = [kind for kind in document.capacity if kind.task == arguments.task]
    if not kinds:
        raise CapacityError(
            f"the load test of {document.machine.date} did not measure the capacity of one core for "
            f"{arguments.task}: measure it with `python -m loadtest.load --record`."
        )
    answers = [answer(kind, arguments.rate, arguments.p99_ms, calibration(document, kind.name)) for kind in kinds]
    if arguments.json:
        asked = {"task": arguments.task, "rate_per_s": arguments.rate, "p99_ms": arguments.p99_ms}
        machine = document.machine.model_dump(mode="json")
        print(json.dumps({**asked, "machine": machine, "answers": [asdict(item) for item in answers]}, indent=1))
    else:
        print("\n".join(_table(answers, arguments, document)))
    return int(any(item.cores is None for item in answers))


def _table(answers: Sequence[Answer], arguments: argparse.Namespace, document: LoadDocument) -> Iterator[str]:
    yield (
        f"{arguments.rate:g} requests/s to /{arguments.task}, 99 % answered within {arguments.p99_ms:g} ms, "
        f"on cores like those of {document.machine.cpu} ({document.machine.isa}):"
    )
    yield ""
    yield f"{'':22}{'cores':>7}{'busy':>8}{'p50 ms':>9}{'p99 ms':>9}{'memory MB':>11}"
    for item in answers:
        if item.cores is None:
            yield f"{item.name:22}{'none':>7}  no number of cores is enough: p99 without any load is {item.p99_ms:g} ms"
        else:
            yield (
                f"{item.name:22}{item.cores:7d}{item.utilisation:8.0%}{item.p50_ms:9.1f}{item.p99_ms:9.1f}"
                f"{(item.memory_bytes or 0) / 1e6:11.0f}"
            )
    cores = {item.name.split()[1]: item.cores for item in answers}
    full, binary = cores.get("full"), cores.get("binary")
    if full and binary:
        yield ""
        yield f"The full-precision network needs {full / binary:.1f} times as many cores."
    yield ""
    yield "Assumes replicas with one core each, Poisson arrivals and a balancer that ignores queue lengths (M/G/1)."
    off = ", ".join(f"{item.name} {item.calibration:g}" for item in answers if item.calibration > 1)
    if off:
        yield f"p99 is multiplied by the worst measured/predicted ratio of the recorded steady runs: {off}."


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m loadtest.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=positive, required=True, metavar="R", help="requests per second")
    parser.add_argument("--p99-ms", type=positive, required=True, metavar="L", help="latency limit for 99 %% of them")
    parser.add_argument("--task", choices=("classify", "depth"), default="classify", help="default classify")
    parser.add_argument("--file", type=Path, help="recorded load test (default: the newest of docs/benchmarks/load)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


if __name__ == "__main__":
    sys.exit(main())
