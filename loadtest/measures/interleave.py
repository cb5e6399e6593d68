"""Interleaved timing with a parity check in front.

What is compared runs in turns in one process, so that a machine's change of clock or a busy neighbour hits all alike,
and nothing can be timed before its output was compared with a reference: `interleave` takes `CheckedRun` only, and
`check` is what makes one.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from loadtest.records.schema import Parity, Row

Output = NDArray[np.float32]
Samples = NDArray[np.float64]


class ParityError(RuntimeError):
    """A row's output disagrees with its reference: it is not timed."""


@dataclass(frozen=True)
class Run:
    """Something ready to be timed.

    Attributes:
        name: the row's name.
        engine: what computes it, for the row.
        call: one run on the prepared input.
        output: one run that returns the output.
    """

    name: str
    engine: str
    call: Callable[[], object]
    output: Callable[[], Output]


@dataclass(frozen=True)
class CheckedRun:
    """A run whose output was compared with a reference; made by `check`."""

    run: Run
    parity: Parity


def check(
    run: Run, expected: Output, *, against: str, min_correlation: float, exact_operators: int | None = None
) -> CheckedRun:
    """Runs once and compares.

    Args:
        run: what to check.
        expected: the reference's output.
        against: the reference's name, for the row.
        min_correlation: least correlation with it; 1 demands equality in every element.
        exact_operators: operators that an audit found exact, for the row.

    Raises:
        ParityError: the output has another shape or is not finite, or it correlates less than that.
    """
    output = run.output()
    if output.shape != expected.shape:
        raise ParityError(f"{run.name}: its output is {list(output.shape)}, {against} has {list(expected.shape)}.")
    if not np.isfinite(output).all():
        raise ParityError(f"{run.name}: its output is not finite.")
    difference = float(np.abs(output.astype(np.float64) - expected).max())
    # Equal constant outputs, which have no correlation, agree all the same.
    correlation = 1.0 if difference == 0 else float(np.corrcoef(output.ravel(), expected.ravel())[0, 1])
    agrees = difference == 0 if min_correlation >= 1 else correlation >= min_correlation  # NaN does not agree
    if not agrees:
        wanted = "equality" if min_correlation >= 1 else f"a correlation of at least {min_correlation:g}"
        raise ParityError(
            f"{run.name}: its output correlates {correlation:.4f} with {against} (largest difference "
            f"{difference:.3g}); {wanted} is expected."
        )
    parity = Parity(
        against=against, correlation=correlation, max_difference=difference, exact_operators=exact_operators
    )
    return CheckedRun(run, parity)


def interleave(
    runs: Sequence[CheckedRun], repetitions: int, *, settle: int = 1, each_round: Callable[[], object] | None = None
) -> dict[str, Samples]:
    """Times runs in turns.

    Args:
        runs: what to time; a round gives each its turn, starting with another one each time.
        repetitions: rounds.
        settle: untimed runs at the start of each turn: after its neighbours' turns a run finds its weights and
            activations out of the caches, where a server under load would have them in.
        each_round: called once a round, such as to probe the roofline at the same clock.

    Returns:
        Seconds of each timed run, float64 [repetitions], by name.
    """
    samples: dict[str, list[int]] = {checked.run.name: [] for checked in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(repetitions):
            if each_round is not None:
                each_round()
            for turn in range(len(runs)):
                run = runs[(number + turn) % len(runs)].run
                for _ in range(settle):
                    run.call()
                start = perf_counter_ns()
                run.call()
                samples[run.name].append(perf_counter_ns() - start)
    finally:
        if collecting:
            gc.enable()
    return {name: np.asarray(values, np.float64) / 1e9 for name, values in samples.items()}


def summarise(
    runs: Sequence[CheckedRun], seconds: Mapping[str, Samples], *, baseline: str, threads: int, batch: int
) -> list[Row]:
    """Rows of one interleaved measurement: medians, spread, and the ratio of medians.

    Args:
        runs: what was timed, in the order of the rows.
        seconds: samples of each by name, as `interleave` returns them.
        baseline: name of the run that ratios refer to.
        threads: of every run.
        batch: of every run.
    """
    reference = float(np.median(seconds[baseline]))
    rows = []
    for checked in runs:
        samples = seconds[checked.run.name]
        first, median, third = (float(v) for v in np.quantile(samples, (0.25, 0.5, 0.75)))
        rows.append(
            Row(
                name=checked.run.name,
                threads=threads,
                batch=batch,
                median_ms=_milliseconds(median),
                ratio_vs_ort_fp32=round(reference / median, 4),
                p25_ms=_milliseconds(first),
                p75_ms=_milliseconds(third),
                min_ms=_milliseconds(float(samples.min())),
                n=len(samples),
                baseline=baseline,
                engine=checked.run.engine,
                parity=checked.parity,
            )
        )
    return rows


def _milliseconds(seconds: float) -> float:
    """Rounded to a microsecond's hundredth: the clock tells no more."""
    return round(seconds * 1e3, 5)
