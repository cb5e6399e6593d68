"""Command-line options shared by benchmarks and load tests, and the output of their documents."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from loadtest.machine import describe_machine
from loadtest.records.schema import Document, LeftOut, Row, Settings
from loadtest.records.schema_costs import Costs
from models.command_line import Distinct, Parser, count, failed, show
from service.backends.session import SPIN_US
from service.errors import ServiceError

Written = TypeVar("Written", Document, Costs)


class UsageError(RuntimeError):
    """The requested measurement is not possible; the message says why and what to do."""


def parser(module: str, description: str, *, repetitions: int) -> argparse.ArgumentParser:
    """A parser with the shared options.

    Args:
        module: module name for `python -m`.
        description: first sentence of the help.
        repetitions: default number of repetitions.
    """
    result = Parser(prog=f"python -m {module}", description=description)
    result.add_argument(
        "--threads", type=count, nargs="+", action=Distinct, default=[1], metavar="N", help="threads (default 1)"
    )
    result.add_argument(
        "--batch", type=count, nargs="+", action=Distinct, default=[1], metavar="N", help="batch sizes (default 1)"
    )
    result.add_argument(
        "--repetitions", type=count, default=repetitions, help=f"timed runs per row (default {repetitions})"
    )
    result.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="rows, such as 'bireal18/*'; repeatable"
    )
    add_output(result)
    return result


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds the options that control the output of `run_main`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--out", type=file_to_write, metavar="FILE", help="also write the JSON document to a file")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds the option that controls the output of `run_report`."""
    parser.add_argument("--out", type=file_to_write, metavar="FILE", help="also write the report to a file")


def existing_file(text: str) -> Path:
    """Parses the path of an existing file."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def file_to_write(text: str) -> Path:
    """Parses the path of a writable file: a misspelt folder should fail before the measurement, not after."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def among(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Returns a parser of comma-separated names, each of which must be one of `known`."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
        return names

    return parse


def settings(arguments: argparse.Namespace, *, settle: int, weights: str) -> Settings:
    """The header's settings from parsed options."""
    return Settings(
        threads=tuple(arguments.threads),
        batch=tuple(arguments.batch),
        repetitions=arguments.repetitions,
        settle=settle,
        spin_us=SPIN_US,
        batch_parts=True,
        weights=weights,
    )


def select(names: Sequence[str], patterns: Sequence[str], *, option: str = "--only", what: str = "row") -> list[str]:
    """Names that match one of the shell patterns; all names if there are no patterns.

    Args:
        names: the names to choose from.
        patterns: the patterns given.
        option: the option they were given with, for the message.
        what: what the names denote, for the message.

    Raises:
        UsageError: a pattern matches nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"{option} {pattern!r} matches no {what}; choose from: {', '.join(names)}.")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def run_main(
    measure: Callable[[argparse.Namespace], Written],
    arguments: argparse.Namespace,
    table: Callable[[Written], Sequence[str]],
) -> int:
    """Runs a benchmark, and prints and writes its document.

    Args:
        measure: produces the document.
        arguments: parsed options, including those of `add_output`.
        table: formats the document as lines for a terminal.

    Returns:
        0; 1 if a row failed its parity check; 2 if nothing could be measured or the file could not be written.
    """
    try:
        with ended_by_sigterm():
            document = measure(arguments)
    except (UsageError, ServiceError) as error:
        return failed(error)
    text = document.model_dump_json(indent=1, exclude_none=True)
    shown = text if arguments.json else "\n".join(table(document))
    return deliver(text, shown, arguments.out) or int(any(left.failed for left in document.left_out))


def run_report(
    measure: Callable[[argparse.Namespace], dict[str, Any]], arguments: argparse.Namespace, *errors: type[Exception]
) -> int:
    """Runs a test of a service, and prints and writes its report together with a description of the machine.

    Args:
        measure: produces the report.
        arguments: parsed options, including those of `add_report`.
        errors: exceptions that mean that the test could not run.

    Returns:
        0; 1 if the report says that something was wrong (`ok` is false); 2 if the test could not run.
    """
    machine = describe_machine()  # before the test puts load on it
    try:
        with ended_by_sigterm():
            document = measure(arguments)
    except errors as error:
        return failed(error)
    text = json.dumps({**document, "machine": machine.model_dump(mode="json")}, indent=1)
    return deliver(text, text, arguments.out) or int(not document.get("ok", True))


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within it, SIGTERM ends the program with code 143 like an exception, so that it stops what it has started."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def deliver(text: str, shown: str, out: Path | None) -> int:
    """Writes and prints a result. A failure of one does not prevent the other: measuring may have taken an hour.

    Args:
        text: the document, for the file.
        shown: the text for the terminal.
        out: the file, or None.

    Returns:
        0; 2 if the file could not be written.
    """
    code = 0
    if out is not None:
        try:
            out.write_text(text + "\n")
        except OSError as error:
            code = failed(error)
    with contextlib.suppress(OSError):  # its file may be full
        show(shown)
    return code


def progress(text: str) -> None:
    """Reports progress on stderr, because stdout is for the document."""
    print(text, file=sys.stderr, flush=True)


def table(document: Document) -> list[str]:
    """Formats a document as lines for a terminal."""
    machine, how = document.machine, document.settings
    lines = [
        f"{machine.cpu} ({machine.cpu_id}), kernel {machine.isa}, {machine.usable_cpus} CPUs, load {machine.load_1m}",
        f"{machine.date}, commit {machine.commit}, "
        + ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        f"{how.repetitions} repetitions, weights: {how.weights}",
        *document.notes,
    ]
    cell = None
    for row in document.rows:
        if (row.threads, row.batch) != cell:
            cell = (row.threads, row.batch)
            lines += ["", f"threads {row.threads}, batch {row.batch}", _line(None)]
        lines.append(_line(row))
    lines += [""] * bool(document.left_out) + [_left_out(left) for left in document.left_out]
    return lines


def _line(row: Row | None) -> str:
    if row is None:
        return f"{'':26}{'median ms':>10}{'p25':>9}{'p75':>9}{'min':>9}{'ratio':>8}{'GMAC/s':>8}{'roof %':>8}"
    rate = f"{row.gmac_per_s:8.0f}" if row.gmac_per_s is not None else " " * 8
    share = row.percent_of_roofline if row.percent_of_roofline is not None else row.percent_of_bound
    percent = f"{share:8.1f}" if share is not None else " " * 8
    return (
        f"{row.name:26}{row.median_ms:10.3f}{row.p25_ms:9.3f}{row.p75_ms:9.3f}{row.min_ms:9.3f}"
        f"{row.ratio_vs_ort_fp32:8.2f}{rate}{percent}  {row.engine}"
    )


def _left_out(left: LeftOut) -> str:
    return f"{'FAILED' if left.failed else 'left out'}: {left.name}: {left.reason}"
