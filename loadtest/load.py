"""Load tests: `python -m loadtest.load`, from nothing to docs/benchmarks/load.

Starts the service pinned to one core and Locust to the others, measures what a core does of each kind of request, each
alone and after a warm-up that is not counted, and then carries out the scenarios at shares of that.
`--scenarios saturate`, which `make load` runs, ends before them: throughput and latency by task and variant. Figures
are worth something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from loadtest.machine import describe_machine
from loadtest.options import UsageError, among, count, existing_file, positive, progress
from loadtest.scenarios import page
from loadtest.scenarios.drive import Run, drive
from loadtest.scenarios.plan import MEANING, NAMES, SATURATING_USERS, Kind, Plan, plans, saturate
from loadtest.scenarios.schema import Capacity, LoadDocument, RunResult
from loadtest.scenarios.summary import capacity, saturated_rate, summarise
from loadtest.stack import ROOT, Service, StackError, get, service, wait_ready
from models.command_line import Parser
from service.errors import ServiceError

FOLDER = ROOT / "docs" / "benchmarks" / "load"
TASKS = ("classify", "depth")
VARIANTS = ("binary", "reference", "full")
WITHOUT_RATES = {"saturate", "ramp"}  # scenarios that ask for no rate, which is a share of capacity


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 when a request failed, 2 when nothing could be measured."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.render:
            written = page.write(arguments.folder)
            print("\n".join(map(str, written)))
            return 0
        document = measure(arguments)
    except (UsageError, StackError, ServiceError, ValidationError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    text = document.model_dump_json(indent=1, exclude_none=True) + "\n"
    if arguments.record:
        written = page.write(arguments.folder, document)
        print("\n".join(map(str, written)), file=sys.stderr)
    print(text if arguments.json else page.report(document), end="")
    return int(any(group.failed for run in document.runs for step in run.steps for group in step.groups))


@dataclass
class _Session:
    """A service under load, and what was found so far.

    Attributes:
        service: that is driven.
        cpus: of the generator; None for all.
        image: a JPEG to send; None for one that is made.
        one_core: whether the service has exactly one, so that its capacity is a core's.
        needs_capacity: whether what was asked for cannot do without it.
        runs: in order.
        rates: requests a second that saturate the service, by kind.
        capacity: of a core, by kind.
    """

    service: Service
    cpus: Sequence[int] | None
    image: Path | None
    one_core: bool
    needs_capacity: bool
    runs: list[RunResult] = field(default_factory=list)
    rates: dict[Kind, float] = field(default_factory=dict)
    capacity: list[Capacity] = field(default_factory=list)

    def saturate(self, kind: Kind, arguments: argparse.Namespace) -> None:
        """A warm-up that is not counted, and then what the service can do of one kind.

        Raises:
            ValueError: capacity is needed and could not be measured.
        """
        if arguments.warm_up:
            self._drive(saturate(kind, arguments.warm_up / 2, arguments.users))
        plan = saturate(kind, arguments.seconds, arguments.users)
        run, result = self.carry_out(plan)
        try:
            self.rates[kind] = saturated_rate(result)
            if self.one_core:
                self.capacity.append(capacity(plan, run, _model(self.service, kind)))
        except ValueError as error:
            if self.needs_capacity:
                raise
            progress(str(error))

    def carry_out(self, plan: Plan) -> tuple[Run, RunResult]:
        """One plan, which is counted."""
        progress(f"{plan.scenario}: {plan.title}, {plan.seconds:g} s")
        run = self._drive(plan)
        self.runs.append(summarise(plan, run))
        return run, self.runs[-1]

    def _drive(self, plan: Plan) -> Run:
        return drive(plan, self.service, cpus=self.cpus, image=self.image)


def measure(arguments: argparse.Namespace) -> LoadDocument:
    """Carries out what was asked for.

    Raises:
        UsageError: options contradict each other.
        StackError: the service or Locust do not run.
        ValueError: capacity could not be measured, and what was asked for needs it.
    """
    if arguments.url and arguments.service_options:
        raise UsageError("--url names a service that runs already, which takes no options: leave out one of the two.")
    if arguments.record and (arguments.url or not arguments.pin):
        raise UsageError("--record writes of a service of ours on one core: leave out --url and --no-pin.")
    machine = describe_machine()
    service_cpus, generator_cpus = _share_cpus() if arguments.pin and not arguments.url else (None, None)
    with _running(arguments.url, arguments.service_options, service_cpus) as running:
        session = _Session(
            running,
            generator_cpus,
            arguments.image,
            one_core=not arguments.url and (service_cpus is not None or machine.usable_cpus == 1),
            needs_capacity=arguments.record or bool(set(arguments.scenarios) - WITHOUT_RATES),
        )
        for task in arguments.tasks:
            for variant in arguments.variants:
                session.saturate(Kind(task, variant), arguments)
        for plan in _plans(arguments, session.rates):
            session.carry_out(plan)
        kernel = _kernel(running)
    return LoadDocument(
        machine=machine,
        url=arguments.url,
        kernel=kernel,
        service_cpus=None if service_cpus is None else tuple(service_cpus),
        generator_cpus=None if generator_cpus is None else tuple(generator_cpus),
        settings=tuple(arguments.service_options),
        image=arguments.image.name if arguments.image else "a made-up photo, JPEG, 500 x 375",
        capacity=tuple(session.capacity),
        runs=tuple(session.runs),
    )


def _plans(arguments: argparse.Namespace, rates: Mapping[Kind, float]) -> Iterator[Plan]:
    """Of the scenarios other than `saturate`, which comes first and says the rates."""
    variants = [variant for variant in arguments.variants if variant != "reference"] or arguments.variants
    for name in arguments.scenarios:
        if name != "saturate":
            tasks = arguments.tasks if name in {"mixed", "steady"} else arguments.tasks[:1]
            yield from plans(name, tasks, variants, rates, arguments.seconds)


@contextlib.contextmanager
def _running(url: str | None, options: Sequence[str], cpus: Sequence[int] | None) -> Iterator[Service]:
    """A service that is ready: the one that was named, or one of our own."""
    if url:
        wait_ready(url, None)
        yield Service(url, None)
    else:
        with service(options, cpus=cpus) as running:
            yield running


def _share_cpus() -> tuple[list[int] | None, list[int] | None]:
    """The service's CPU and the generator's: nothing is pinned where there is only one."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (cpus[:1], cpus[1:]) if len(cpus) > 1 else (None, None)


