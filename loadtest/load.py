"""Load tests of the service: `python -m loadtest.load`; `--record` writes docs/benchmarks/load.

Starts the service pinned to one core and Locust on the other cores. It first measures the capacity of the core for each
kind of request in `--turns` turns, each after a warm-up, and then runs the scenarios at rates that are fractions of the
median capacity.
`--scenarios saturate`, as run by `make load`, only measures throughput and latency by task and variant. Results are
meaningful only on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtest.machine import describe_machine
from loadtest.options import UsageError, among, ended_by_sigterm, existing_file, progress
from loadtest.scenarios import page
from loadtest.scenarios.drive import Run, drive
from loadtest.scenarios.plan import MEANING, NAMES, SATURATING_USERS, Kind, Plan, ScenarioName, plans, saturate
from loadtest.scenarios.schema import Capacity, LoadDocument, RecordError, RunResult, recorded
from loadtest.scenarios.summary import capacity, median_capacity, saturated_rate, summarise
from loadtest.stack import ROOT, Service, StackError, get, service, wait_ready
from models.command_line import Parser, count, failed, positive, show
from models.extras import remedy
from service.errors import ServiceError

FOLDER = ROOT / "docs" / "benchmarks" / "load"
TASKS = ("classify", "depth")
VARIANTS = ("binary", "reference", "full")
WITHOUT_RATES = {"saturate", "ramp"}  # scenarios without a rate, which do not need the measured capacity


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 if a request failed, 2 if nothing could be measured."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.render:
            written = page.write(arguments.folder)
            print("\n".join(map(str, written)))
            return 0
        if arguments.record:  # what cannot be written should fail before the measurement, not after
            arguments.folder.mkdir(parents=True, exist_ok=True)
            recorded(arguments.folder)
        with ended_by_sigterm():
            document = measure(arguments)
    except (UsageError, StackError, ServiceError, RecordError, ValueError, OSError) as error:
        return failed(error)
    except KeyboardInterrupt:
        return 130
    show(document.model_dump_json(indent=1, exclude_none=True) if arguments.json else page.report(document).rstrip())
    if arguments.record:
        try:
            written = page.write(arguments.folder, document)
        except (RecordError, OSError) as error:
            return failed(error)
        print("\n".join(map(str, written)), file=sys.stderr)
    return int(any(group.failed for run in document.runs for step in run.steps for group in step.groups))


@dataclass
class _Session:
    """A service under load, and the results so far.

    Attributes:
        service: the service.
        cpus: CPUs of the load generator; None for all.
        image: a JPEG to send; None for a synthetic one.
        one_core: whether the service has exactly one core, so that its capacity is that of one core.
        needs_capacity: whether the requested scenarios need the capacity.
        runs: results of the runs, in order.
        rates: requests per second that saturate the service, by kind.
        capacity: capacity of one core, by kind.
    """

    service: Service
    cpus: Sequence[int] | None
    image: Path | None
    one_core: bool
    needs_capacity: bool
    runs: list[RunResult] = field(default_factory=list)
    rates: dict[Kind, float] = field(default_factory=dict)
    capacity: list[Capacity] = field(default_factory=list)

    def saturate(self, kinds: Sequence[Kind], arguments: argparse.Namespace) -> None:
        """Measures the capacity for each kind of request. The kinds take turns, each time after a warm-up.

        Raises:
            ValueError: the capacity is needed and could not be measured.
        """
        turns: dict[Kind, list[tuple[Plan, Run]]] = {kind: [] for kind in kinds}
        for _ in range(arguments.turns):
            for kind in kinds:
                if arguments.warm_up:
                    self._drive(saturate(kind, arguments.warm_up / 2, arguments.users))
                plan = saturate(kind, arguments.seconds, arguments.users)
                turns[kind].append((plan, self.carry_out(plan)))
        for kind, measured in turns.items():
            try:
                self.rates[kind] = statistics.median(saturated_rate(summarise(plan, run)) for plan, run in measured)
                if self.one_core:
                    model = _model(self.service, kind)
                    self.capacity.append(median_capacity([capacity(plan, run, model) for plan, run in measured]))
            except ValueError as error:
                if self.needs_capacity:
                    raise
                progress(str(error))

    def carry_out(self, plan: Plan) -> Run:
        """Runs a plan and stores its result."""
        progress(f"{plan.scenario}: {plan.title}, {plan.seconds:g} s")
        run = self._drive(plan)
        self.runs.append(summarise(plan, run))
        return run

    def _drive(self, plan: Plan) -> Run:
        return drive(plan, self.service, cpus=self.cpus, image=self.image)


def measure(arguments: argparse.Namespace) -> LoadDocument:
    """Runs the requested scenarios.

    Raises:
        UsageError: options contradict each other, or a package is missing.
        StackError: the service or Locust does not run.
        ValueError: the capacity is needed and could not be measured.
    """
    if arguments.url and arguments.service_options:
        raise UsageError("Service options do not apply to a running service: leave out either them or --url.")
    if arguments.record and (arguments.url or not arguments.pin):
        raise UsageError("--record needs a service started here and pinned to one core: leave out --url and --no-pin.")
    kinds = [Kind(task, variant) for task in arguments.tasks for variant in arguments.variants]
    for name in arguments.scenarios:  # before anything is measured
        if name != "saturate" and not _plans(name, arguments, dict.fromkeys(kinds, 1.0)):
            reason = f"{name} needs other --tasks or --variants: {MEANING[name]}."
            if arguments.scenarios != list(NAMES):  # it was asked for
                raise UsageError(reason)
            progress(f"left out: {reason}")
    for package in ("locust", *(("matplotlib",) if arguments.record else ())):  # in other processes or only at the end
        if importlib.util.find_spec(package) is None:
            raise UsageError(remedy(package))
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
        session.saturate(kinds, arguments)
        for name in arguments.scenarios:
            for plan in _plans(name, arguments, session.rates):
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
        rates_by="ended",
    )


def _plans(name: ScenarioName, arguments: argparse.Namespace, rates: Mapping[Kind, float]) -> list[Plan]:
    """The plans of a scenario; none of `saturate`, which runs first and determines the rates."""
    variants = [variant for variant in arguments.variants if variant != "reference"] or arguments.variants
    if name == "saturate":
        return []
    tasks = arguments.tasks if name in {"mixed", "steady"} else arguments.tasks[:1]
    return list(plans(name, tasks, variants, rates, arguments.seconds))


@contextlib.contextmanager
def _running(url: str | None, options: Sequence[str], cpus: Sequence[int] | None) -> Iterator[Service]:
    """A ready service: the one at `url`, or else a new one."""
    if url:
        wait_ready(url, None)
        yield Service(url, None)
    else:
        with service(options, cpus=cpus) as running:
            yield running


def _share_cpus() -> tuple[list[int] | None, list[int] | None]:
    """CPUs of the service and of the generator; nothing is pinned if there is only one CPU."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (cpus[:1], cpus[1:]) if len(cpus) > 1 else (None, None)


