"""Merges documents of one benchmark, since long benchmarks are measured network by network."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.options import UsageError
from loadtest.records.schema import Document, Machine, Settings
from loadtest.records.schema_costs import Costs


def merged(documents: Sequence[Document]) -> Document:
    """One document with all rows, in the order of the documents for each number of threads and batch size.

    Raises:
        UsageError: the documents differ in machine, versions or commit, or a row occurs twice.
    """
    rows = [row for document in documents for row in document.rows]
    cells = [(row.name, row.threads, row.batch) for row in rows]
    for cell in cells:
        if cells.count(cell) > 1:
            raise UsageError(f"{cell[0]} with threads {cell[1]}, batch {cell[2]} is in two documents: leave one out.")
    return Document(
        benchmark=documents[0].benchmark,
        machine=_machine([document.machine for document in documents]),
        settings=_settings([document.settings for document in documents]),
        rows=tuple(sorted(rows, key=lambda row: (row.threads, row.batch))),
        left_out=tuple(dict.fromkeys(left for document in documents for left in document.left_out)),
        notes=documents[0].notes,
    )


def merged_costs(documents: Sequence[Costs]) -> Costs:
    """Merges documents of loadtest.costs.

    Raises:
        UsageError: the documents differ in machine, versions or commit.
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
    """The first machine, with the highest load of all; they may differ only in load and date."""
    first = machines[0]
    for other in machines[1:]:
        alike = other.model_copy(update={"load_1m": first.load_1m, "date": first.date})
        if alike != first:
            fields = [name for name, value in first if getattr(alike, name) != value]
            raise UsageError(f"The documents differ in {', '.join(fields)}: measure them all again.")
    loads = [machine.load_1m for machine in machines if machine.load_1m is not None]
    return first.model_copy(update={"load_1m": max(loads) if loads else None})


def _settings(found: Sequence[Settings]) -> Settings:
    """The union of threads and batch sizes, and the lowest number of repetitions (each row has its own)."""
    return found[0].model_copy(
        update={
            "threads": tuple(sorted({count for settings in found for count in settings.threads})),
            "batch": tuple(sorted({count for settings in found for count in settings.batch})),
            "repetitions": min(settings.repetitions for settings in found),
        }
    )
