"""Load tests: `python -m loadtest.load`, from nothing to docs/benchmarks/load.

Starts the service pinned to one core and Locust to the others, measures what a core does of each kind of request, and
then carries out the scenarios at shares of that (see loadtest.scenarios). Figures are worth something only on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from loadtest import load_page
from loadtest.drive import drive
from loadtest.load_schema import Capacity, LoadDocument, RunResult
from loadtest.load_summary import capacity, summarise
from loadtest.machine import describe_machine
from loadtest.options import among, existing_file, progress
from loadtest.scenarios import MEANING, NAMES, Kind, Plan, plans, saturate
from loadtest.stack import Service, StackError, get, service
from models.command_line import Parser
from service.errors import ServiceError

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "load"
TASKS = ("classify", "depth")
VARIANTS = ("binary", "reference", "full")
WARM_UP_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns the exit code: 1 when a request failed, 2 when nothing could be measured."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.render:
            written = load_page.write(arguments.folder)
            print("\n".join(map(str, written)))
            return 0
        document = measure(arguments)
    except (StackError, ServiceError, ValidationError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    text = document.model_dump_json(indent=1, exclude_none=True) + "\n"
    if arguments.record:
        written = load_page.write(arguments.folder, document)
        print("\n".join(map(str, written)), file=sys.stderr)
    print(text if arguments.json else load_page.report(document), end="")
    return int(any(group.failed for run in document.runs for step in run.steps for group in step.groups))


def measure(arguments: argparse.Namespace) -> LoadDocument:
    """Carries out what was asked for.

    Raises:
        StackError: the service or Locust do not run.
        ValueError: capacity could not be measured.
    """
    machine = describe_machine()
    options = [*arguments.service_options]
    service_cpus, generator_cpus = _share_cpus()
    found: list[Capacity] = []
    runs: list[RunResult] = []

    with service(options, cpus=service_cpus) as running:

        def carry_out(plan: Plan) -> RunResult:
            progress(f"{plan.scenario}: {plan.title}, {plan.seconds:g} s")
            run = drive(plan, running, cpus=generator_cpus, image=arguments.image)
            result = summarise(plan, run)
            if plan.scenario == "saturate":
                ((kind, _),) = plan.mix
                found.append(capacity(plan, run, _model(running, kind)))
            runs.append(result)
            return result

        for task in arguments.tasks:
            for variant in arguments.variants:
                kind = Kind(task, variant)
                drive(saturate(kind, WARM_UP_S), running, cpus=generator_cpus, image=arguments.image)
                carry_out(saturate(kind, arguments.seconds))
        rates = {Kind(item.task, item.variant): item.requests_per_s for item in found}
        for name in arguments.scenarios:
            if name == "saturate":
                continue
            tasks = arguments.tasks if name in {"mixed", "steady"} else arguments.tasks[:1]
            variants = [variant for variant in arguments.variants if variant != "reference"] or arguments.variants
            for plan in plans(name, tasks, variants, rates, arguments.seconds):
                carry_out(plan)

    return LoadDocument(
        machine=machine,
        service_cpus=None if service_cpus is None else tuple(service_cpus),
        generator_cpus=None if generator_cpus is None else tuple(generator_cpus),
        settings=tuple(map(str, options)),
        image=arguments.image.name if arguments.image else "a made-up photo, JPEG, 500 x 375",
        capacity=tuple(found),
        runs=tuple(runs),
    )


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


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m loadtest.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n" + "\n".join(f"  {name:10}{MEANING[name]}" for name in NAMES),
    )
    parser.add_argument("--scenarios", type=among(NAMES), default=list(NAMES), help="separated by commas; default all")
    parser.add_argument("--seconds", type=_positive, default=8.0, metavar="S", help="of a scenario's step (default 8)")
    parser.add_argument("--tasks", type=among(TASKS), default=list(TASKS), help="separated by commas")
    parser.add_argument("--variants", type=among(VARIANTS), default=list(VARIANTS), help="separated by commas")
    parser.add_argument("--image", type=existing_file, metavar="FILE", help="a JPEG to send; else one is made")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--record", action="store_true", help="write it to the folder, and the tables and plots there")
    parser.add_argument("--render", action="store_true", help="measure nothing: draw again from the recorded files")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default docs/benchmarks/load")
    parser.add_argument("service_options", nargs="*", metavar="-- OPTION", help="for `python -m service serve`")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
