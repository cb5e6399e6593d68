"""docs/benchmarks/load: tables and plots, generated only from the recorded load tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtest.capacity import answer, calibration, checks
from loadtest.scenarios import plots
from loadtest.scenarios.plan import MEANING, NAMES
from loadtest.scenarios.schema import Capacity, LoadDocument, RunResult, StepResult, recorded

README = "README.md"

#: Rates and latency limits in the table of cores, by task.
EXAMPLES = {"classify": ((100, 50), (100, 200), (1000, 50), (1000, 200)), "depth": ((20, 250), (20, 1000), (200, 1000))}

_HEAD = """# Load tests

Written by `python -m loadtest.load` from the JSON files of this folder. Change that program, not this page.

    make setup .venv/.stamps/bench
    python -m loadtest.load --record                    # measure on an idle machine and write this folder
    python -m loadtest.load --render                    # regenerate tables and plots from the recorded files
    python -m loadtest.load --scenarios burst --json    # run one scenario without recording it
    make load ARGS="--users 4"                          # only throughput and latency by task and variant
    python -m loadtest.capacity --rate 200 --p99-ms 100 # estimate the number of cores

The service runs on one core and Locust on another, so that they do not compete for CPU time. Requests carry a JPEG and
are processed like those of any client. Open scenarios (steady, burst, mixed, ab) send requests at random times whether
or not earlier requests have been answered, and count latency from the time at which a request was due. Rates and CPU
times are of the responses that ended in a step. The service has loaded every model and variant of the zoo, which its
memory includes.
"""

_BY_DUE = """This record counts answers per second and CPU per request in open scenarios the old way: answers to
requests that were due in a step, even if they came after its end. In an overloaded step (burst), the rate is therefore
too high and the CPU per request too low."""

_CAPACITY = """Requests per second with the core saturated, the CPU time per request including decoding and HTTP, and
the latency of a single request on the idle service. *Ratio* is the rate over that of `full`."""

_ONCE = """This record measured each kind once and not in turns, so that a disturbance of one of them is in the table:
the ramp below may show other rates."""

_CORES = """Computed by `python -m loadtest.capacity` for replicas with one core each, Poisson arrivals and a balancer
that ignores queue lengths: M/G/1 with the measured service times (`loadtest/scenarios/queueing.py`). If the steady runs
below were slower than predicted, the limit is divided by the worst ratio. A dash means that no number of cores is
enough, because a single request takes longer than the limit."""

_VALIDATION = """The model against the steady runs of this record. The model treats a request as one piece of work. In
the service it passes through several threads, which delays short requests most when others are in progress."""


def write(folder: Path, document: LoadDocument | None = None) -> list[Path]:
    """Writes a new record, if there is one, and regenerates everything from the files.

    Returns:
        The written files.

    Raises:
        RecordError: a JSON file of the folder is not a record.
        OSError: a file cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if document is not None:
        written.append(folder / f"{document.machine.stem}.json")
        written[0].write_text(document.model_dump_json(indent=1, exclude_none=True) + "\n")
    records = recorded(folder)
    if not records:
        return written
    for old in records[1:]:  # the page has no pictures of them
        for name in plots.PLOTS:
            (folder / f"{old.machine.stem}-{name}.svg").unlink(missing_ok=True)
    written.append(folder / README)
    written[-1].write_text(page(records))
    for name, draw in plots.PLOTS.items():
        path = folder / f"{records[0].machine.stem}-{name}.svg"
        if draw(records[0], path):
            written.append(path)
    return written


def page(records: Sequence[LoadDocument]) -> str:
    """The page: the newest record, and links to earlier ones."""
    newest, *earlier = records
    name = newest.machine.stem
    lines = [_HEAD, f"## {newest.machine.date[:10]}, {newest.machine.cpu}", "", *_machine(newest)]
    lines += [f"Recorded in [{name}.json]({name}.json).", ""]
    lines += [*_capacity(newest), *_cores(newest), *_validation(newest)]
    lines += [_BY_DUE, ""] if newest.rates_by == "due" else []
    for scenario in NAMES:
        runs = [run for run in newest.runs if run.scenario == scenario]
        if runs and scenario != "saturate":
            lines += [f"### {scenario.capitalize()}", "", f"{MEANING[scenario][0].upper()}{MEANING[scenario][1:]}.", ""]
            if scenario in plots.PLOTS and plots.drawn(newest, scenario):
                lines += [f"![{scenario}]({name}-{scenario}.svg)", ""]
            lines += [*_steps(runs), ""]
    if earlier:
        lines += [
            "## Earlier records",
            "",
            *(f"- [{record.machine.stem}.json]({record.machine.stem}.json)" for record in earlier),
            "",
        ]
    return "\n".join(lines)


def report(document: LoadDocument) -> str:
    """The tables for a terminal, without links."""
    lines = [*_machine(document), *(_capacity(document) if document.capacity else ()), *_steps(document.runs), ""]
    return "\n".join(lines)


