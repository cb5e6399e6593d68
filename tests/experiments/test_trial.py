"""A pair's second run costs the client its time at the most, and never its answer."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.background import Background
from service.errors import OverloadedError
from service.experiments.assignment import Assignment
from service.experiments.declaration import Declaration
from service.experiments.observation import Observation
from service.experiments.trial import Trial
from service.metrics import Metrics
from service.scheduler import Deadline, Scheduler
from service.tasks import CLASSIFY
from tests.scheduler.conftest import make, tally  # noqa: F401  fixtures
from tests.scheduler.targets import Echo, hold, image, queued
from tests.waiting import until

PAIRED = Declaration.model_validate(
    {
        "name": "p",
        "task": "classify",
        "mode": "paired",
        "baseline": {"variant": "full"},
        "candidate": {"variant": "binary"},
    }
)


class Kept:
    """Stands in for the recorder."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def put(self, observation: Observation) -> None:
        self.observations.append(observation)


def handle(model: Echo) -> SimpleNamespace:
    return SimpleNamespace(model=model, card=SimpleNamespace(task="classify"), task=CLASSIFY)


@pytest.fixture(params=[0.03, 0.9], ids=["candidate first", "baseline first"])
def drawn(request, monkeypatch) -> None:
    """The order that each pair draws; never the 2 % of a hurry."""
    monkeypatch.setattr("service.experiments.trial.random.random", lambda: request.param)


def trial(scheduler: Scheduler, candidate: Echo, kept: Kept) -> Trial:
    assignment = Assignment(PAIRED, "r", PAIRED.baseline, handle(Echo()), handle(candidate))
    metrics = Metrics(CollectorRegistry()).experiments
    return Trial(assignment, scheduler, Background(scheduler, capacity=1), kept, metrics)


async def learn(scheduler: Scheduler, *targets: Echo) -> None:
    """Lets the scheduler know what the targets' runs take."""
    for target in targets:
        for _ in range(8):
            await scheduler.submit(target, image(0))


async def answered(made: Trial, target: Echo, seconds: float, images: int = 1) -> tuple[list[Any], float]:
    """The answers of the baseline to a request with a deadline, and the seconds until they were there."""
    begun = time.monotonic()
    outcomes = await made.submit_many(target, [image(7)] * images, Deadline.after(seconds))
    return [outcome.output[0] for outcome in outcomes], time.monotonic() - begun


def test_both_run_where_there_is_time(make, drawn):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(), Echo(), Echo(), Kept()

    async def go() -> None:
        await learn(scheduler, baseline, candidate)
        assert (await answered(trial(scheduler, candidate, kept), baseline, 10, images=3))[0] == [7, 7, 7]

    asyncio.run(go())
    assert candidate.batches[-3:] == [[7]] * 3
    assert [seen.agree for seen in kept.observations] == [True] * 3


def test_a_candidate_that_became_slow_is_given_up_in_time(make, drawn, monkeypatch):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(workers=2), Echo(), Echo(), Kept()
    submit_many, given = scheduler.submit_many, {}

    async def noted(target: Echo, images: list, deadline: Deadline) -> list:
        given[target] = deadline.at, time.monotonic()
        return await submit_many(target, images, deadline)

    async def go() -> float:
        await learn(scheduler, baseline, candidate)
        monkeypatch.setattr(scheduler, "submit_many", noted)
        candidate.go.clear()
        answers, seconds = await answered(trial(scheduler, candidate, kept), baseline, 2)
        candidate.go.set()
        assert answers == [7]
        return seconds

    begun = time.monotonic()
    assert 0.9 < asyncio.run(go()) < 2
    (whole, _), (half, asked) = given[baseline], given[candidate]
    assert begun <= 2 * half - whole <= asked, "half of the time that is left then"
    assert [seen.agree for seen in kept.observations] == [None]


def test_a_candidate_that_has_not_run_yet_does_not_take_the_only_worker_first(make, drawn):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(workers=1), Echo(), Echo(), Kept()

    async def go() -> None:
        candidate.go.clear()
        answers, _ = await answered(trial(scheduler, candidate, kept), baseline, 1)
        candidate.go.set()
        assert answers == [7]

    asyncio.run(go())


@pytest.mark.parametrize("images", [1, 6])
def test_a_deadline_that_is_too_short_for_both_runs_the_baseline_alone(make, drawn, images):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(queue_size=20), Echo(), Echo(), Kept()

    async def go() -> None:
        await learn(scheduler, baseline, candidate)
        scheduler._lanes[candidate].cost_s = 3.0 / images  # all of them: more than half of the time, less than all
        ran = len(candidate.batches)
        answers, _ = await answered(trial(scheduler, candidate, kept), baseline, 5, images)
        assert answers == [7] * images
        assert len(candidate.batches) == ran

    asyncio.run(go())
    assert [seen.agree for seen in kept.observations] == [None] * images


