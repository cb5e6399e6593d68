"""What a load test writes: docs/benchmarks/load/*.json are read back through these models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from loadtest.records.schema import Machine
from loadtest.scenarios.plan import ScenarioName

SCHEMA_VERSION: Literal[1] = 1

Ms = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Latency(_Part):
    """Milliseconds of the answered requests, as a client sees them."""

    mean: Ms
    p50: Ms
    p90: Ms
    p99: Ms
    max: Ms


class Group(_Part):
    """The requests of one kind in one step, or of all kinds together.

    Attributes:
        name: task and variant, or `all`.
        requests: sent.
        answered: with 200.
        refused: with 429, because a queue was full.
        failed: with anything else, or not at all.
        statuses: how often each status came; 0 is a connection that failed. None in records from before it was kept.
        requests_per_s: answered.
        latency_ms: of the answered ones; None where there were none.
        inference_p50_ms: median of the network's run, as the service says.
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
    """What came of one step.

    Attributes:
        seconds: its length.
        level: users (closed) or requests a second (open).
        groups: by kind, and of all together first.
        cpu_ms_per_request: CPU time of the service for each answered request, everything included.
        cpu_cores: CPU time of the service for each second.
        resident_bytes: most memory of the service in RAM.
        resident_growth_bytes: of that, what it grew by from the step's beginning.
        late_p99_ms: how late requests were sent: of the generator, not of the service.
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
    """One second of a run, for plots: by the moment that requests were due."""

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
    """What one core does of one kind of request.

    Attributes:
        task: of the requests.
        variant: likewise.
        model: that answered.
        requests_per_s: answered with the core saturated.
        cpu_ms: CPU time for each.
        idle_ms: quantiles 0, 1, ..., 100 % of the latency with one request at a time.
        resident_bytes: most memory of the process that serves every model, at saturation.
    """

    task: str
    variant: str
    model: str
    requests_per_s: Annotated[float, Field(gt=0)]
    cpu_ms: float
    idle_ms: Annotated[tuple[Ms, ...], Field(min_length=101, max_length=101)]
    resident_bytes: int

    @property
    def name(self) -> str:
        """Task and variant."""
        return f"{self.task} {self.variant}"


class LoadDocument(_Part):
    """All that one load test says.

    Attributes:
        machine: where it ran: Locust at least, the service unless `url` says where that was.
        url: of a service that ran already; None where one was started.
        kernel: of the service, as it says; None in records from before it was kept.
        service_cpus: that the service was pinned to; None where it was not.
        generator_cpus: likewise of Locust.
        settings: options of the service that were given.
        image: that was sent.
        capacity: by kind; empty unless the service had exactly one core and answered every request.
        runs: in order.
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