def _model(running: Service, kind: Kind) -> str:
    """Name of the model that answers a kind of request: the task's default, or its full-precision twin."""
    models = json.loads(get(f"{running.url}/models"))["models"]
    (default,) = (model for model in models if model["task"] == kind.task and model["default"])
    name = default["full"] if kind.variant == "full" and default["full"] else default["name"]
    return str(name)


def _kernel(running: Service) -> str | None:
    """Kernel of the operator that the service runs, which its options choose."""
    for family in text_string_to_metric_families(get(f"{running.url}/metrics")):
        for sample in family.samples:
            if sample.name == "bireal_build_info":
                return sample.labels.get("kernel")
    return None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m loadtest.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n" + "\n".join(f"  {name:10}{MEANING[name]}" for name in NAMES),
    )
    parser.add_argument("--scenarios", type=among(NAMES), default=list(NAMES), help="separated by commas; default all")
    parser.add_argument("--seconds", type=positive, default=8.0, metavar="S", help="of a scenario's step (default 8)")
    parser.add_argument("--users", type=count, default=SATURATING_USERS, metavar="N", help="that saturate (default 8)")
    parser.add_argument("--warm-up", type=_seconds, default=2.0, metavar="S", help="uncounted, of a kind (default 2)")
    parser.add_argument("--tasks", type=among(TASKS), default=list(TASKS), help="separated by commas")
    parser.add_argument("--variants", type=among(VARIANTS), default=list(VARIANTS), help="separated by commas")
    parser.add_argument("--image", type=existing_file, metavar="FILE", help="a JPEG to send; else one is made")
    parser.add_argument("--url", type=_address, help="of a service that runs; one is started where not given")
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="one core for the service that is started, the others for Locust (default); else all for both",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--record", action="store_true", help="write it to the folder, and the tables and plots there")
    parser.add_argument("--render", action="store_true", help="measure nothing: draw again from the recorded files")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default docs/benchmarks/load")
    parser.add_argument("service_options", nargs="*", metavar="-- OPTION", help="for `python -m service serve`")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not begin with http:// or https://")
    return text.rstrip("/")


if __name__ == "__main__":
    sys.exit(main())