def test_now_and_then_a_slow_candidate_is_tried_again_after_the_answer(make, monkeypatch):  # noqa: F811  # a fixture
    monkeypatch.setattr("service.experiments.trial.random.random", lambda: 0.0)
    scheduler, baseline, candidate, kept = make(), Echo(), Echo(), Kept()

    async def go() -> None:
        await learn(scheduler, baseline, candidate)
        scheduler._lanes[candidate].cost_s = 100.0
        candidate.go.clear()
        candidate.began.clear()
        answers, _ = await answered(trial(scheduler, candidate, kept), baseline, 3)
        assert answers == [7]
        assert candidate.began.is_set()
        candidate.go.set()

    asyncio.run(go())


def test_a_candidate_that_fails_in_a_way_nobody_expects_costs_no_answer(make, drawn, caplog):  # noqa: F811  a fixture
    scheduler, baseline, candidate, kept = make(), Echo(), Echo(), Kept()

    async def go() -> None:
        await learn(scheduler, baseline, candidate)
        candidate.failure = MemoryError("no room for the batch")
        assert (await answered(trial(scheduler, candidate, kept), baseline, 10))[0] == [7]

    asyncio.run(go())
    assert [seen.agree for seen in kept.observations] == [None]
    assert "no room for the batch" in caplog.text


def test_an_idle_service_admits_more_images_than_the_queue_holds(make, drawn):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(queue_size=3), Echo(), Echo(), Kept()

    async def go() -> None:
        await learn(scheduler, baseline, candidate)
        assert (await answered(trial(scheduler, candidate, kept), baseline, 30, images=9))[0] == [7] * 9

    asyncio.run(go())
    assert [seen.agree for seen in kept.observations] == [True] * 9


def test_a_request_is_refused_before_either_arm_runs_any_of_its_images(make, drawn):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(queue_size=3), Echo(), Echo(), Kept()

    async def go() -> None:
        await learn(scheduler, baseline, candidate)
        ran = len(candidate.batches)
        baseline.began.clear()
        held = [await hold(scheduler, baseline), *await queued(scheduler, scheduler.submit(baseline, image(8)))]
        with pytest.raises(OverloadedError):
            await trial(scheduler, candidate, kept).submit_many(baseline, [image(7)] * 3)
        assert scheduler.waiting() == 1
        baseline.go.set()
        await asyncio.gather(*held)
        assert len(candidate.batches) == ran
        assert [7] not in baseline.batches

    asyncio.run(go())


def test_all_images_of_a_request_are_paired_or_none(make, monkeypatch):  # noqa: F811  # a fixture
    scheduler, baseline, candidate, kept = make(), Echo(), Echo(), Kept()
    made = trial(scheduler, candidate, kept)
    draws = iter([0.1, 0.9, 0.9, 0.9])
    monkeypatch.setattr("service.experiments.assignment.random.random", lambda: next(draws, 0.9))
    made.assignment = replace(made.assignment, declaration=PAIRED.model_copy(update={"sample": 0.5}))
    asyncio.run(made.submit_many(baseline, [image(7)] * 4))
    assert [seen.agree for seen in kept.observations] == [True] * 4


def test_a_mirrored_image_whose_run_is_cut_off_by_the_end_is_recorded_without_it(make):  # noqa: F811  a fixture
    scheduler, baseline, candidate, kept = make(workers=2), Echo(), Echo(), Kept()
    shadow = PAIRED.model_copy(update={"mode": "shadow"})
    metrics = Metrics(CollectorRegistry())

    async def go() -> None:
        background = Background(scheduler, capacity=1)
        background.start()
        assignment = Assignment(shadow, "r", shadow.baseline, handle(baseline), handle(candidate))
        made = Trial(assignment, scheduler, background, kept, metrics.experiments)
        candidate.go.clear()
        await made.submit_many(baseline, [image(7)])
        assert await asyncio.to_thread(candidate.began.wait, 10)
        await background.close()
        candidate.go.set()

    asyncio.run(go())
    assert [(seen.agree, seen.baseline_s is not None) for seen in kept.observations] == [(None, True)]
    name = "bireal_experiment_shadow_total"
    assert metrics.registry.get_sample_value(name, {"experiment": "p", "outcome": "dropped"}) == 1


def test_a_mirrored_run_that_fails_in_a_way_nobody_expects_is_counted(make):  # noqa: F811  a fixture
    scheduler, baseline, candidate, kept = make(), Echo(), Echo(), Kept()
    shadow = PAIRED.model_copy(update={"mode": "shadow"})
    metrics = Metrics(CollectorRegistry())
    candidate.failure = MemoryError("no room for the batch")

    async def go() -> None:
        background = Background(scheduler, capacity=1)
        background.start()
        assignment = Assignment(shadow, "r", shadow.baseline, handle(baseline), handle(candidate))
        await Trial(assignment, scheduler, background, kept, metrics.experiments).submit_many(baseline, [image(7)])
        await until(lambda: kept.observations)
        await background.close()

    asyncio.run(go())
    assert [(seen.agree, seen.baseline_s is not None) for seen in kept.observations] == [(None, True)]
    name = "bireal_experiment_shadow_total"
    assert metrics.registry.get_sample_value(name, {"experiment": "p", "outcome": "failed"}) == 1
