"""From recorded requests to a report by task and variant, with the machine that it was taken on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Sample = tuple[str, float, float | None, int]  # name, milliseconds, milliseconds of inference, status


@dataclass(frozen=True, slots=True)
class Row:
    """What one task and variant came to. Times are milliseconds as a client sees them.

    Attributes:
        name: Task and variant.
        requests: Answered in all.
        failures: Answered with anything but 200, or not at all.
        statuses: How often each status came; 0 is a connection that failed.
        requests_per_s: Successful ones.
        mean_ms: Of the successful ones, as are the rest.
        p50_ms: Half were faster.
        p90_ms: Nine in ten were faster.
        p99_ms: Ninety-nine in a hundred were faster.
        max_ms: The slowest.
        inference_p50_ms: Of the network's run alone, as the service measured it.
        server_cpu_ms: CPU time of the service for each request, everything included; None where it was not measured.
    """

    name: str
    requests: int
    failures: int
    statuses: dict[str, int]
    requests_per_s: float
    mean_ms: float | None
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    inference_p50_ms: float | None
    server_cpu_ms: float | None


def summarise(name: str, samples: Sequence[Sample], seconds: float, server_cpu_s: float | None = None) -> Row:
    """One row of the report.

    Args:
        name: Task and variant; samples of other names are left out.
        samples: Every request of a run.
        seconds: How long the run took.
        server_cpu_s: CPU seconds that the service spent on it.
    """
    own = [sample for sample in samples if sample[0] == name]
    good = [sample for sample in own if sample[3] == 200]
    times = np.array([sample[1] for sample in good])
    inference = np.array([sample[2] for sample in good if sample[2] is not None])

    def rounded(value: float) -> float:
        return round(float(value), 3)

    def percentile(values: np.ndarray, share: float) -> float | None:
        return rounded(np.percentile(values, share)) if len(values) else None

    return Row(
        name=name,
        requests=len(own),
        failures=len(own) - len(good),
        statuses={str(status): count for status, count in sorted(Counter(sample[3] for sample in own).items())},
        requests_per_s=rounded(len(good) / seconds),
        mean_ms=rounded(times.mean()) if len(times) else None,
        p50_ms=percentile(times, 50),
        p90_ms=percentile(times, 90),
        p99_ms=percentile(times, 99),
        max_ms=percentile(times, 100),
        inference_p50_ms=percentile(inference, 50),
        server_cpu_ms=rounded(1000 * server_cpu_s / len(good)) if server_cpu_s is not None and good else None,
    )


def as_markdown(document: dict[str, Any]) -> str:
    """The report for people: a table, and below it where it was taken."""
    columns = {
        "name": "task and variant",
        "requests": "requests",
        "failures": "failures",
        "requests_per_s": "requests/s",
        "p50_ms": "p50 ms",
        "p90_ms": "p90 ms",
        "p99_ms": "p99 ms",
        "inference_p50_ms": "inference p50 ms",
        "server_cpu_ms": "server CPU ms",
    }
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    for row in document["rows"]:
        cells = ["" if row[column] is None else str(row[column]) for column in columns]
        lines.append("| " + " | ".join(cells) + " |")
    machine = document["machine"]
    lines.append("")
    lines.append(
        f"{document['users']} users at a time, {document['seconds_each']:g} s each, Locust on the same machine. "
        f"{machine['cpu']}, {machine['usable_cpus']} CPUs, load {machine['load_1m']} at the start, kernel "
        f"{document['kernel']}, commit {machine['commit']}."
    )
    return "\n".join(lines)


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """JSON-ready rows."""
    return [asdict(row) for row in rows]
