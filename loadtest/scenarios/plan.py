"""The scenarios of the load test: what is sent, when and how fast.

A scenario is a list of steps with a mix of requests. In a *closed* scenario, a number of users each send a request as
soon as the previous one is answered, which measures capacity. In an *open* scenario, requests arrive at random times
(Poisson) at a given rate whether or not earlier ones have been answered, as from many independent clients. Latency
counts from the arrival, so that an overloaded service cannot hide its delays by slowing down its clients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

ScenarioName = Literal["saturate", "steady", "ramp", "burst", "mixed", "ab"]
NAMES: tuple[ScenarioName, ...] = get_args(ScenarioName)

#: Description of each scenario, for help and reports.
MEANING: Mapping[ScenarioName, str] = {
    "saturate": "1 and then --users users without pauses: measures the capacity and the cost of a request",
    "steady": "Poisson arrivals at 50 and 80 % of capacity",
    "ramp": "users without pauses, their number increased step by step until the queue is full",
    "burst": "Poisson arrivals at 40 % of capacity, with two seconds at 250 % in between",
    "mixed": "Poisson arrivals at 60 % of capacity, three in four to classify and one to depth, all to one variant",
    "ab": "Poisson arrivals at 60 % of capacity, each image randomly to the 1-bit or the full-precision network",
}

SATURATING_USERS = 8
STEADY_SHARES = (0.5, 0.8)
STEADY_STEPS = 2.4  # length relative to other steps: a 99th percentile needs many requests
RAMP_USERS = (1, 2, 4, 8, 16, 32, 64, 96)
BURST_SHARES = ((0.4, 1.0), (2.5, 0.25), (0.4, 1.75))  # (fraction of capacity, fraction of the step's time)


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    Attributes:
        task: `classify` or `depth`.
        variant: `binary`, `reference` or `full`.
    """

    task: str
    variant: str

    @property
    def name(self) -> str:
        """Name in reports."""
        return f"{self.task} {self.variant}"


@dataclass(frozen=True)
class Step:
    """A period with constant load.

    Attributes:
        seconds: duration.
        level: users (closed) or requests per second (open).
    """

    seconds: float
    level: float


@dataclass(frozen=True)
class Plan:
    """One run of the load generator.

    Attributes:
        scenario: the scenario it belongs to.
        loop: `closed` or `open`.
        steps: the steps, in order.
        mix: kinds of requests with their shares, which add up to 1.
        seed: seed of the arrivals and of the choice of kinds.
        warm_up_s: uncounted requests before the first step of an open plan, at that step's level.
    """

    scenario: ScenarioName
    loop: Literal["closed", "open"]
    steps: tuple[Step, ...]
    mix: tuple[tuple[Kind, float], ...]
    seed: int = 1
    warm_up_s: float = 1.0

    @property
    def seconds(self) -> float:
        """Duration of all steps, without the warm-up."""
        return sum(step.seconds for step in self.steps)

    @property
    def title(self) -> str:
        """The kinds of requests that are sent."""
        return " + ".join(kind.name for kind, _ in self.mix)


def arrivals(steps: Sequence[Step], warm_up_s: float, rng: Random) -> Iterator[float]:
    """Times at which the requests of an open plan are due: a Poisson process with the rate of each step.

    The wait for the next arrival begins anew with each step, which such a process does not notice. A gap drawn at the
    old rate would take up the start of a burst.

    Args:
        steps: the steps; their levels are requests per second.
        warm_up_s: seconds before the first step, at its rate.
        rng: source of randomness.

    Yields:
        Seconds from the start of the first step; negative during the warm-up.
    """
    due_s, end_s = -warm_up_s, 0.0
    for step in steps:
        end_s += step.seconds
        while (due_s := due_s + rng.expovariate(step.level)) < end_s:
            yield due_s
        due_s = end_s


#: Requests per second that saturate the service, by kind, as measured by `saturate`.
Capacity = Mapping[Kind, float]


def saturate(kind: Kind, seconds: float, users: int = SATURATING_USERS) -> Plan:
    """One user, which measures the latency of the idle service, and then as many as saturate it."""
    return Plan("saturate", "closed", (Step(seconds, 1), Step(seconds, users)), ((kind, 1.0),))


def plans(
    name: ScenarioName, tasks: Sequence[str], variants: Sequence[str], capacity: Capacity, seconds: float
) -> Iterator[Plan]:
    """The runs of a scenario other than `saturate`.

    Args:
        name: name of the scenario.
        tasks: tasks to send requests to.
        variants: variants to request.
        capacity: capacity of each kind; rates are fractions of it.
        seconds: duration of a step.
    """
    kinds = [Kind(task, variant) for task in tasks for variant in variants]
    if name == "steady":
        for kind in kinds:
            steps = tuple(Step(STEADY_STEPS * seconds, share * capacity[kind]) for share in STEADY_SHARES)
            yield Plan(name, "open", steps, ((kind, 1.0),))
    elif name == "ramp":
        for kind in kinds:
            yield Plan(name, "closed", tuple(Step(seconds / 3, users) for users in RAMP_USERS), ((kind, 1.0),))
    elif name == "burst":
        for kind in kinds:
            steps = tuple(Step(seconds * time, share * capacity[kind]) for share, time in BURST_SHARES)
            yield Plan(name, "open", steps, ((kind, 1.0),))
    elif name == "mixed":
        if {"classify", "depth"} <= set(tasks):
            for variant in variants:
                yield _shared(
                    name, ((Kind("classify", variant), 0.75), (Kind("depth", variant), 0.25)), capacity, seconds
                )
    elif name == "ab" and {"binary", "full"} <= set(variants):
        for task in tasks:
            yield _shared(name, ((Kind(task, "binary"), 0.5), (Kind(task, "full"), 0.5)), capacity, seconds)


def _shared(name: ScenarioName, mix: tuple[tuple[Kind, float], ...], capacity: Capacity, seconds: float) -> Plan:
    """A plan at 60 % of the capacity for a mix; its kinds share one core, so their times add up."""
    seconds_a_request = sum(share / capacity[kind] for kind, share in mix)
    return Plan(name, "open", (Step(2 * seconds, 0.6 / seconds_a_request),), mix)