def _model(running: Service, kind: Kind) -> str:
    """Name of the model that answers a kind of request: the task's default, or its full-precision twin."""
    models = json.loads(get(f"{running.url}/models"))["models"]
    (default,) = (model for model in models if model["task"] == kind.task and model["default"])
    name = default["full"] if kind.variant == "full" and default["full"] else default["name"]
    return str(name)


def _kernel(running: Service) -> str | None:
    """The operator's kernel in the service, which depends on the service's options."""
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
    parser.add_argument("--scenarios", type=among(NAMES), default=list(NAMES), help="comma-separated (default: all)")
    parser.add_argument("--seconds", type=positive, default=8.0, metavar="S", help="length of a step (default 8)")
    parser.add_argument(
        "--users", type=count, default=SATURATING_USERS, metavar="N", help="users that saturate a core (default 8)"
    )
    parser.add_argument(
        "--turns", type=count, default=3, metavar="N", help="measurements of each capacity, in turns (default 3)"
    )
    parser.add_argument(
        "--warm-up", type=_seconds, default=2.0, metavar="S", help="warm-up of each kind of request (default 2)"
    )
    parser.add_argument("--tasks", type=among(TASKS), default=list(TASKS), help="comma-separated (default: all)")
    parser.add_argument("--variants", type=among(VARIANTS), default=list(VARIANTS), help="comma-separated")
    parser.add_argument("--image", type=existing_file, metavar="FILE", help="JPEG to send (default: a synthetic one)")
    parser.add_argument("--url", type=_address, help="address of a running service (default: start one)")
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="pin the service to one core and Locust to the others (default); otherwise both use all cores",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--record", action="store_true", help="write the document, tables and plots to the folder")
    parser.add_argument("--render", action="store_true", help="only redraw tables and plots from the recorded files")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default docs/benchmarks/load")
    parser.add_argument("service_options", nargs="*", metavar="-- OPTION", help="options of `python -m service serve`")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of seconds of at least 0")
    return value


def _address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} does not start with http:// or https://")
    return text.rstrip("/")


if __name__ == "__main__":
    sys.exit(main())
