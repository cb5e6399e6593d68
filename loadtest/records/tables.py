"""docs/benchmarks/README.md, generated only from the recorded files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadtest.records.costs import cost_tables
from loadtest.records.schema import UNROUNDED, LeftOut, Machine, Row, Settings
from loadtest.records.views import BlockView, Cell, NetworkGroup, Recorded, block_cells, network_cells, way_of

_HEAD = """# Benchmarks

Written by `python -m loadtest.record` from the JSON files of this folder. Change that program, not this page.

    make setup .venv/.stamps/bench                  # PyTorch builds the networks; the extra `bench` has OpenVINO
    python -m loadtest.record                       # measure on an idle machine and write this folder
    python -m loadtest.record --render              # regenerate tables and plots from the recorded files
    python -m loadtest.network --json --only 'bireal18/*'
    python -m loadtest.kernel --json --only '64@56/*'
    python -m loadtest.costs --json                 # modules, memory, instructions, concurrent sessions

**Method.** All rows of a network, or of a block's shape, take turns in one process. Each turn is one untimed run and
one timed run. A ratio is the median time of the full-precision twin in ONNX Runtime float32 divided by the median time
of the row, with the same threads and batch size. Float and 8-bit peers take float NCHW input with BatchNorm folded,
prepared outside the timing; `binary` and `reference` take uint8 images and normalise inside. In `binary`, the layers
that are not 1-bit are as exported by default: an integer stem (16-bit weights, or 8-bit where the model says so) and
8-bit real-valued 1x1 convolutions with dynamic activation scales. OpenVINO is compiled for the static shape and told to
use float32 arithmetic, except in the rows named `default`. 8-bit networks are quantised statically (QDQ, per channel)
and calibrated on synthetic photos. Weights are random unless a record says otherwise; they do not affect the time.

**Checks.** Before timing, every row's output is compared with that of the same network in standard operators without
any optimisation; the column *parity* is the correlation of the two. For `binary`, the audit also requires that every
operator's integer sums and signs are equal in every element (*exact*). A block's output must be equal in every element.

