"""What `python -m loadtest.costs` writes: memory, instructions, throughput of sessions, and times of modules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from loadtest.records.schema import SCHEMA_VERSION, Count, LeftOut, Machine, Milliseconds, Part, Settings

Positive = Annotated[float, Field(gt=0)]


class Memory(Part):
    """What loading and running a network takes, in fresh processes.

    Attributes:
        name: `<network>/<how it runs>`.
        baseline: name of the row that the ratio refers to.
        file_bytes: size of the graph's file on disk.
        weight_bytes: one copy of its weights as they run.
        grew_bytes: by how much the process's resident memory grew by loading and three runs; median of the processes.
        peak_bytes: by how much its peak did.
        n: processes.
        ratio_vs_ort_fp32: grew_bytes of the baseline / grew_bytes.
    """

    name: str
    baseline: str
    file_bytes: Count
    weight_bytes: Count
    grew_bytes: Count
    peak_bytes: Count
    n: Count
    ratio_vs_ort_fp32: Positive


class Instructions(Part):
    """Instructions retired by one run on one thread, counted, not sampled.

    Attributes:
        name: the row's.
        baseline: name of the row that the ratio refers to.
        isa: the instruction set that the counting tool offers to both.
        instructions: of one run, batch 1.
        ratio_vs_ort_fp32: instructions of the baseline / instructions.
    """

    name: str
    baseline: str
    isa: str
    instructions: Count
    ratio_vs_ort_fp32: Positive


class Throughput(Part):
    """Sessions of one thread each, running at the same time.

    Attributes:
        name: the row's.
        sessions: how many.
        images_per_s: of all together, batch 1; median of the windows.
        scaling: images_per_s / that of one session.
        n: windows.
    """

    name: str
    sessions: Count
    images_per_s: Positive
    scaling: Positive
    n: Count


class Module(Part):
    """One kind of module of a network and its twin, one thread, batch 1.

    Attributes:
        network: the binary network.
        module: which kind.
        binary_ms: sum of the medians of its nodes in the 1-bit network.
        full_ms: likewise in the 32-bit network.
        ratio: full_ms / binary_ms.
        unfused: whether it was measured in the build that keeps BatchNorm, shortcut and activation apart.
    """

    network: str
    module: str
    binary_ms: Milliseconds
    full_ms: Milliseconds
    ratio: Positive
    unfused: bool


class Costs(Part):
    """All that the program says."""

    schema_version: Literal[1] = SCHEMA_VERSION
    benchmark: Literal["costs"] = "costs"
    machine: Machine
    settings: Settings
    memory: tuple[Memory, ...] = ()
    instructions: tuple[Instructions, ...] = ()
    throughput: tuple[Throughput, ...] = ()
    modules: tuple[Module, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
