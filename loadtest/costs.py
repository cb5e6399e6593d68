"""Costs of a network other than its total time: `python -m loadtest.costs`.

Measures memory in fresh processes, instructions per run, the throughput of concurrent sessions, and the times of
modules as in the paper's Tables 6 and 7, each for the 1-bit network and its full-precision twin.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from loadtest.machine import describe_machine
from loadtest.measures.instructions import count_instructions
from loadtest.measures.interleave import ParityError
from loadtest.measures.modules import measure_modules
from loadtest.measures.throughput import measure_throughput
from loadtest.memory import measure_memory
from loadtest.options import UsageError, add_output, run_main, select
from loadtest.peers.networks import Pair, pairs
from loadtest.peers.onnx_runtime import Workload
from loadtest.records.costs import cost_tables
from loadtest.records.schema import LeftOut, Settings
from loadtest.records.schema_costs import Costs, Instructions, Memory, Module, Throughput
from models.command_line import Distinct, Parser, count, positive
from service.backends.session import SPIN_US

PARTS = ("memory", "instructions", "throughput", "modules")
# Modules are identified by the names of basic blocks. Counting instructions takes a minute per row.
ONLY = {"modules": ("*18*", "*34*"), "instructions": ("*18*",)}


def measure(arguments: argparse.Namespace, networks: Sequence[Pair] | None = None) -> Costs:
    """Measures everything that the options select.

    Args:
        arguments: parsed options.
        networks: networks to use instead of those selected by the options.

    Raises:
        UsageError: the options select nothing, or there is no network to measure.
        OpUnavailableError: the operator's library is missing.
    """
    weights, found = pairs(arguments.weights) if networks is None else ("given", list(networks))
    names = [pair.binary_name for pair in found]
    selected = select(names, arguments.networks or (), option="--networks", what="network")
    chosen = [pair for pair in found if pair.binary_name in selected]
    if networks is None and not any(_measured(part, pair) for part in arguments.parts for pair in chosen):
        limits = "; ".join(f"{part} of {', '.join(ONLY[part])}" for part in arguments.parts)
        raise UsageError(f"None of these networks is measured ({limits}): choose other --networks or --parts.")
    machine = describe_machine()
    left_out: list[LeftOut] = []
    memory: list[Memory] = []
    instructions: list[Instructions] = []
    throughput: list[Throughput] = []
    modules: list[Module] = []
    for pair in chosen:
        workload = Workload(pair)
        parts = [part for part in arguments.parts if networks is not None or _measured(part, pair)]
        if "memory" in parts:
            memory += measure_memory(workload, arguments.processes)
        if "throughput" in parts:
            throughput += measure_throughput(workload, arguments.windows, arguments.seconds)
        if "modules" in parts:
            with _or_left_out(left_out, f"{pair.binary_name}: modules"):
                modules += measure_modules(workload, arguments.repetitions)
        if "instructions" in parts:
            with _or_left_out(left_out, f"{pair.binary_name}: instructions"):
                instructions += count_instructions(workload)
    return Costs(
        machine=machine,
        settings=Settings(
            threads=(1,), batch=(1,), repetitions=arguments.repetitions, settle=1, spin_us=SPIN_US, weights=weights
        ),
        memory=tuple(memory),
        instructions=tuple(instructions),
        throughput=tuple(throughput),
        modules=tuple(modules),
        left_out=tuple(left_out),
    )


@contextlib.contextmanager
def _or_left_out(left_out: list[LeftOut], name: str) -> Iterator[None]:
    """Notes the reason where a part cannot be measured; the other parts are measured all the same."""
    try:
        yield
    except (ParityError, UsageError) as error:
        left_out.append(LeftOut(name=name, reason=str(error), failed=isinstance(error, ParityError)))


def _measured(part: str, pair: Pair) -> bool:
    return any(fnmatchcase(pair.binary_name, pattern) for pattern in ONLY.get(part, ("*",)))


def options() -> argparse.ArgumentParser:
    """The program's options."""
    result = Parser(prog="python -m loadtest.costs", description=__doc__)
    result.add_argument(
        "--parts", nargs="+", action=Distinct, choices=PARTS, default=list(PARTS), help="what to measure (default all)"
    )
    result.add_argument("--networks", nargs="+", metavar="PATTERN", help="binary networks, such as 'bireal18'")
    result.add_argument("--weights", choices=("auto", "random", "zoo"), default="auto", help="as in loadtest.network")
    result.add_argument("--processes", type=count, default=3, help="fresh processes per memory row (default 3)")
    result.add_argument("--windows", type=count, default=5, help="time windows per number of sessions (default 5)")
    result.add_argument("--seconds", type=positive, default=1.0, help="length of a window (default 1)")
    result.add_argument("--repetitions", type=count, default=20, help="profiled runs per build (default 20)")
    add_output(result)
    return result


def measure_options(argv: Sequence[str]) -> Costs:
    """Measures what the command-line options select; see `measure`."""
    return measure(options().parse_args(argv))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program.

    Returns:
        0; 1 if a build failed its parity check; 2 if nothing could be measured.
    """
    return run_main(measure, options().parse_args(argv), cost_tables)


if __name__ == "__main__":
    sys.exit(main())
