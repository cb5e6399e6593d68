"""Latency of requests that arrive at random: the queue of one core, computed from measured service times.

The model is M/G/1: requests arrive as a Poisson process, one core processes them in the order of their arrival, and
each occupies the core for a time with the measured distribution. The waiting time has the Pollaczek-Khinchine transform
W = (1 - rho) / (1 - rho R), where R is the transform of the residual service time. The whole distribution thus follows
from that of the service times by a Fourier transform, without any fitting.

Several cores are several such queues that share the arrivals: replicas behind a balancer that ignores queue lengths. A
balancer that prefers shorter queues does better, so the resulting number of cores is a conservative estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS_A_MEAN = 64  # resolution of the grid: cells per mean service time
_REACH = 40.0  # extent of the grid in units of mean service time / (1 - rho), the scale of the queue's exponential tail
_MAX_UTILISATION = 0.99

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sojourn:
    """Distribution of the time from a request's arrival to its response.

    Attributes:
        utilisation: fraction of time that the core is busy, 0..1.
        step_ms: resolution.
        path_ms: additional time of every request outside the core.
        cumulative: fraction of the requests that leave the core within 0, 1, 2, ... steps.
    """

    utilisation: float
    step_ms: float
    path_ms: float
    cumulative: Array

    def percentile(self, percent: float) -> float:
        """Milliseconds within which ``percent`` of the requests are answered."""
        cell = int(np.searchsorted(self.cumulative, percent / 100))
        return cell * self.step_ms + self.path_ms


@dataclass(frozen=True)
class Service:
    """Time of a request, milliseconds.

    Attributes:
        times_ms: time in the core, at evenly spaced quantiles.
        path_ms: additional time in which the core is free for other requests, such as the network path.
    """

    times_ms: Array
    path_ms: float

    @classmethod
    def measured(cls, idle_ms: Sequence[float], requests_per_s: float) -> Service:
        """Derives the times from a load test.

        Args:
            idle_ms: quantiles of the latency with one request at a time, i.e. time in the core and outside.
            requests_per_s: throughput of a saturated core, the inverse of the mean time in the core.
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
    """The distribution of the response time of one core.

    Args:
        service: time of a request.
        rate_per_s: arrival rate at this core.

    Raises:
        ValueError: the rate exceeds the capacity of the core.
    """
    times_ms, mean = service.times_ms, service.busy_ms
    utilisation = rate_per_s * mean / 1000
    if not utilisation < 1:
        raise ValueError(f"{rate_per_s:g} requests/s of {mean:.2f} ms each exceed the capacity of one core")
    step = mean / _CELLS_A_MEAN
    reach = max(times_ms.max() * 2, mean * _REACH) / (1 - utilisation)
    cells = 1 << math.ceil(math.log2(reach / step))
    # Both are rounded to the nearest multiple of the step; rounding down would bias sums by half a step per term.
    in_core = np.bincount(np.rint(times_ms / step).astype(int), minlength=cells) / len(times_ms)
    residual = np.diff(_shorter(times_ms, (np.arange(cells + 1, dtype=np.float64) - 0.5) * step)) / mean
    service_t, residual_t = np.fft.rfft(in_core), np.fft.rfft(residual)
    waiting_t = (1 - utilisation) / (1 - utilisation * residual_t)
    total = np.fft.irfft(waiting_t * service_t, cells)
    return Sojourn(utilisation, step, service.path_ms, np.cumsum(total))


def _shorter(times_ms: Array, at_ms: Array) -> Array:
    """Mean of min(service time, t) for each t; its slope is the fraction of service times longer than t."""
    ordered = np.sort(times_ms)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    at_ms = np.maximum(at_ms, 0.0)
    below = np.searchsorted(ordered, at_ms, side="right")
    return np.asarray((sums[below] + (len(ordered) - below) * at_ms) / len(ordered))


def cores_needed(service: Service, rate_per_s: float, percent: float, limit_ms: float) -> int | None:
    """The smallest number of cores that answer ``percent`` of the requests within a limit.

    Args:
        service: time of a request.
        rate_per_s: total arrival rate.
        percent: percentage of the requests.
        limit_ms: limit on their response time.

    Returns:
        The number of cores; None if no number is enough, because a single request takes longer.
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
