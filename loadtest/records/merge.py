"""Several documents of one benchmark as one: long benchmarks are measured network by network."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.options import UsageError
from loadtest.records.schema import Document, Machine, Settings
from loadtest.records.schema_costs import Costs


def merged(documents: Sequence[Document]) -> Document:
    """One document with the rows of all, in their order within a cell of threads and batch.

    Raises:
        UsageError: they are of different machines, versions or commits, or one row is there twice.
    """
    rows = [row for document in documents for row in document.rows]
    cells = [(row.name, row.threads, row.batch) for row in rows]
    for cell in cells:
        if cells.count(cell) > 1:
            raise UsageError(f"{cell[0]} at threads {cell[1]}, batch {cell[2]} is in two documents: leave one out.")
    return Document(
        benchmark=documents[0].benchmark,
        machine=_machine([document.machine for document in documents]),
        settings=_settings([document.settings for document in documents]),
        rows=tuple(sorted(rows, key=lambda row: (row.threads, row.batch))),
        left_out=tuple(dict.fromkeys(left for document in documents for left in document.left_out)),
        notes=documents[0].notes,
    )


def merged_costs(documents: Sequence[Costs]) -> Costs:
    """The same for documents of loadtest.costs.

    Raises:
        UsageError: they are of different machines, versions or commits.
    """
    return Costs(
        machine=_machine([document.machine for document in documents]),
        settings=_settings([document.settings for document in documents]),
        memory=tuple(row for document in documents for row in document.memory),
        instructions=tuple(row for document in documents for row in document.instructions),
        throughput=tuple(row for document in documents for row in document.throughput),
        modules=tuple(row for document in documents for row in document.modules),
        left_out=tuple(dict.fromkeys(left for document in documents for left in document.left_out)),
        notes=documents[0].notes,
    )


def _machine(machines: Sequence[Machine]) -> Machine:
    """The first, with the highest load of all: they may differ in load and date alone."""
    first = machines[0]
    for other in machines[1:]:
        alike = other.model_copy(update={"load_1m": first.load_1m, "date": first.date})
        if alike != first:
            fields = [name for name, value in first if getattr(alike, name) != value]
            raise UsageError(f"The documents differ in {', '.join(fields)}: measure all of them again.")
    loads = [machine.load_1m for machine in machines if machine.load_1m is not None]
    return first.model_copy(update={"load_1m": max(loads) if loads else None})


def _settings(found: Sequence[Settings]) -> Settings:
    """Every number of threads and every batch; the fewest repetitions (each row names its own)."""
    return found[0].model_copy(
        update={
            "threads": tuple(sorted({count for settings in found for count in settings.threads})),
            "batch": tuple(sorted({count for settings in found for count in settings.batch})),
            "repetitions": min(settings.repetitions for settings in found),
        }
    )
