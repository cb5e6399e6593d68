"""Records the benchmarks in docs/benchmarks and generates its tables and plots: `python -m loadtest.record`.

There is one file per machine and day, `<date>-<cpu>.json`. README.md and the plots are generated only from these files,
so that they can be regenerated at any time (`--render`) and a test can check that they are up to date. Comments on a
record, e.g. on what bounds a rate, are kept in `<date>-<cpu>.remarks.md` and included in the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from loadtest import costs, kernel, network
from loadtest.options import UsageError, ended_by_sigterm, progress
from loadtest.records.merge import merged, merged_costs
from loadtest.records.plots import kernel_plot, network_plot
from loadtest.records.schema import Document
from loadtest.records.schema_costs import Costs
from loadtest.records.tables import readme, shown
from loadtest.records.views import Recorded, block_cells, network_cells
from loadtest.stack import ROOT
from models.command_line import Distinct, Parser, count, expects
from service.errors import ServiceError
from service.host import usable_cpus

FOLDER = ROOT / "docs" / "benchmarks"
README = "README.md"
REMARKS = ".remarks.md"


def render(records: Sequence[Recorded], remarks: Mapping[str, str] | None = None) -> dict[str, str]:
    """Names and contents of all generated files of the folder.

    Args:
        records: all records.
        remarks: comments on a record, by the stem of its file.
    """
    files = {README: readme(records, remarks or {})}
    for record in shown(records)[0]:  # the page has no pictures of the others
        machine = record.network.machine
        title = f"{machine.cpu}, {machine.isa}, {machine.date[:10]}"
        networks = network_cells(record.network)
        blocks = block_cells(record.kernel) if record.kernel is not None else []
        if networks:
            files[f"{record.stem}-network.svg"] = network_plot(networks[0], title)
        if blocks:
            files[f"{record.stem}-kernel.svg"] = kernel_plot(blocks[0], title)
    return files


def recorded_files(folder: Path) -> list[Recorded]:
    """All records of a folder, sorted by name.

    Raises:
        UsageError: a file is not a record.
    """
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(Recorded.read(path))
        except ValidationError as error:
            raise UsageError(f"{path} is not a record: {error}") from error
    return records


def recorded_remarks(folder: Path) -> dict[str, str]:
    """Comments on the records, by the stem of the record's file."""
    return {path.name.removesuffix(REMARKS): path.read_text() for path in folder.glob(f"*{REMARKS}")}


def write(folder: Path, record: Recorded | None = None) -> list[Path]:
    """Writes a new record, if there is one, and regenerates everything from the files.

    Returns:
        The written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if record is not None:
        written.append(folder / f"{record.stem}.json")
        written[0].write_text(record.model_dump_json(indent=1, exclude_none=True) + "\n")
    records = recorded_files(folder)
    for old in shown(records)[1]:
        for name in ("network", "kernel"):
            (folder / f"{old.stem}-{name}.svg").unlink(missing_ok=True)
    for name, text in render(records, recorded_remarks(folder)).items():
        written.append(folder / name)
        written[-1].write_text(text)
    return written


def options() -> argparse.ArgumentParser:
    """The program's options."""
    result = Parser(prog="python -m loadtest.record", description=__doc__)
    result.add_argument("--render", action="store_true", help="only regenerate the page from the recorded files")
    for name in ("network", "kernel", "costs"):
        said = f"documents of loadtest.{name} to merge and record (default: measure now)"
        result.add_argument(f"--{name}", type=Path, nargs="+", metavar="FILE", help=said)
    said = "benchmarks to leave out of this record"
    result.add_argument("--without", nargs="+", choices=("kernel", "costs"), default=[], help=said)
    result.add_argument("--repetitions", type=count, help="timed runs per row (default: that of each benchmark)")
    threads = sorted({1, usable_cpus()})
    result.add_argument("--threads", type=count, nargs="+", action=Distinct, default=threads, help=f"default {threads}")
    result.add_argument(
        "--batch",
        type=count,
        nargs="+",
        action=Distinct,
        default=[1, 8],
        help="batch sizes of networks (default 1 8); blocks use 1",
    )
    result.add_argument("--folder", type=Path, default=FOLDER, help="default docs/benchmarks")
    return result


@expects(UsageError, ServiceError, ValidationError, OSError)
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program."""
    arguments = options().parse_args(argv)
    record = None
    with ended_by_sigterm():
        if not arguments.render:
            record = _measured(arguments)
        written = write(arguments.folder, record)
    for path in written:
        print(path)
    parts = [] if record is None else [record.network, record.kernel, record.costs]
    left_out = [left for part in parts if part is not None for left in part.left_out]
    failed = [left for left in left_out if left.failed]
    for left in failed:
        progress(f"FAILED: {left.name}: {left.reason}")
    return int(bool(failed))


def _measured(arguments: argparse.Namespace) -> Recorded:
    """All parts of the record. Each that is measured now is written at once: the next may fail, after an hour."""
    record = Recorded(network=_document(network.measure_options, arguments.network, arguments, arguments.batch))
    for name in ("network", "kernel", "costs"):
        if name in arguments.without:
            continue
        if name == "kernel":
            part: Document | Costs = _document(kernel.measure_options, arguments.kernel, arguments, [1])
        elif name == "costs":
            part = _costs(arguments.costs)
        else:
            part = record.network
        record = Recorded.model_validate({**dict(record), name: part})  # which checks that the machine is the same
        if getattr(arguments, name) is None:
            write(arguments.folder, record)
    return record


def _document(
    measure: Callable[[Sequence[str]], Document],
    paths: Sequence[Path] | None,
    arguments: argparse.Namespace,
    batch: Sequence[int],
) -> Document:
    """A benchmark's document, merged from files or measured now."""
    if paths is not None:
        return merged([Document.model_validate_json(path.read_text()) for path in paths])
    repetitions = [] if arguments.repetitions is None else ["--repetitions", str(arguments.repetitions)]
    threads = [str(count) for count in arguments.threads]
    return measure(["--threads", *threads, "--batch", *(str(count) for count in batch), *repetitions])


def _costs(paths: Sequence[Path] | None) -> Costs:
    """The costs document, merged from files or measured now."""
    if paths is not None:
        return merged_costs([Costs.model_validate_json(path.read_text()) for path in paths])
    return costs.measure_options([])


if __name__ == "__main__":
    sys.exit(main())
