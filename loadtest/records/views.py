"""A recorded file with its rows arranged for tables and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from loadtest.records.schema import Document, Row
from loadtest.records.schema_costs import Costs

View = TypeVar("View")

# Rows of one network and its twin: (way, row), the baseline first.
NetworkGroup = tuple[tuple[str, Row], ...]


class Recorded(BaseModel):
    """A file of docs/benchmarks: the benchmarks of one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Document
    kernel: Document | None = None
    costs: Costs | None = None

    @model_validator(mode="after")
    def _same_machine(self) -> Self:
        if self.network.benchmark != "network" or (self.kernel and self.kernel.benchmark != "kernel"):
            raise ValueError("`network` or `kernel` contains the document of another benchmark")
        documents = [document for document in (self.network, self.kernel, self.costs) if document is not None]
        cpus = sorted({document.machine.cpu_id for document in documents})
        if len(cpus) > 1:
            raise ValueError(f"the benchmarks ran on different CPUs: {' and '.join(cpus)}")
        return self

    @property
    def stem(self) -> str:
        """Name of its file: `<date>-<cpu>`."""
        return self.network.machine.stem

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file.

        Raises:
            pydantic.ValidationError: the file is not a valid record; the message names the field.
        """
        return cls.model_validate_json(path.read_text())


@dataclass(frozen=True)
class Cell(Generic[View]):
    """Everything measured with one number of threads and one batch size."""

    threads: int
    batch: int
    views: tuple[View, ...]

    @property
    def text(self) -> str:
        """Description of the cell."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{threads}, batch {self.batch}"


@dataclass(frozen=True)
class BlockView:
    """The rows of one shape.

    Attributes:
        shape: name of the shape.
        rows: rows by way.
    """

    shape: str
    rows: dict[str, Row]

    @property
    def limit_gmac_per_s(self) -> float | None:
        """The measured roofline or, without a probe, the counted bound."""
        row = self.rows.get("binary")
        if row is None:
            return None
        return row.roofline_gmac_per_s if row.roofline_gmac_per_s is not None else row.bound_gmac_per_s

    def ratio(self, of: str, to: str) -> float | None:
        """Speedup of `of` over `to`; None if one of them is missing."""
        if of not in self.rows or to not in self.rows:
            return None
        return self.rows[to].median_ms / self.rows[of].median_ms


def way_of(row: Row) -> str:
    """Last part of a row's name: how it ran."""
    return row.name.rpartition("/")[2]


def network_cells(document: Document) -> list[Cell[NetworkGroup]]:
    """Rows of a network document, by cell and baseline."""

    def groups(rows: Sequence[Row]) -> tuple[NetworkGroup, ...]:
        baselines = dict.fromkeys(row.baseline for row in rows)
        return tuple(tuple((way_of(row), row) for row in rows if row.baseline == name) for name in baselines)

    return _cells(document, groups)


def block_cells(document: Document) -> list[Cell[BlockView]]:
    """Rows of a kernel document, by cell and shape."""

    def shapes(rows: Sequence[Row]) -> tuple[BlockView, ...]:
        names = dict.fromkeys(row.name.partition("/")[0] for row in rows)
        return tuple(
            BlockView(name, {way_of(row): row for row in rows if row.name.partition("/")[0] == name}) for name in names
        )

    return _cells(document, shapes)


def _cells(document: Document, arrange: Callable[[Sequence[Row]], tuple[View, ...]]) -> list[Cell[View]]:
    keys = dict.fromkeys((row.threads, row.batch) for row in document.rows)
    return [
        Cell(threads, batch, arrange([row for row in document.rows if (row.threads, row.batch) == (threads, batch)]))
        for threads, batch in keys
    ]
