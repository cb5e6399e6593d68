"""Computes the results of a load test from what Locust recorded."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from loadtest.scenarios.drive import Run, Sample, Usage
from loadtest.scenarios.plan import Kind, Plan, Step
from loadtest.scenarios.schema import Capacity, Group, Latency, RunResult, Second, StepResult

#: Uncounted seconds at the start of a closed step, while its users start and the queue fills or drains.
SETTLE_S = 0.5


def summarise(plan: Plan, run: Run) -> RunResult:
    """The result of one run."""
    return RunResult(
        scenario=plan.scenario,
        title=plan.title,
        loop=plan.loop,
        mix={kind.name: share for kind, share in plan.mix},
        steps=tuple(_steps(plan, run)),
        seconds=tuple(_seconds(plan, run.samples)),
    )


def saturated_rate(result: RunResult) -> float:
    """Requests per second that the service answered in a run of `saturate`.

    Raises:
        ValueError: a request was not answered, so the measurement is not the service's capacity.
    """
    for step in result.steps:
        found = step.groups[0]
        if found.answered != found.requests:
            raise ValueError(
                f"{result.title}: {found.answered} of {found.requests} requests were answered (by status: "
                f"{found.statuses}), so the capacity is unknown: use fewer --users, or a longer queue in the service."
            )
    return result.steps[1].groups[0].requests_per_s


def capacity(plan: Plan, run: Run, model: str) -> Capacity:
    """The capacity of a core according to a run of `saturate`.

    Raises:
        ValueError: a request was not answered, or the service's usage is unknown.
    """
    ((kind, _),) = plan.mix
    idle, _ = _spans(plan)
    result = summarise(plan, run)
    rate, cost = saturated_rate(result), result.steps[1]
    if cost.cpu_ms_per_request is None or cost.resident_bytes is None:
        raise ValueError(f"{kind.name}: the service's CPU and memory were not sampled twice: use more --seconds.")
    alone = [sample.ms for sample in run.samples if idle[0] <= sample.due_s < idle[1]]
    quantiles = np.percentile(alone, np.arange(101))
    return Capacity(
        task=kind.task,
        variant=kind.variant,
        model=model,
        requests_per_s=rate,
        cpu_ms=cost.cpu_ms_per_request,
        idle_ms=tuple(_round(value) for value in quantiles),
        resident_bytes=cost.resident_bytes,
    )


def median_capacity(turns: Sequence[Capacity]) -> Capacity:
    """One capacity from several measurements of one kind: medians, the range of the rates, the highest memory."""
    rates = [turn.requests_per_s for turn in turns]
    idle = np.median([turn.idle_ms for turn in turns], axis=0)
    return turns[0].model_copy(
        update={
            "requests_per_s": _round(float(np.median(rates))),
            "turns_per_s": tuple(rates),
            "cpu_ms": _round(float(np.median([turn.cpu_ms for turn in turns]))),
            "idle_ms": tuple(_round(value) for value in idle),
            "resident_bytes": max(turn.resident_bytes for turn in turns),
        }
    )


def _spans(plan: Plan) -> list[tuple[float, float]]:
    """Start and end of the counted part of each step, seconds from the start of the plan."""
    spans, begin = [], 0.0
    for step in plan.steps:
        settle = min(SETTLE_S, step.seconds / 4) if plan.loop == "closed" else 0.0
        spans.append((begin + settle, begin + step.seconds))
        begin += step.seconds
    return spans


def _steps(plan: Plan, run: Run) -> Iterator[StepResult]:
    for step, (begin, end) in zip(plan.steps, _spans(plan), strict=True):
        yield _step(plan, step, run, begin, end)


def _step(plan: Plan, step: Step, run: Run, begin: float, end: float) -> StepResult:
    # Rates and the CPU time of a request are of what was answered in the span: an overloaded service also answers in it
    # what was due earlier, and later what is due in it. Closed loop: so is all else, since some requests are always in
    # flight at its end. Open loop: latencies and refusals are of the requests that were due in the span.
    ended = [sample for sample in run.samples if begin <= sample.due_s + sample.ms / 1000 < end]
    samples = ended if plan.loop == "closed" else [each for each in run.samples if begin <= each.due_s < end]
    kinds = [kind for kind, _ in plan.mix]
    groups = [_group("all", samples, ended, end - begin)]
    if len(kinds) > 1:
        groups += [_group(kind.name, _of(kind, samples), _of(kind, ended), end - begin) for kind in kinds]
    usage = _used(run, begin, end)
    cpu_s = _cpu(usage)
    answered = _answered(ended)
    late = [sample.late_ms for sample in samples]
    return StepResult(
        seconds=_round(end - begin),
        level=_round(step.level),
        groups=tuple(groups),
        cpu_ms_per_request=None if cpu_s is None or not answered else _round(1000 * cpu_s * (end - begin) / answered),
        cpu_cores=None if cpu_s is None else _round(cpu_s),
        resident_bytes=max((item.resident_bytes for item in usage), default=None),
        resident_growth_bytes=max(item.resident_bytes for item in usage) - usage[0].resident_bytes if usage else None,
        late_p99_ms=_round(max(0.0, float(np.percentile(late, 99)))) if late else 0.0,
    )


def _used(run: Run, begin: float, end: float) -> list[Usage]:
    """Usage samples between two times, plus the neighbouring ones if a busy service was too slow to report two."""
    at = [item.at_s - run.began_s for item in run.usage]
    first, last = bisect.bisect_left(at, begin), bisect.bisect_right(at, end)
    if last - first < 2:
        first, last = max(0, first - 1), last + 1
    return list(run.usage[first:last])


def _cpu(usage: Sequence[Usage]) -> float | None:
    """CPU seconds per second."""
    if len(usage) < 2:
        return None
    first, last = usage[0], usage[-1]
    return (last.cpu_s - first.cpu_s) / (last.at_s - first.at_s)


def _of(kind: Kind, samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.name == kind.name]


def _answered(samples: Sequence[Sample]) -> int:
    return sum(sample.status == 200 for sample in samples)


def _group(name: str, samples: Sequence[Sample], ended: Sequence[Sample], seconds: float) -> Group:
    good = [sample for sample in samples if sample.status == 200]
    refused = sum(sample.status == 429 for sample in samples)
    inference = [sample.inference_ms for sample in good if sample.inference_ms is not None]
    return Group(
        name=name,
        requests=len(samples),
        answered=len(good),
        refused=refused,
        failed=len(samples) - len(good) - refused,
        statuses={str(status): count for status, count in sorted(Counter(each.status for each in samples).items())},
        requests_per_s=_round(_answered(ended) / seconds),
        latency_ms=_latency([sample.ms for sample in good]),
        inference_p50_ms=_round(float(np.median(inference))) if inference else None,
    )


def _latency(times_ms: Sequence[float]) -> Latency | None:
    if not times_ms:
        return None
    p50, p90, p99 = (_round(float(value)) for value in np.percentile(times_ms, [50, 90, 99]))
    return Latency(mean=_round(float(np.mean(times_ms))), p50=p50, p90=p90, p99=p99, max=_round(max(times_ms)))


def _seconds(plan: Plan, samples: Sequence[Sample]) -> Iterator[Second]:
    for second in range(int(np.ceil(plan.seconds))):
        own = [sample for sample in samples if second <= sample.due_s < second + 1]
        latency = _latency([sample.ms for sample in own if sample.status == 200])
        yield Second(
            at_s=second,
            sent=len(own),
            answered=_answered(own),
            refused=sum(sample.status == 429 for sample in own),
            p50_ms=latency.p50 if latency else None,
            p99_ms=latency.p99 if latency else None,
        )


def _round(value: float) -> float:
    return round(float(value), 3)
