"""Tables of a costs document, for the generated page and the terminal."""

from __future__ import annotations

from loadtest.records.schema_costs import Costs, Memory, Module, Throughput

_MIB = 1 << 20
# Sec. 4.4.2 of the paper, Table 7: seconds on its FPGA, 1-bit and 32-bit network of 18 layers.
_PAPER = {
    "3x3 convolutions": "2.55 / 24.23 s = 9.5x (printed: 15.8x)",
    "BatchNorm, shortcut, sign or ReLU": "0.62 / 0.62 s (BatchNorm)",
    "downsampling": "0.13 / 0.13 s",
    "first convolution and max-pooling": "0.08 / 0.08 s",
    "global pooling and fully-connected layer": "1.02 / 1.02 ms",
    "all modules": "3.4 / 25.1 s = 7.38x",
}
_MODULES = """The paper's Table 7 for this machine (1 thread, batch 1). ONNX Runtime's profiler times each node of both
networks, in turns. In the normal builds, BatchNorm, shortcut and sign or ReLU are fused into the convolution. The rows
marked *separate* come from a second build of both networks without this fusion: there the 1-bit network convolves to
integers, and multiplies, adds the bias, adds the shortcut and packs the signs in separate nodes. The output of each
build was checked against the network's. The two networks differ in more than the number of bits: the 1-bit network has
a shortcut around every convolution, an average pool before its downsampling, and signs instead of ReLU. Its layers that
are not 1-bit are as exported by default: an integer stem (16-bit weights, or 8-bit where the model says so) and 8-bit
real-valued 1x1 convolutions with dynamic activation scales. (The paper's text refers to each of Tables 6 and 7 by the
number of the other, and the printed 15.8x does not follow from the times beside it.)"""
_MEMORY = """This replaces the paper's Table 6 (LUT, FF and BRAM of an FPGA). Each row is the median of fresh processes
with one thread, which import the runtime, load the network from its file and run it three times at batch 1. *Grew* is
the growth of resident memory, after the allocator has returned its free pages to the system; *peak* is that of its
maximum, with them. The weights of a 1-bit network are held twice, as in the file
and as the kernel reads them, with 1 bit each, or 2 bits with AVX2 and AVX-512 BW
([ADR 0007](../adr/0007-two-copies-of-packed-weights.md)). The column *weights in memory* counts the file's copy."""
_UNTRIMMED = """This record is of before freed pages are returned: *grew* includes what the loader had already freed,
which is most of it for float32. So the ratios of the last column are too high, about twice for 18 layers."""
_INSTRUCTIONS = """Instructions of one run, counted by valgrind. It supports at most AVX2 for both runtimes, so these
are not the kernels timed above. It does not need hardware counters, which virtual machines often lack."""
_SESSIONS = """Concurrent single-threaded sessions with one image each, like a server with that many workers."""


def cost_tables(costs: Costs) -> list[str]:
    """All tables, as lines of Markdown."""
    lines: list[str] = []
    if costs.modules:
        lines += ["### Modules", "", *_MODULES.splitlines(), ""]
        for network in dict.fromkeys(row.network for row in costs.modules):
            lines += _module_table(network, [row for row in costs.modules if row.network == network])
    if costs.memory:
        lines += ["### Memory", "", *_MEMORY.splitlines(), ""]
        if not all(row.trimmed for row in costs.memory):
            lines += [*_UNTRIMMED.splitlines(), ""]
        lines += _memory_table(costs.memory)
    if costs.instructions:
        lines += ["### Instructions", "", *_INSTRUCTIONS.splitlines(), ""]
        lines += ["| | instruction set | instructions per run | ratio |", "|---|---|---:|---:|"]
        lines += [
            f"| {_name(row.name)} | {row.isa} | {row.instructions / 1e6:.1f} million | {row.ratio_vs_ort_fp32:.2f}x |"
            for row in costs.instructions
        ]
        lines.append("")
    if costs.throughput:
        lines += ["### Concurrent sessions", "", *_SESSIONS.splitlines(), "", *_throughput_table(costs.throughput)]
    lines += [f"- `{left.name}`{' FAILED' if left.failed else ''}: {left.reason}" for left in costs.left_out]
    return lines


def _module_table(network: str, rows: list[Module]) -> list[str]:
    lines = [
        f"#### {network}",
        "",
        "| module | 1-bit ms | 32-bit ms | ratio | paper's FPGA, 1-bit / 32-bit |",
        "|---|---:|---:|---:|---|",
    ]
    for row in rows:
        paper = _PAPER.get(row.module, "-") if "18" in network else "-"
        apart = " *(separate)*" if row.unfused else ""
        lines.append(f"| {row.module}{apart} | {row.binary_ms:.3f} | {row.full_ms:.3f} | {row.ratio:.1f}x | {paper} |")
    return [*lines, ""]


def _memory_table(rows: tuple[Memory, ...]) -> list[str]:
    lines = [
        "| | file | weights in memory | grew | peak | 32-bit grew / this |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {_name(row.name)} | {row.file_bytes / 1e6:.2f} MB | {row.weight_bytes / 1e6:.2f} MB | "
        f"{row.grew_bytes / _MIB:.1f} MiB | {row.peak_bytes / _MIB:.1f} MiB | {row.ratio_vs_ort_fp32:.2f}x |"
        for row in rows
    ]
    return [*lines, ""]


def _throughput_table(rows: tuple[Throughput, ...]) -> list[str]:
    lines = ["| | sessions | images per second | relative to one session |", "|---|---:|---:|---:|"]
    lines += [f"| {_name(row.name)} | {row.sessions} | {row.images_per_s:.1f} | {row.scaling:.2f}x |" for row in rows]
    return [*lines, ""]


def _name(name: str) -> str:
    return f"**`{name}`**" if name.endswith("/binary") else f"`{name}`"
