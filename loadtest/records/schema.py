"""The JSON document written by a benchmark: a header, rows, and the rows left out with the reason.

The recorded files in docs/benchmarks are validated with these models, so that tables and plots are never generated from
incomplete files.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1

# What OpenVINO's binary networks are compared with. Older records name the reference with its rounding instead, which
# those rows emulated.
UNROUNDED = "derived reference with float32 1x1 convolutions, unoptimised"

Milliseconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Base class of a document's parts: immutable, without missing or unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


#: Commits in records whose history was rewritten afterwards, so that nobody can check them out.
LOST_COMMITS = frozenset({"43a23448d616", "fc7348afec74"})


class Start(Part):
    """When a merged run began.

    Attributes:
        date: start time, ISO 8601 in UTC.
        load_1m: the system's load average at that time.
    """

    date: str
    load_1m: float | None


class Machine(Part):
    """The hardware and software that a benchmark ran on.

    Attributes:
        cpu: name of the CPU as reported by the system; a virtual machine may hide the model.
        cpu_id: vendor, family, model and stepping, which virtual machines do not hide.
        cpu_flags: flags of the relevant instruction sets.
        isa: kernel chosen by the bit-packed operator.
        usable_kernels: all kernels that this CPU can run, fastest first.
        usable_cpus: CPUs that the process may use (affinity and cgroup quota).
        load_1m: the system's load average at the start; if it is well above 0, something else was running. The highest
            one in a document that was merged from several runs.
        starts: the runs that it was merged from; empty for one run, and in older records.
        system: operating system and release.
        versions: versions of Python and of the packages whose code is timed.
        commit: commit of this project, with `+` if the working tree differed from it; `unknown` outside a checkout.
        date: start time, ISO 8601 in UTC.
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
    starts: tuple[Start, ...] = ()

    @property
    def commit_text(self) -> str:
        """The commit in Markdown, and whether it cannot be found."""
        return f"`{self.commit}`{' (not in this history)' if self.commit.rstrip('+') in LOST_COMMITS else ''}"

    @property
    def load_text(self) -> str:
        """The load average at the start, and that of each merged run."""
        load = "unknown" if self.load_1m is None else f"{self.load_1m:g}"
        if not self.starts:
            return load
        each = ", ".join("unknown" if one.load_1m is None else f"{one.load_1m:g}" for one in self.starts)
        return f"{load}, the highest of {len(self.starts)} runs ({each})"

    @property
    def stem(self) -> str:
        """Name of a record's files, without the suffix: `<date>-<cpu>-<family>-<model>-<stepping>`.

        The numbers are needed because virtual machines give CPUs of different generations the same name.
        """
        numbers = " ".join(re.findall(r"\b\d+\b", self.cpu_id))
        return f"{self.date[:10]}-{re.sub(r'[^a-z0-9]+', '-', f'{self.cpu} {numbers}'.lower()).strip('-')}"


class Settings(Part):
    """Settings of the measurement.

    Attributes:
        threads: numbers of intra-operator threads that were measured.
        batch: batch sizes that were measured.
        repetitions: timed runs per row.
        settle: untimed runs before each timed run, which bring the row's data back into the caches.
        spinning: whether ONNX Runtime's idle threads spin indefinitely.
        spin_us: time that a thread spins for the next operator's work before it sleeps, microseconds.
        batch_parts: whether a batch of a 1-bit network is split if its feature maps exceed the caches, as in the
            service.
        threads_in_turns: whether all numbers of threads were timed in the same rounds. In older records, a speedup by
            threads divides times of different minutes.
        weights: weights of the networks: `random`, or those of the `zoo`.
    """

    threads: tuple[Count, ...]
    batch: tuple[Count, ...]
    repetitions: Count
    settle: Annotated[int, Field(ge=0)]
    spinning: bool = False
    spin_us: Annotated[int, Field(ge=0)] = 0
    batch_parts: bool = False
    threads_in_turns: bool = False
    weights: str


class Parity(Part):
    """The check that a row's output passed before it was timed.

    Attributes:
        against: what the output was compared with.
        correlation: correlation of the two outputs; 1 if they are equal.
        max_difference: largest absolute difference.
        exact_operators: number of custom operators whose integer sums and packed signs equal those of standard
            operators in every element; None if the row has no custom operators.
    """

    against: str
    correlation: float
    max_difference: Annotated[float, Field(ge=0)]
    exact_operators: int | None = None


class Row(Part):
    """One measurement for one number of threads and one batch size.

    Attributes:
        name: `<network or shape>/<how it runs>`.
        threads: intra-operator threads.
        batch: batch size.
        median_ms: median time of a run, for the whole batch.
        ratio_vs_ort_fp32: median of the baseline row / median of this row.
        p25_ms: first quartile.
        p75_ms: third quartile.
        min_ms: fastest run.
        n: number of timed runs.
        baseline: name of the row that the ratio refers to, with the same threads and batch size.
        engine: runtime, precision and, if known, the chosen kernel.
        parity: the check before the timing.
        macs: multiply-accumulates of a run, taps inside the image only (blocks only).
        gmac_per_s: macs / median.
        roofline_gmac_per_s: rate of the operator's inner instructions on registers only, for all threads together, the
            best of the probes between the runs; None without the probe.
        percent_of_roofline: 100 gmac_per_s / roofline_gmac_per_s.
        bound_gmac_per_s: the same bound as instructions per cycle x clock.
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
    """A requested row that is missing.

    Attributes:
        name: name of the row, or a pattern for several rows.
        reason: why it is missing, with the remedy if there is one.
        failed: True for a fault (a failed parity check), False if the machine lacks something.
    """

    name: str
    reason: str
    failed: bool = False


class Document(Part):
    """The complete result of one benchmark."""

    schema_version: Literal[1] = SCHEMA_VERSION
    benchmark: Literal["network", "kernel"]
    machine: Machine
    settings: Settings
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
