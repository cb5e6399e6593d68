"""What is sent, when and how fast: the scenarios of the load test.

A scenario is a list of steps with a mix of requests. In a *closed* one, so many users each send a request as soon as
the one before is answered; it finds what a service can do. In an *open* one, requests arrive at random (Poisson) at a
rate, whether or not those before them are answered, as from many independent clients; its latencies count from the
moment of arrival, so that a service that falls behind cannot hide it by slowing its clients down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

ScenarioName = Literal["saturate", "steady", "ramp", "burst", "mixed", "ab"]
NAMES: tuple[ScenarioName, ...] = get_args(ScenarioName)

#: What each scenario is for, for the report.
MEANING: Mapping[ScenarioName, str] = {
    "saturate": "as much as it takes: 1 and then --users users without a pause; gives capacity and a request's cost",
    "steady": "Poisson arrivals at 50 and 80 % of capacity",
    "ramp": "users added step by step, without a pause between their requests, until the queue is full",
    "burst": "Poisson arrivals at 40 % of capacity, with two seconds at 250 % in between",
    "mixed": "Poisson arrivals at 60 % of capacity, three in four to classify and one to depth, all by one variant",
    "ab": "Poisson arrivals at 60 % of capacity, each image to the 1-bit or the full-precision network by lot",
}

SATURATING_USERS = 8
STEADY_SHARES = (0.5, 0.8)
STEADY_STEPS = 2.4  # of a step elsewhere: a 99th percentile needs many requests
RAMP_USERS = (1, 2, 4, 8, 16, 32, 64, 96)
BURST_SHARES = ((0.4, 1.0), (2.5, 0.25), (0.4, 1.75))  # of capacity, and of the step's time


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
        """As in every report."""
        return f"{self.task} {self.variant}"


@dataclass(frozen=True)
class Step:
    """A stretch of time with one load.

    Attributes:
        seconds: how long.
        level: users (closed) or requests a second (open).
    """

    seconds: float
    level: float


@dataclass(frozen=True)
class Plan:
    """One run of the load generator.

    Attributes:
        scenario: what it belongs to.
        loop: `closed` or `open`.
        steps: in order.
        mix: kinds of requests with their shares, which add up to 1.
        seed: of the arrivals and of the lot.
        warm_up_s: before the first step of an open one: at its level, sent and not counted.
    """

    scenario: ScenarioName
    loop: Literal["closed", "open"]
    steps: tuple[Step, ...]
    mix: tuple[tuple[Kind, float], ...]
    seed: int = 1
    warm_up_s: float = 1.0

    @property
    def seconds(self) -> float:
        """Of all steps, without the warm-up."""
        return sum(step.seconds for step in self.steps)

    @property
    def title(self) -> str:
        """What is sent, in words."""
        return " + ".join(kind.name for kind, _ in self.mix)


#: Requests a second that saturate one service, by kind, as measured by `saturate`.
Capacity = Mapping[Kind, float]


def saturate(kind: Kind, seconds: float, users: int = SATURATING_USERS) -> Plan:
    """One user, whose latency is that of an idle service, and then as many as keep it busy."""
    return Plan("saturate", "closed", (Step(seconds, 1), Step(seconds, users)), ((kind, 1.0),))


def plans(
    name: ScenarioName, tasks: Sequence[str], variants: Sequence[str], capacity: Capacity, seconds: float
) -> Iterator[Plan]:
    """The runs of a scenario other than `saturate`.

    Args:
        name: of the scenario.
        tasks: to send to.
        variants: to ask for.
        capacity: of each kind, which the rates are shares of.
        seconds: of a step.
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
    """At 60 % of what a service can do of the mix: its kinds share one core, so their times add up."""
    seconds_a_request = sum(share / capacity[kind] for kind, share in mix)
    return Plan(name, "open", (Step(2 * seconds, 0.6 / seconds_a_request),), mix)
