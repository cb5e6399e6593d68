"""The queue of one core: against closed forms, and against a simulation of the queue itself."""

import math

import numpy as np
import pytest

from loadtest.scenarios.queueing import Service, cores_needed, sojourn


def service(times, path_ms=0.0):
    return Service(np.asarray(times, np.float64), path_ms)


def test_what_the_saturated_core_does_not_take_is_on_the_way():
    idle = [10 + quantile / 10 for quantile in range(101)]
    found = Service.measured(idle, 80)
    assert len(found.times_ms) == 100
    assert found.busy_ms == pytest.approx(12.5)
    assert found.path_ms == pytest.approx(2.5)
    assert found.times_ms[-1] - found.times_ms[0] == pytest.approx(9.9)  # the shape is that of the idle latency
    assert sojourn(found, 1e-6).percentile(50) == pytest.approx(15, rel=0.02)


def test_a_core_that_does_more_than_its_latency_says_overlaps_requests():
    found = Service.measured([10.0] * 101, 50)
    assert (found.busy_ms, found.path_ms) == (20, 0)


@pytest.mark.parametrize("busy", [0.2, 0.5, 0.8, 0.95])
def test_exponential_services_give_the_exponential_sojourn_of_mm1(busy):
    times = -10 * np.log(1 - (np.arange(4000) + 0.5) / 4000)  # mean 10 ms
    found = sojourn(service(times), 100 * busy)
    assert found.utilisation == pytest.approx(busy, rel=1e-3)
    for percent in (50, 90, 99):
        assert found.percentile(percent) == pytest.approx(-10 / (1 - busy) * math.log(1 - percent / 100), rel=0.02)


@pytest.mark.parametrize("busy", [0.3, 0.7, 0.9])
def test_the_mean_is_that_of_pollaczek_and_khinchine(busy, rng):
    times = rng.gamma(4, 2.0, 500)
    rate = busy / times.mean()
    found = sojourn(service(times), 1000 * rate)
    mean = float(np.sum(1 - found.cumulative)) * found.step_ms
    assert mean == pytest.approx(times.mean() + rate * (times**2).mean() / (2 * (1 - busy)), rel=0.01)


def test_the_whole_distribution_is_that_of_a_simulated_queue(rng):
    times = rng.choice([3.0, 4.0, 30.0], 300)  # far from exponential
    rate = 0.7 / times.mean()
    services = rng.choice(times, 400_000)
    gaps = rng.exponential(1 / rate, services.size)
    steps = np.cumsum(np.concatenate([[0.0], services[:-1] - gaps[1:]]))
    waits = steps - np.minimum.accumulate(np.minimum(steps, 0))
    found = sojourn(service(times), 1000 * rate)
    for percent in (50, 90, 99):
        assert found.percentile(percent) == pytest.approx(np.percentile(waits + services, percent), rel=0.08)


def test_more_than_a_core_can_do():
    with pytest.raises(ValueError, match="exceed the capacity of one core"):
        sojourn(service(np.full(100, 10.0)), 100)


def test_the_fewest_cores():
    times = service(np.linspace(8, 12, 100), path_ms=1)
    for rate, limit in ((50, 40), (500, 40), (500, 15), (1000, 200)):
        cores = cores_needed(times, rate, 99, limit)
        assert cores is not None
        assert sojourn(times, rate / cores).percentile(99) <= limit
        fewer = rate / max(cores - 1, 1e-9)
        assert fewer * times.busy_ms / 1000 >= 0.99 or sojourn(times, fewer).percentile(99) > limit


def test_no_number_of_cores_makes_one_request_faster():
    assert cores_needed(service(np.linspace(8, 12, 100)), 10, 99, 11) is None
    assert cores_needed(service(np.linspace(8, 12, 100), path_ms=3), 10, 99, 14) is None
