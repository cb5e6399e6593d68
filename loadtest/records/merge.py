"""Merges documents of one benchmark, since long benchmarks are measured network by network."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.options import UsageError
from loadtest.records.schema import Document, Machine, Row, Settings, Start
from loadtest.records.schema_costs import Costs

ROOFLINE = "roofline: "  # start of the note on the bounds that the rows are compared with


def merged(documents: Sequence[Document]) -> Document:
    """One document with all rows, in the order of the documents for each number of threads and batch size.

    Rates of all rows are compared with the highest bound of all documents, as in a document measured at once: whatever
    else the machine did can only have lowered the others.

    Raises:
        UsageError: the documents differ in machine, versions or commit, or a row occurs twice.
    """
    rows = [row for document in documents for row in document.rows]
    cells = [(row.name, row.threads, row.batch) for row in rows]
    for cell in cells:
        if cells.count(cell) > 1:
            raise UsageError(f"{cell[0]} with threads {cell[1]}, batch {cell[2]} is in two documents: leave one out.")
    probe, bound = _highest(rows, "roofline_gmac_per_s"), _highest(rows, "bound_gmac_per_s")
    rows = [_compared(_compared(row, "roofline", probe), "bound", bound) for row in rows]
    notes = dict.fromkeys(note for document in documents for note in document.notes)
    if len(found := [note for note in notes if note.startswith(ROOFLINE)]) > 1:
        notes = dict.fromkeys(note for note in notes if note not in found)
        rates = (("probe", probe), ("instructions per cycle x clock", bound))
        said = [f"{what} {rate:.0f} GMAC/s a core" for what, rate in rates if rate is not None]
        notes[f"{ROOFLINE}{'; '.join(said)}; the highest of {len(documents)} documents"] = None
    return Document(
        benchmark=documents[0].benchmark,
        machine=_machine([document.machine for document in documents]),
        settings=_settings([document.settings for document in documents]),
        rows=tuple(sorted(rows, key=lambda row: (row.threads, row.batch))),
        left_out=tuple(dict.fromkeys(left for document in documents for left in document.left_out)),
        notes=tuple(notes),
    )


def _highest(rows: Sequence[Row], field: str) -> float | None:
    """The highest bound of one core that any row states."""
    return max((value / row.threads for row in rows if (value := getattr(row, field)) is not None), default=None)


def _compared(row: Row, what: str, core: float | None) -> Row:
    """The row with a bound of one core, and its rate as a share of it, where it stated another."""
    limit, share = f"{what}_gmac_per_s", f"percent_of_{what}"
    if core is None or row.gmac_per_s is None or getattr(row, limit) in (None, round(core * row.threads, 1)):
        return row
    every = core * row.threads
    return row.model_copy(update={limit: round(every, 1), share: round(100 * row.gmac_per_s / every, 2)})


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
        notes=tuple(dict.fromkeys(note for document in documents for note in document.notes)),
    )


def _machine(machines: Sequence[Machine]) -> Machine:
    """The first machine, with the highest load of all and that of each; they may differ only in load and date."""
    first = machines[0]
    for other in machines[1:]:
        alike = other.model_copy(update={name: getattr(first, name) for name in ("load_1m", "date", "starts")})
        if alike != first:
            fields = [name for name, value in first if getattr(alike, name) != value]
            raise UsageError(f"The documents differ in {', '.join(fields)}: measure them all again.")
    loads = [machine.load_1m for machine in machines if machine.load_1m is not None]
    starts = [start for each in machines for start in each.starts or (Start(date=each.date, load_1m=each.load_1m),)]
    return first.model_copy(
        update={"load_1m": max(loads) if loads else None, "starts": tuple(starts) if len(starts) > 1 else ()}
    )


def _in_turns(found: Sequence[Settings]) -> bool:
    """Whether each document had all numbers of threads in its own turns: not with a document for each number."""
    return all(settings.threads_in_turns and settings.threads == found[0].threads for settings in found)


def _settings(found: Sequence[Settings]) -> Settings:
    """The union of threads and batch sizes, and the lowest number of repetitions (each row has its own)."""
    return found[0].model_copy(
        update={
            "threads": tuple(sorted({count for settings in found for count in settings.threads})),
            "batch": tuple(sorted({count for settings in found for count in settings.batch})),
            "repetitions": min(settings.repetitions for settings in found),
            "threads_in_turns": _in_turns(found),
        }
    )
