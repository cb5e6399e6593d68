"""The document written by a load test; docs/benchmarks/load/*.json are validated with these models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loadtest.records.schema import Machine
from loadtest.scenarios.plan import ScenarioName

SCHEMA_VERSION: Literal[1] = 1

Ms = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Latency(_Part):
    """Client-side latency of the answered requests, milliseconds."""

    mean: Ms
    p50: Ms
    p90: Ms
    p99: Ms
    max: Ms


class Group(_Part):
    """The requests of one kind in one step, or of all kinds together.

    Attributes:
        name: task and variant, or `all`.
        requests: requests due in the step (open), or whose responses ended in it (closed); so are the other counts.
        answered: requests answered with 200.
        refused: requests answered with 429, because a queue was full.
        failed: requests answered with anything else, or not at all.
        statuses: number of responses by status; 0 is a failed connection. None in older records.
        requests_per_s: responses with 200 that ended in the step, per second; see `LoadDocument.rates_by`.
        latency_ms: latency of the answered requests; None if there are none.
        inference_p50_ms: median time of the network's run, as reported by the service.
    """

    name: str
    requests: int
    answered: int
    refused: int
    failed: int
    statuses: dict[str, int] | None = None
    requests_per_s: float
    latency_ms: Latency | None = None
    inference_p50_ms: Ms | None = None


class StepResult(_Part):
    """The result of one step.

    Attributes:
        seconds: its duration.
        level: users (closed) or requests per second (open).
        groups: all requests together first, then by kind.
        cpu_ms_per_request: total CPU time of the service per response with 200 that ended in the step.
        cpu_cores: CPU time of the service per second.
        resident_bytes: maximum resident memory of the service.
        resident_growth_bytes: growth to that maximum since the start of the step.
        late_p99_ms: 99th percentile of the load generator's delay in sending requests.
    """

    seconds: float
    level: float
    groups: tuple[Group, ...]
    cpu_ms_per_request: float | None = None
    cpu_cores: float | None = None
    resident_bytes: int | None = None
    resident_growth_bytes: int | None = None
    late_p99_ms: Ms


class Second(_Part):
    """One second of a run, for plots; requests are assigned to the second in which they were due."""

    at_s: int
    sent: int
    answered: int
    refused: int
    p50_ms: Ms | None = None
    p99_ms: Ms | None = None


class RunResult(_Part):
    """One run of a scenario."""

    scenario: ScenarioName
    title: str
    loop: Literal["closed", "open"]
    mix: dict[str, float]
    steps: tuple[StepResult, ...]
    seconds: tuple[Second, ...]


class Capacity(_Part):
    """Capacity of one core for one kind of request.

    Attributes:
        task: task of the requests.
        variant: variant of the requests.
        model: the model that answered.
        requests_per_s: requests answered per second with the core saturated, median of the turns.
        turns_per_s: that rate in each turn; empty in older records, which measured once.
        cpu_ms: CPU time per request, median of the turns.
        idle_ms: quantiles 0, 1, ..., 100 % of the latency with one request at a time, each the median of the turns.
        resident_bytes: maximum memory of the process, which serves every model, at saturation.
    """

    task: str
    variant: str
    model: str
    requests_per_s: Annotated[float, Field(gt=0)]
    turns_per_s: tuple[float, ...] = ()
    cpu_ms: float
    idle_ms: Annotated[tuple[Ms, ...], Field(min_length=101, max_length=101)]
    resident_bytes: int

    @property
    def name(self) -> str:
        """Task and variant."""
        return f"{self.task} {self.variant}"


class LoadDocument(_Part):
    """The complete result of one load test.

    Attributes:
        machine: the machine of Locust, and of the service unless `url` is given.
        url: address of a service that was already running; None if it was started by the load test.
        kernel: the operator's kernel as reported by the service; None in older records.
        service_cpus: CPUs that the service was pinned to; None if it was not pinned.
        generator_cpus: CPUs that Locust was pinned to; None if it was not pinned.
        settings: options passed to the service.
        image: the image that was sent.
        capacity: capacity by kind; empty unless the service had exactly one core and answered every request.
        runs: results of the runs, in order.
        rates_by: the answers that the rates and CPU times of open steps count: those that ended in the step
            (`ended`), or, in older records, those to requests that were due in it (`due`), whenever they ended.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    machine: Machine
    url: str | None = None
    kernel: str | None = None
    service_cpus: tuple[int, ...] | None = None
    generator_cpus: tuple[int, ...] | None = None
    settings: tuple[str, ...]
    image: str
    capacity: tuple[Capacity, ...]
    runs: tuple[RunResult, ...]
    rates_by: Literal["due", "ended"] = "due"


class RecordError(Exception):
    """A file among the records is none; the message says which, and why."""


def recorded(folder: Path) -> list[LoadDocument]:
    """All records of a folder, newest first.

    Raises:
        RecordError: a JSON file of the folder is not a record.
        OSError: a file cannot be read.
    """
    found = []
    for path in folder.glob("*.json"):
        try:
            found.append(LoadDocument.model_validate_json(path.read_text()))
        except ValidationError as error:
            raise RecordError(f"{path} is not the record of a load test: {error}") from error
    return sorted(found, key=lambda document: document.machine.date, reverse=True)
