"""How long requests take when they arrive at random: the queue of one core, computed from measured service times.

The model is M/G/1: requests arrive as a Poisson process, one core does one after the other in the order of their
arrival, and a request keeps the core busy for a time with the measured distribution. The time that it waits has the
transform of Pollaczek and Khinchine, W = (1 - rho) / (1 - rho R), where R is that of the residual of a service time, so
its whole distribution follows from the service times' by one Fourier transform: nothing is fitted.

Several cores are several such queues, each with its share of the arrivals: replicas behind a balancer that chooses
among them without regard to their queues. One that prefers the shorter queue does better, so the cores that follow are
enough rather than barely enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS_A_MEAN = 64  # resolution of the grid: cells for a mean service time
_REACH = (
    40.0  # the grid reaches so many mean service times / (1 - rho): the queue's tail is an exponential of that scale
)
_MAX_UTILISATION = 0.99

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sojourn:
    """The time from a request's arrival to its answer.

    Attributes:
        utilisation: share of its time that the core is busy, 0..1.
        step_ms: resolution.
        path_ms: that every request takes besides.
        cumulative: share of the requests that are through the core within 0, 1, 2, ... steps.
    """

    utilisation: float
    step_ms: float
    path_ms: float
    cumulative: Array

    def percentile(self, percent: float) -> float:
        """Milliseconds within which so many percent are answered."""
        cell = int(np.searchsorted(self.cumulative, percent / 100))
        return cell * self.step_ms + self.path_ms


@dataclass(frozen=True)
class Service:
    """What a request takes, milliseconds.

    Attributes:
        times_ms: that it keeps a core busy, at evenly spaced quantiles.
        path_ms: that it takes besides, in which the core does others: the way to the client and back.
    """

    times_ms: Array
    path_ms: float

    @classmethod
    def measured(cls, idle_ms: Sequence[float], requests_per_s: float) -> Service:
        """From what a load test measures.

        Args:
            idle_ms: quantiles of the latency with one request at a time: time in the core and on the way.
            requests_per_s: what a saturated core does: its inverse is the mean time in the core.
        """
        shape = np.asarray(idle_ms, np.float64)
        middles = (shape[1:] + shape[:-1]) / 2
        busy = 1000 / requests_per_s
        path = max(0.0, float(middles.mean()) - busy)
        times = np.maximum(middles - path, busy / 10)
        return cls(times * (busy / times.mean()), path)

    @property
    def busy_ms(self) -> float:
        """Mean time in the core."""
        return float(self.times_ms.mean())


def sojourn(service: Service, rate_per_s: float) -> Sojourn:
    """The distribution of the time to an answer of one core.

    Args:
        service: what a request takes.
        rate_per_s: arrivals at this core.

    Raises:
        ValueError: the core cannot do so many.
    """
    times_ms, mean = service.times_ms, service.busy_ms
    utilisation = rate_per_s * mean / 1000
    if not utilisation < 1:
        raise ValueError(f"{rate_per_s:g} requests/s of {mean:.2f} ms each are more than one core can do")
    step = mean / _CELLS_A_MEAN
    reach = max(times_ms.max() * 2, mean * _REACH) / (1 - utilisation)
    cells = 1 << math.ceil(math.log2(reach / step))
    # Both are rounded to the nearest multiple of the step, so that sums of many are not short of half a step each.
    in_core = np.bincount(np.rint(times_ms / step).astype(int), minlength=cells) / len(times_ms)
    residual = np.diff(_shorter(times_ms, (np.arange(cells + 1, dtype=np.float64) - 0.5) * step)) / mean
    service_t, residual_t = np.fft.rfft(in_core), np.fft.rfft(residual)
    waiting_t = (1 - utilisation) / (1 - utilisation * residual_t)
    total = np.fft.irfft(waiting_t * service_t, cells)
    return Sojourn(utilisation, step, service.path_ms, np.cumsum(total))


def _shorter(times_ms: Array, at_ms: Array) -> Array:
    """Mean of min(service time, t) for each t: its slope is the share of the services that take longer than t."""
    ordered = np.sort(times_ms)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    at_ms = np.maximum(at_ms, 0.0)
    below = np.searchsorted(ordered, at_ms, side="right")
    return np.asarray((sums[below] + (len(ordered) - below) * at_ms) / len(ordered))


def cores_needed(service: Service, rate_per_s: float, percent: float, limit_ms: float) -> int | None:
    """The fewest cores with which so many percent of the requests are answered in time.

    Args:
        service: what a request takes.
        rate_per_s: arrivals altogether.
        percent: of the requests.
        limit_ms: that they may take.

    Returns:
        The number of cores; None where no number is enough, because a request alone takes longer.
    """
    if float(np.percentile(service.times_ms, percent)) + service.path_ms > limit_ms:
        return None
    fewest = max(1, math.ceil(rate_per_s * service.busy_ms / 1000 / _MAX_UTILISATION))

    def enough(cores: int) -> bool:
        return sojourn(service, rate_per_s / cores).percentile(percent) <= limit_ms

    low, high = fewest - 1, fewest
    while not enough(high):
        low, high = high, high * 2
        if high > 1_000_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
