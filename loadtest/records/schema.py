"""What a benchmark writes: one JSON document with a header, rows, and what was left out and why.

The recorded files in docs/benchmarks are read back through these models, so that a table or plot cannot be drawn from a
file that says less than it should.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1

Milliseconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A part of a document: immutable, complete, and with no field that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Machine(Part):
    """Where and with what a benchmark ran.

    Attributes:
        cpu: the CPU's name as the system tells it; a virtual machine may hide the model.
        cpu_id: vendor, family, model and stepping, which it does not hide.
        cpu_flags: those of the instruction sets that matter here.
        isa: kernel that the bit-packed operator chose.
        usable_kernels: all that this CPU can run, fastest first.
        usable_cpus: CPUs that the process may use (affinity and cgroup quota).
        load_1m: the system's load average at the start; well above 0 says that something else ran.
        system: operating system and release.
        versions: of Python and the packages whose code is timed.
        commit: of this project, with `+` if the working tree differed from it; `unknown` outside a checkout.
        date: start, ISO 8601 in UTC.
    """

    cpu: str
    cpu_id: str
    cpu_flags: tuple[str, ...]
    isa: str
    usable_kernels: tuple[str, ...]
    usable_cpus: Count
    load_1m: float | None
    system: str
    versions: dict[str, str]
    commit: str
    date: str

    @property
    def stem(self) -> str:
        """Name of a record's files, without the suffix: `<date>-<cpu>`."""
        return f"{self.date[:10]}-{re.sub(r'[^a-z0-9]+', '-', self.cpu.lower()).strip('-')}"


class Settings(Part):
    """How the timing was done.

    Attributes:
        threads: intra-operator threads, each value measured in turn.
        batch: images a run, likewise.
        repetitions: timed runs a row.
        settle: untimed runs before each timed one, which bring a row's own data back into the caches.
        spinning: whether ONNX Runtime's idle threads spin without a bound.
        spin_us: for how long a thread of a run looks for the next operator's work before it sleeps, microseconds.
        batch_parts: whether a batch of a 1-bit network is run in parts where its maps leave the caches, as the service
            does.
        weights: what the networks' weights are: `random`, or those of the zoo.
    """

    threads: tuple[Count, ...]
    batch: tuple[Count, ...]
    repetitions: Count
    settle: Annotated[int, Field(ge=0)]
    spinning: bool = False
    spin_us: Annotated[int, Field(ge=0)] = 0
    batch_parts: bool = False
    weights: str


class Parity(Part):
    """The check that a row's output passed before it was timed.

    Attributes:
        against: what the output was compared with.
        correlation: of the two outputs; 1 where they are equal.
        max_difference: largest absolute difference.
        exact_operators: custom operators whose integer sums and packed signs were equal to stock operators' in every
            element; None where the row has none.
    """

    against: str
    correlation: float
    max_difference: Annotated[float, Field(ge=0)]
    exact_operators: int | None = None


class Row(Part):
    """One thing measured at one number of threads and one batch.

    Attributes:
        name: `<network or shape>/<how it runs>`.
        threads: intra-operator threads.
        batch: images a run.
        median_ms: median time of a run, of the whole batch.
        ratio_vs_ort_fp32: median of the baseline row / median of this one.
        p25_ms: first quartile.
        p75_ms: third quartile.
        min_ms: fastest run.
        n: number of timed runs.
        baseline: name of the row that the ratio refers to, in the same cell of threads and batch.
        engine: what computed it: runtime, precision, and the kernel it chose where it tells.
        parity: the check before the timing.
        macs: multiply-accumulates of a run, taps inside the image only (blocks only).
        gmac_per_s: macs / median.
        roofline_gmac_per_s: what the operator's inner instructions reach on registers alone, the best of the probes
            between all runs, for all threads together; None without the probe.
        percent_of_roofline: 100 gmac_per_s / roofline_gmac_per_s.
        bound_gmac_per_s: the same bound as instructions a cycle x clock.
        percent_of_bound: 100 gmac_per_s / bound_gmac_per_s.
    """

    name: str
    threads: Count
    batch: Count
    median_ms: Milliseconds
    ratio_vs_ort_fp32: Annotated[float, Field(gt=0)]
    p25_ms: Milliseconds
    p75_ms: Milliseconds
    min_ms: Milliseconds
    n: Count
    baseline: str
    engine: str
    parity: Parity
    macs: Count | None = None
    gmac_per_s: float | None = None
    roofline_gmac_per_s: float | None = None
    percent_of_roofline: float | None = None
    bound_gmac_per_s: float | None = None
    percent_of_bound: float | None = None


class LeftOut(Part):
    """A row that was asked for and is not there.

    Attributes:
        name: the row's, or a pattern of several rows.
        reason: why, with the remedy if there is one.
        failed: whether this is a fault (a failed parity check), not something that the machine lacks.
    """

    name: str
    reason: str
    failed: bool = False


class Document(Part):
    """All that one benchmark says."""

    schema_version: Literal[1] = SCHEMA_VERSION
    benchmark: Literal["network", "kernel"]
    machine: Machine
    settings: Settings
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
