"""The document written by `python -m loadtest.costs`: memory, instructions, throughput, and times of modules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from loadtest.records.schema import SCHEMA_VERSION, Count, LeftOut, Machine, Milliseconds, Part, Settings

Positive = Annotated[float, Field(gt=0)]


class Memory(Part):
    """Memory for loading and running a network, in fresh processes.

    Attributes:
        name: `<network>/<how it runs>`.
        baseline: name of the row that the ratio refers to.
        file_bytes: size of the graph's file on disk.
        weight_bytes: size of one copy of its weights at run time.
        grew_bytes: growth of resident memory by loading and three runs; median over the processes.
        trimmed: whether the allocator's free pages were returned before resident memory was read. False in older
            records, where `grew_bytes` includes what the loader had already freed.
        peak_bytes: growth of peak memory.
        n: number of processes.
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
    trimmed: bool = False


class Instructions(Part):
    """Instructions retired by one run on one thread, counted rather than sampled.

    Attributes:
        name: name of the row.
        baseline: name of the row that the ratio refers to.
        isa: the instruction set that the counting tool supports.
        instructions: instructions of one run, batch 1.
        ratio_vs_ort_fp32: instructions of the baseline / instructions.
    """

    name: str
    baseline: str
    isa: str
    instructions: Count
    ratio_vs_ort_fp32: Positive


class Throughput(Part):
    """Throughput of concurrent single-threaded sessions.

    Attributes:
        name: name of the row.
        sessions: number of sessions.
        images_per_s: total throughput, batch 1; median over the windows.
        scaling: images_per_s / that of one session.
        n: number of windows.
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
        module: kind of module.
        binary_ms: sum of the medians of its nodes in the 1-bit network.
        full_ms: sum of the medians of its nodes in the 32-bit network.
        ratio: full_ms / binary_ms.
        unfused: whether it was measured in the build that keeps BatchNorm, shortcut and activation separate.
    """

    network: str
    module: str
    binary_ms: Milliseconds
    full_ms: Milliseconds
    ratio: Positive
    unfused: bool


class Costs(Part):
    """The complete result of the program."""

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