def _machine(document: LoadDocument) -> list[str]:
    machine = document.machine
    pinned = "not pinned: there is only one CPU" if machine.usable_cpus == 1 else "not pinned"
    if document.service_cpus is not None:
        pinned = f"service on CPU {_list(document.service_cpus)}, Locust on {_list(document.generator_cpus or ())}"
    facts = {
        "CPU": f"{machine.cpu} ({machine.cpu_id}), {machine.usable_cpus} CPUs usable; {pinned}",
        **({"Service": f"{document.url}, already running"} if document.url else {}),
        "Kernel": f"`{document.kernel or machine.isa}`",
        "System": f"{machine.system}; load average at the start {machine.load_text}",
        "Versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "Commit": f"{machine.commit_text}, {machine.date}",
        "Sent": document.image,
        "Options": " ".join(document.settings) or "none",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items()), ""]


def _capacity(document: LoadDocument) -> list[str]:
    lines = [
        "### Capacity of one core",
        "",
        _CAPACITY,
        "",
        *(() if all(kind.turns_per_s for kind in document.capacity) else (_ONCE, "")),
        "| | model | requests/s per core | turns | ratio | CPU ms | idle p50 ms | idle p99 ms | memory MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    full = {kind.task: kind.requests_per_s for kind in document.capacity if kind.variant == "full"}
    for kind in document.capacity:
        ratio = f"{kind.requests_per_s / full[kind.task]:.2f}x" if kind.task in full else "-"
        name, ratio = (f"**{kind.name}**", f"**{ratio}**") if kind.variant == "binary" else (kind.name, ratio)
        lines.append(
            f"| {name} | `{kind.model}` | {kind.requests_per_s:.1f} | {_range(kind.turns_per_s)} | {ratio} | "
            f"{kind.cpu_ms:.2f} | {kind.idle_ms[50]:.2f} | {kind.idle_ms[99]:.2f} | {kind.resident_bytes / 1e6:.0f} |"
        )
    return [*lines, ""]


def _range(rates: Sequence[float]) -> str:
    """Lowest and highest rate, and their number."""
    return f"{min(rates):.1f} - {max(rates):.1f} ({len(rates)})" if rates else "1"


def _cores(document: LoadDocument) -> list[str]:
    lines = [
        "### Cores for a rate and a limit",
        "",
        _CORES,
        "",
    ]
    for task, asked in EXAMPLES.items():
        kinds = [kind for kind in document.capacity if kind.task == task]
        if kinds:
            lines += [
                f"| {task}: requests/s | p99 within ms | " + " | ".join(kind.variant for kind in kinds) + " |",
                "|---:|---:|" + "---:|" * len(kinds),
                *(f"| {rate} | {limit} | {_needs(document, kinds, rate, limit)} |" for rate, limit in asked),
                "",
            ]
    return lines


def _needs(document: LoadDocument, kinds: Sequence[Capacity], rate: float, limit: float) -> str:
    found = [answer(kind, rate, limit, calibration(document, kind.name)) for kind in kinds]
    return " | ".join(str(item.cores or "-") for item in found)


def _validation(document: LoadDocument) -> list[str]:
    found = list(checks(document))
    if not found:
        return []
    lines = [
        _VALIDATION,
        "",
        "| | requests/s | busy | p50 ms: model | measured | p99 ms: model | measured | model / measured |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {check.name} | {check.rate_per_s:.1f} | {check.utilisation:.0%} | {check.predicted_p50_ms:.1f} | "
        f"{check.measured_p50_ms:.1f} | {check.predicted_p99_ms:.1f} | {check.measured_p99_ms:.1f} | "
        f"{check.predicted_p99_ms / check.measured_p99_ms:.2f} |"
        for check in found
    ]
    return [*lines, ""]


def _steps(runs: Sequence[RunResult]) -> Iterator[str]:
    yield (
        "| | load | sent | answered/s | p50 ms | p90 ms | p99 ms | network p50 ms | refused (429) | failed | "
        "CPU ms per request | cores used | memory MB, growth |"
    )
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for run in runs:
        for step in run.steps:
            yield from _groups(run, step)


def _groups(run: RunResult, step: StepResult) -> Iterator[str]:
    load = f"{step.level:.1f}/s, {step.seconds:g} s"
    if run.loop == "closed":
        load = "1 user" if step.level == 1 else f"{step.level:.0f} users"
    for group in step.groups:
        whole = group.name == "all"
        latency = group.latency_ms
        times = [f"{value:.1f}" for value in (latency.p50, latency.p90, latency.p99)] if latency else ["-"] * 3
        cells = [
            run.title if whole else f"- {group.name}",
            load if whole else "",
            str(group.requests),
            f"{group.requests_per_s:.1f}",
            *times,
            _number(group.inference_p50_ms, ".2f"),
            str(group.refused),
            str(group.failed),
            _number(step.cpu_ms_per_request, ".2f") if whole else "",
            _number(step.cpu_cores, ".2f") if whole else "",
            _memory(step) if whole else "",
        ]
        yield f"| {' | '.join(cells)} |"


def _memory(step: StepResult) -> str:
    if step.resident_bytes is None or step.resident_growth_bytes is None:
        return "-"
    return f"{step.resident_bytes / 1e6:.0f}, +{step.resident_growth_bytes / 1e6:.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _list(cpus: Sequence[int]) -> str:
    return ", ".join(map(str, cpus))
