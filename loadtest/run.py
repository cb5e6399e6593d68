"""One command from nothing to a report: starts the service, drives it with Locust, and prints what came of it.

    python -m loadtest.run --json --users 4 --seconds 10

Each task and variant is driven alone, after a warm-up that is not counted, so that none slows another. Figures are
worth something only on a machine that does nothing else; Locust itself takes a share of it.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from loadtest import stack
from loadtest.machine import describe_machine
from loadtest.options import among, existing_file
from loadtest.report import Row, Sample, as_markdown, rows_as_json, summarise
from models.command_line import Parser
from service.errors import OpUnavailableError

ROOT = Path(__file__).resolve().parent.parent
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
TASKS = ("classify", "depth")
VARIANTS = ("binary", "reference", "full")


class LoadTestError(Exception):
    """The load test cannot be run; the message says why."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the load test. Returns the exit code: 0, 1 when a request failed, 2 when nothing could be run."""
    arguments = _parser().parse_args(argv)
    try:
        document = run(arguments)
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(document) if arguments.json else as_markdown(document))
    return 1 if any(row["failures"] for row in document["rows"]) else 0


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Drives every task and variant that was asked for, one after the other.

    Raises:
        LoadTestError: The service does not start or become ready, or Locust fails.
    """
    scenarios = [(task, variant) for task in arguments.tasks for variant in arguments.variants]
    try:
        machine = describe_machine()
    except OpUnavailableError as error:
        raise LoadTestError(str(error)) from error
    rows: list[Row] = []
    with _service(arguments) as url, tqdm(scenarios, unit="scenario") as bar:
        for task, variant in bar:
            name = f"{task} {variant}"
            bar.set_postfix_str(name)
            if arguments.warm_up:
                _drive(url, task, variant, arguments, arguments.warm_up)
            cpu_before = _cpu_seconds(url)
            samples, seconds = _drive(url, task, variant, arguments, arguments.seconds)
            rows.append(summarise(name, samples, seconds, _cpu_seconds(url) - cpu_before))
        kernel = _metric_label(url, "bireal_build_info", "kernel")
    return {
        "users": arguments.users,
        "seconds_each": arguments.seconds,
        "kernel": kernel,
        "machine": machine.model_dump(mode="json"),
        "rows": rows_as_json(rows),
    }


@contextlib.contextmanager
def _service(arguments: argparse.Namespace) -> Iterator[str]:
    """The address of a service that is ready: the one that was named, or one of our own on a free port."""
    try:
        if arguments.url:
            stack.wait_ready(arguments.url.rstrip("/"), None)
            yield arguments.url.rstrip("/")
        else:
            with stack.service() as running:
                yield running.url
    except stack.StackError as error:
        raise LoadTestError(str(error)) from error


def _drive(
    url: str, task: str, variant: str, arguments: argparse.Namespace, seconds: float
) -> tuple[list[Sample], float]:
    """Runs Locust in a process of its own (it replaces parts of Python's library) and returns every request."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.json"
        command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"),
            *("--host", url, "--users", str(arguments.users), "--spawn-rate", str(arguments.users)),
            *("--run-time", f"{seconds:g}s", "--stop-timeout", "60", "--loglevel", "ERROR"),
            *("--bireal-tasks", task, "--bireal-variants", variant, "--bireal-samples", str(samples)),
        ]
        if arguments.image:
            command += ["--bireal-image", str(arguments.image.resolve())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        ended = subprocess.run(  # noqa: S603  no shell, and arguments of our own
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds + 120, check=False
        )
        if not samples.is_file():
            raise LoadTestError(f"Locust failed: {ended.stderr.strip()[-500:]}")
        recorded: list[Sample] = [tuple(item) for item in json.loads(samples.read_text(encoding="utf-8"))]
    return recorded, seconds


def _cpu_seconds(url: str) -> float:
    for family in text_string_to_metric_families(stack.get(f"{url}/metrics")):
        if family.name == "process_cpu_seconds":
            return float(family.samples[0].value)
    return 0.0


def _metric_label(url: str, name: str, label: str) -> str:
    for family in text_string_to_metric_families(stack.get(f"{url}/metrics")):
        for sample in family.samples:
            if sample.name == name:
                return sample.labels[label]
    return "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m loadtest.run", description="Load test by task and variant.")
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")
    parser.add_argument("--url", help="of a service that runs; one is started where not given")
    parser.add_argument("--users", type=_positive, default=4, metavar="N", help="requests at a time (default: 4)")
    parser.add_argument("--seconds", type=_positive, default=10, metavar="S", help="of each scenario (default: 10)")
    parser.add_argument("--warm-up", type=int, default=2, metavar="S", help="before each, not counted (default: 2)")
    parser.add_argument("--tasks", type=among(TASKS), default=list(TASKS), help="separated by commas")
    parser.add_argument("--variants", type=among(VARIANTS), default=list(VARIANTS), help="separated by commas")
    parser.add_argument("--image", type=existing_file, metavar="FILE", help="a JPEG to send; else one is made")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
