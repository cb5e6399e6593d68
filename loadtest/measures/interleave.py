"""Interleaved timing, preceded by a parity check.

The runs to compare take turns in one process, so that clock changes and busy neighbours affect all of them equally. A
run cannot be timed before its output has been compared with a reference: `interleave` only accepts `CheckedRun`
objects, which `check` creates.
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
    """A row's output disagrees with its reference, so the row is not timed."""


@dataclass(frozen=True)
class Run:
    """Something ready to be timed.

    Attributes:
        name: the row's name.
        engine: what computes it, shown in the row.
        call: performs one run on the prepared input.
        output: performs one run and returns the output.
    """

    name: str
    engine: str
    call: Callable[[], object]
    output: Callable[[], Output]


@dataclass(frozen=True)
class CheckedRun:
    """A run whose output has been compared with a reference; created by `check`."""

    run: Run
    parity: Parity


def check(
    run: Run, expected: Output, *, against: str, min_correlation: float, exact_operators: int | None = None
) -> CheckedRun:
    """Runs once and compares the output.

    Args:
        run: the run to check.
        expected: the reference's output.
        against: the reference's name, shown in the row.
        min_correlation: minimum correlation with the reference; 1 requires equality in every element.
        exact_operators: number of operators that an audit found exact, shown in the row.

    Raises:
        ParityError: the output has another shape, is not finite, or its correlation is too low.
    """
    output = run.output()
    if output.shape != expected.shape:
        raise ParityError(
            f"{run.name}: the output's shape is {list(output.shape)}, but {against} has {list(expected.shape)}."
        )
    if not np.isfinite(output).all():
        raise ParityError(f"{run.name}: the output is not finite.")
    difference = float(np.abs(output.astype(np.float64) - expected).max())
    # The correlation of equal constant outputs is undefined, but they agree.
    correlation = 1.0 if difference == 0 else float(np.corrcoef(output.ravel(), expected.ravel())[0, 1])
    agrees = difference == 0 if min_correlation >= 1 else correlation >= min_correlation  # False for NaN
    if not agrees:
        wanted = "equality" if min_correlation >= 1 else f"a correlation of at least {min_correlation:g}"
        raise ParityError(
            f"{run.name}: the output has a correlation of {correlation:.4f} with {against} (largest difference "
            f"{difference:.3g}); {wanted} is required."
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
        runs: the runs to time. In every round each has one turn; the order rotates.
        repetitions: number of rounds.
        settle: untimed runs at the start of each turn. The other runs evict a run's weights and activations from the
            caches, where a server under load would have them.
        each_round: called once per round, e.g. to probe the roofline at the same clock.

    Returns:
        Seconds of the timed runs, float64 [repetitions], by name.
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
    """Rows of one interleaved measurement: medians, spread, and ratios of medians.

    Args:
        runs: the timed runs, in the order of the rows.
        seconds: samples by name, as returned by `interleave`.
        baseline: name of the run that ratios refer to.
        threads: threads of every run.
        batch: batch size of every run.
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
    """Milliseconds, rounded to 10 ns, the clock's resolution."""
    return round(seconds * 1e3, 5)