**Names.** `<network>/ort-fp32` is the baseline, `/binary` the bit-packed operator and `/reference` the same weights in
standard float operators. `/ort-int8`, `/openvino-fp32` and `/openvino-int8` are other builds of the twin, and
`/openvino-binary` is the Bi-Real net with OpenVINO's BinaryConvolution and float32 for the rest. `/openvino-default`
and `/openvino-binary-default` are the float networks in bfloat16, OpenVINO's default on CPUs that have it; ONNX
Runtime's default is float32 everywhere. A block is sign, binary convolution, BatchNorm and shortcut; `64-128@56s2` has
64 input channels, 128 output channels, a 56 x 56 input and stride 2; `k1` means a 1x1 window. GMAC/s count only taps
inside the image. The *roofline* is the rate of the operator's inner instructions on registers only, the best of all
probes between the runs. The *bound* is the same rate as instructions per cycle x the highest clock observed by the
probes.
"""
_EMULATED = """In this record, the networks of `/openvino-binary` also emulate the rounding of our 8-bit 1x1
convolutions, which OpenVINO need not do. Measured with AVX2, that costs them about 2 % with 18 layers and 8 % with 50.
Later records leave it out."""
_THREADS = "Columns with several threads show the speedup over one thread."
_BETWEEN_RUNS = "In this record they divide times of different minutes, so differences of about 0.1x mean nothing."


def readme(records: Sequence[Recorded], remarks: Mapping[str, str]) -> str:
    """The page: tables of the newest record of each CPU, and links to earlier records.

    Args:
        records: all records.
        remarks: comments on a record, by the stem of its file.
    """
    lines = [_HEAD]
    if not records:
        lines.append("Nothing is recorded yet.\n")
        return "\n".join(lines)
    newest, earlier = shown(records)
    for record in newest:
        lines += _record(record, remarks.get(record.stem))
    if earlier:
        lines += ["## Earlier records of the same CPUs", ""]
        lines += [f"- [{record.stem}.json]({record.stem}.json)" for record in earlier]
        lines.append("")
    return "\n".join(lines)


def shown(records: Sequence[Recorded]) -> tuple[list[Recorded], list[Recorded]]:
    """The newest record of each CPU, which the page shows, and the others; newest first."""
    by_date = sorted(records, key=lambda record: record.network.machine.date, reverse=True)
    newest: dict[str, Recorded] = {}
    for record in by_date:
        newest.setdefault(record.network.machine.cpu_id, record)
    return list(newest.values()), [record for record in by_date if record not in newest.values()]


def _run_of(part: Machine, network: Machine) -> list[str]:
    """When a part was measured, where that differs from what the head of the record says."""
    if (part.commit, part.load_1m, part.starts) == (network.commit, network.load_1m, network.starts):
        return []
    return [f"Commit {part.commit_text}, {part.date}, load average at the start {part.load_text}.", ""]


def _record(record: Recorded, remarks: str | None) -> list[str]:
    machine = record.network.machine
    lines = [f"## {machine.cpu} ({machine.cpu_id}), {machine.date[:10]}", ""]
    lines += _machine(machine)
    lines += [f"Recorded in [{record.stem}.json]({record.stem}.json). {_running(record.network.settings)}", ""]
    lines += ["### Networks", ""]
    lines += [f"![Networks against their peers]({record.stem}-network.svg)", ""]
    for cell in network_cells(record.network):
        lines += _networks(cell)
    if any(way_of(row) == "openvino-binary" and row.parity.against != UNROUNDED for row in record.network.rows):
        lines += [*_EMULATED.splitlines(), ""]
    lines += _scaling(record.network.rows, record.network.settings.threads_in_turns)
    if record.kernel is not None:
        lines += ["### Blocks", "", *_run_of(record.kernel.machine, machine)]
        lines += [f"![Blocks against the roofline]({record.stem}-kernel.svg)", ""]
        lines += [f"{note[0].upper()}{note[1:]}." for note in record.kernel.notes]
        lines.append("")
        for block_cell in block_cells(record.kernel):
            lines += _blocks(block_cell)
    if remarks is not None:
        lines += ["### What bounds the rest", "", remarks]
    if record.costs is not None:
        run = _run_of(record.costs.machine, machine)
        lines += ["### Costs", "", *run] if run else []
        lines += cost_tables(record.costs)
    left_out = (*record.network.left_out, *(record.kernel.left_out if record.kernel else ()))
    if left_out:
        lines += ["### Left out", "", *(_left_out(left) for left in left_out), ""]
    return lines


def _machine(machine: Machine) -> list[str]:
    facts = {
        "CPU": f"{machine.cpu} ({machine.cpu_id}), {machine.usable_cpus} CPUs usable",
        "Kernel": f"`{machine.isa}` of {', '.join(machine.usable_kernels)}",
        "Flags": ", ".join(machine.cpu_flags),
        "System": f"{machine.system}; load average at the start {machine.load_text}",
        "Versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "Commit": f"{machine.commit_text}, {machine.date}",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), ""]


def _running(settings: Settings) -> str:
    wait = f"spin for {settings.spin_us} us before they sleep" if settings.spin_us else "do not spin"
    parts = " Batches of `binary` are split if their feature maps exceed the caches, as in the service."
    return f"ONNX Runtime's threads {wait}.{parts if settings.batch_parts else ''}"


def _networks(cell: Cell[NetworkGroup]) -> list[str]:
    lines = [
        f"#### {cell.text.capitalize()}",
        "",
        _repetitions([row for group in cell.views for _, row in group]),
        "",
        "| | median ms | p25 - p75 | min | ratio | parity | computed by |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for group in cell.views:
        lines += [_network_row(way, row) for way, row in group]
    return [*lines, ""]


def _network_row(way: str, row: Row) -> str:
    name, ratio = f"`{row.name}`", f"{row.ratio_vs_ort_fp32:.2f}x"
    if way == "binary":
        name, ratio = f"**{name}**", f"**{ratio}**"
    parity = f"{row.parity.correlation:.4f}"
    if row.parity.exact_operators is not None:
        parity += f", {row.parity.exact_operators} operators exact"
    spread = f"{row.p25_ms:.2f} - {row.p75_ms:.2f}"
    return f"| {name} | {row.median_ms:.2f} | {spread} | {row.min_ms:.2f} | {ratio} | {parity} | {row.engine} |"


def _scaling(rows: Sequence[Row], in_turns: bool) -> list[str]:
    """Speedup by threads and throughput gain by batching, for networks measured with several of them.

    There is one column per number of threads above 1 and batch size, and one per batch size above 1 on one thread, if
    any network has both measurements that the column compares.

    Args:
        rows: rows of a network document.
        in_turns: whether all numbers of threads were timed in the same rounds.
    """
    found = {(row.name, row.threads, row.batch): row.median_ms for row in rows}
    names = list(dict.fromkeys(row.name for row in rows if way_of(row) in ("binary", "ort-fp32")))
    batches = sorted({row.batch for row in rows})
    threaded, batched = {}, {}
    for threads in sorted({row.threads for row in rows if row.threads > 1}):
        for batch in batches:
            threaded[f"{threads} threads, batch {batch}"] = [
                _ratio(found.get((name, 1, batch)), found.get((name, threads, batch))) for name in names
            ]
    for batch in (batch for batch in batches if batch > 1):
        batched[f"batch {batch}, 1 thread"] = [
            _ratio(found.get((name, 1, 1)), found.get((name, 1, batch)), batch) for name in names
        ]
    said: list[str] = []
    columns: dict[str, list[float | None]] = {}
    for sentence, kind in (
        (_THREADS if in_turns else f"{_THREADS} {_BETWEEN_RUNS}", threaded),
        ("Columns with larger batches on one thread show the throughput relative to batch 1.", batched),
    ):
        measured = {head: worth for head, worth in kind.items() if any(value is not None for value in worth)}
        said += [sentence] if measured else []
        columns |= measured
    if not columns:
        return []
    lines = ["#### Threads and batches", "", *said, ""]
    lines += [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for index, name in enumerate(names):
        cells = [_number(worth[index], ".2f", "x") for worth in columns.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return [*lines, ""]


def _ratio(before_ms: float | None, after_ms: float | None, times: int = 1) -> float | None:
    """Speedup; None if one of the two was not measured."""
    return before_ms * times / after_ms if before_ms is not None and after_ms is not None else None


def _blocks(cell: Cell[BlockView]) -> list[str]:
    lines = [
        f"#### {cell.text.capitalize()}",
        "",
        _repetitions([row for view in cell.views for row in view.rows.values()]),
        "",
        "| block | binary us | p25 - p75 | GMAC/s | of roofline | of bound | float us | vs float | OpenVINO us | vs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for view in cell.views:
        ours = view.rows.get("binary")
        if ours is None:
            continue
        cells = [
            f"`{view.shape}`",
            f"{ours.median_ms * 1e3:.1f}",
            f"{ours.p25_ms * 1e3:.1f} - {ours.p75_ms * 1e3:.1f}",
            _number(ours.gmac_per_s, ".0f"),
            _number(ours.percent_of_roofline, ".1f", " %"),
            _number(ours.percent_of_bound, ".1f", " %"),
            _microseconds(view.rows.get("ort-fp32")),
            _number(view.ratio("binary", "ort-fp32"), ".1f", "x"),
            _microseconds(view.rows.get("openvino-binary")),
            _number(view.ratio("binary", "openvino-binary"), ".2f", "x"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _repetitions(rows: Sequence[Row]) -> str:
    """Number of runs behind a cell's medians."""
    counts = sorted({row.n for row in rows})
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{runs} timed runs per row."


def _left_out(left: LeftOut) -> str:
    return f"- `{left.name}`{' FAILED' if left.failed else ''}: {left.reason}"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def _microseconds(row: Row | None) -> str:
    return "-" if row is None else f"{row.median_ms * 1e3:.0f}"
