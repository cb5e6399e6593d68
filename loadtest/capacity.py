"""How many cores a load takes: `python -m loadtest.capacity --rate 200 --p99-ms 100`.

Reads what a load test recorded (docs/benchmarks/load) of a core's work, and computes from it how many cores the 1-bit
and the full-precision network need for a rate of requests and a limit on their latency. loadtest.scenarios.queueing
says by which model and under which assumptions. Where the recorded steady runs took longer than the model says, the
limit is divided by the worst ratio: the model leaves out what threads of one process cost each other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from loadtest.options import positive
from loadtest.scenarios.queueing import Service, cores_needed, sojourn
from loadtest.scenarios.schema import Capacity, LoadDocument
from loadtest.stack import ROOT
from models.command_line import Parser

FOLDER = ROOT / "docs" / "benchmarks" / "load"
PERCENT = 99.0


class CapacityError(Exception):
    """There is nothing to compute from; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What one kind of request needs.

    Attributes:
        name: task and variant.
        cores: how many; None where no number is enough.
        utilisation: of each, 0..1.
        p50_ms: predicted.
        p99_ms: predicted, calibrated; the least that any number of cores gives where `cores` is None.
        calibration: what the model's 99th percentile is multiplied by, from the steady runs of the record; 1 or more.
        memory_bytes: of so many replicas with one core each.
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
    """A prediction beside what was measured.

    Attributes:
        name: task and variant.
        rate_per_s: of the arrivals, at one core.
        utilisation: that follows, 0..1.
        predicted_p50_ms: by the model.
        measured_p50_ms: by the load test.
        predicted_p99_ms: likewise.
        measured_p99_ms: likewise.
    """

    name: str
    rate_per_s: float
    utilisation: float
    predicted_p50_ms: float
    measured_p50_ms: float
    predicted_p99_ms: float
    measured_p99_ms: float


def calibration(document: LoadDocument, name: str) -> float:
    """How much longer than the model says the slowest hundredth took in the worst steady run of a kind; 1 or more."""
    ratios = [check.measured_p99_ms / check.predicted_p99_ms for check in checks(document) if check.name == name]
    return max(1.0, *ratios) if ratios else 1.0


def answer(kind: Capacity, rate_per_s: float, p99_ms: float, factor: float = 1.0) -> Answer:
    """What a kind of request needs for a rate and a limit.

    Args:
        kind: what a core does of it.
        rate_per_s: requests.
        p99_ms: limit for 99 % of them.
        factor: what the model's 99th percentile is multiplied by.
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
    """Every steady step of a load test beside its prediction."""
    kinds = {kind.name: kind for kind in document.capacity}
    for run in document.runs:
        if run.scenario != "steady":
            continue
        kind = kinds[run.title]
        taken = Service.measured(kind.idle_ms, kind.requests_per_s)
        for step in run.steps:
            rate = step.groups[0].requests / step.seconds  # as it came to be, by lot
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
    """The newest load test that a folder records.

    Raises:
        CapacityError: it records none.
    """
    found = [LoadDocument.model_validate_json(path.read_text()) for path in folder.glob("*.json")]
    if not found:
        raise CapacityError(f"{folder} records no load test: python -m loadtest.load --record makes one.")
    return max(found, key=lambda document: document.machine.date)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 when no number of cores is enough for a variant, 2 on bad input."""
    arguments = _parser().parse_args(argv)
    try:
        document = LoadDocument.model_validate_json(arguments.file.read_text()) if arguments.file else newest()
    except (CapacityError, ValidationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kinds = [kind for kind in document.capacity if kind.task == arguments.task]
    if not kinds:
        print(
            f"error: the load test of {document.machine.date} holds no capacity of one core for "
            f"{arguments.task}: `python -m loadtest.load --record` measures it.",
            file=sys.stderr,
        )
        return 2
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
        f"on cores as of {document.machine.cpu} ({document.machine.isa}):"
    )
    yield ""
    yield f"{'':22}{'cores':>7}{'busy':>8}{'p50 ms':>9}{'p99 ms':>9}{'memory MB':>11}"
    for item in answers:
        if item.cores is None:
            yield f"{item.name:22}{'none':>7}  no number of cores is enough: alone, p99 is {item.p99_ms:g} ms already"
        else:
            yield (
                f"{item.name:22}{item.cores:7d}{item.utilisation:8.0%}{item.p50_ms:9.1f}{item.p99_ms:9.1f}"
                f"{(item.memory_bytes or 0) / 1e6:11.0f}"
            )
    cores = {item.name.split()[1]: item.cores for item in answers}
    full, binary = cores.get("full"), cores.get("binary")
    if full and binary:
        yield ""
        yield f"The full-precision network needs {full / binary:.1f} times the cores."
    yield ""
    yield "Replicas of one core each, Poisson arrivals, a balancer that does not look at their queues (M/G/1)."
    off = ", ".join(f"{item.name} {item.calibration:g}" for item in answers if item.calibration > 1)
    if off:
        yield f"p99 includes the worst ratio of measured to predicted in the record's steady runs: {off}."


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m loadtest.capacity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=positive, required=True, metavar="R", help="requests a second")
    parser.add_argument("--p99-ms", type=positive, required=True, metavar="L", help="limit for 99 %% of them")
    parser.add_argument("--task", choices=("classify", "depth"), default="classify", help="default classify")
    parser.add_argument("--file", type=Path, help="a recorded load test; by default the newest of docs/benchmarks/load")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


if __name__ == "__main__":
    sys.exit(main())
