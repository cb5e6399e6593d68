"""The statistics do what they promise, shown by simulation: coverage of intervals, false alarms, and power.

Each simulation prints its seed through the `seed` fixture's message on failure (BIREAL_TEST_SEED repeats it). Bounds on
a simulated share p of N runs leave 4 standard errors, sqrt(p (1 - p) / N): one false failure in 30,000 runs of a test.
"""

import numpy as np
import pytest
from scipy import optimize, special
from scipy import stats as scipy_stats

from service import statistics as s

RUNS = 4000


def slack(share: float, runs: int) -> float:
    return 4 * float(np.sqrt(share * (1 - share) / runs))


# --- against known values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (1, 1), (499, 1000)])
def test_clopper_pearson_is_scipys(k: int, n: int) -> None:
    expected = scipy_stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert s.proportion(k, n) == pytest.approx((k / n, expected.low, expected.high), abs=1e-9)


def test_nothing_seen_says_nothing() -> None:
    assert s.proportion(0, 0)[1:] == (0.0, 1.0)
    assert np.isnan(s.proportion(0, 0).estimate)
    assert s.paired_difference(0, 0, 0)[1:] == (-1.0, 1.0)
    assert s.unpaired_difference(0, 0, 3, 4)[1:] == (-1.0, 1.0)
    assert s.mcnemar(0, 0) == 1.0
    assert s.fisher(0, 0, 1, 2) == 1.0
    assert s.e_value(0, 0) == 1.0
    assert s.latency_ratio([], [])[1:] == (0.0, float("inf"))
    assert s.latency_ratio([2.0], [1.0]) == (2.0, 0.0, float("inf"))
    assert s.unpaired_latency_ratio([1.0], [2.0])[1:] == (0.0, float("inf"))
    assert s.mean([])[1:] == (float("-inf"), float("inf"))


@pytest.mark.parametrize(("x", "y", "n"), [(12, 2, 50), (1, 7, 44), (0, 5, 300)])
def test_paired_difference_inverts_the_score_test(x: int, y: int, n: int) -> None:
    """At either end the score statistic is +-1.96, with the restricted likelihood maximised numerically."""
    found = s.paired_difference(x, y, n)
    for delta, z in ((found.lower, 1.959964), (found.upper, -1.959964)):

        def log_likelihood(q: float, delta: float = delta) -> float:
            return float(
                special.xlogy(x, q + delta) + special.xlogy(y, q) + special.xlogy(n - x - y, 1 - 2 * q - delta)
            )

        low, high = max(0.0, -delta), (1 - delta) / 2
        q = optimize.minimize_scalar(
            lambda q: -log_likelihood(q), bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        score = (x - y - n * delta) / np.sqrt(n * (2 * q + delta * (1 - delta)))
        assert score == pytest.approx(z, abs=2e-3)


def test_tango_without_discordant_pairs_is_the_closed_form() -> None:
    z2 = 1.959964**2
    assert s.paired_difference(0, 0, 44) == pytest.approx((0.0, -z2 / (44 + z2), z2 / (44 + z2)), abs=1e-6)


def test_the_e_value_is_the_average_likelihood_ratio() -> None:
    p = (np.arange(100_000) + 0.5) / 100_000
    direct = np.mean((2 * p) ** 9 * (2 * (1 - p)) ** 2)
    assert s.e_value(9, 2) == pytest.approx(direct, rel=1e-6)
    assert s.e_value(2, 9) == pytest.approx(direct, rel=1e-6)
    assert s.e_value(5000, 0) == pytest.approx(1e300)


def test_a_constant_ratio_has_no_interval() -> None:
    assert s.latency_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0, 2.0))
    assert s.unpaired_latency_ratio([2.0, 2.0], [1.0, 1.0]) == pytest.approx((2.0, 2.0, 2.0))


# --- by simulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("n", [10, 200])
def test_exact_intervals_cover_at_least_what_they_say(p: float, n: int, seed: int) -> None:
    seen = np.random.default_rng(seed).binomial(n, p, RUNS)
    _, lower, upper = s.proportion(seen, np.full(RUNS, n))
    assert np.mean((lower <= p) & (p <= upper)) >= 0.95 - slack(0.95, RUNS)


@pytest.mark.parametrize(
    ("p_a", "p_b"), [(0.05, 0.05), (0.10, 0.06), (0.02, 0.001)], ids=["equal", "different", "one direction rare"]
)
def test_paired_differences_are_covered(p_a: float, p_b: float, seed: int) -> None:
    n = 300
    cells = np.random.default_rng(seed).multinomial(n, [p_a, p_b, 1 - p_a - p_b], RUNS)
    _, lower, upper = s.paired_difference(cells[:, 0], cells[:, 1], np.full(RUNS, n))
    covered = np.mean((lower <= p_a - p_b) & (p_a - p_b <= upper))
    # A score interval's coverage wavers about its level as counts are whole numbers; Tango reports 0.94 to 0.97.
    assert 0.93 - slack(0.93, RUNS) <= covered <= 0.985


def test_unpaired_differences_are_covered(seed: int) -> None:
    rng, runs = np.random.default_rng(seed), 400
    a, b = rng.binomial(150, 0.6, runs), rng.binomial(60, 0.5, runs)
    found = [s.unpaired_difference(int(x), 150, int(y), 60) for x, y in zip(a, b, strict=True)]
    covered = np.mean([each.lower <= 0.1 <= each.upper for each in found])
    assert covered >= 0.93 - slack(0.93, runs)


def test_images_of_one_subject_are_not_counted_as_independent(seed: int) -> None:
    """40 subjects of 50 images each, right with a chance of their own; the arms are equal.

    A test that takes all images for independent is wrong in every second experiment; one of each subject is.
    """
    rng, runs, subjects, images = np.random.default_rng(seed), 250, 40, 50
    alarms = {"images": 0, "subjects": 0, "watched": 0}
    for _ in range(runs):
        right = rng.random((subjects, images)) < rng.beta(2, 2, subjects)[:, None]
        candidate = rng.random(subjects) < 0.5
        all_of, first_of = (
            [(int(part.sum()), part.size) for part in (kept[candidate], kept[~candidate])]
            for kept in (right, right[:, :1])
        )
        alarms["images"] += s.fisher(*all_of[0], *all_of[1]) <= 0.05
        alarms["subjects"] += s.fisher(*first_of[0], *first_of[1]) <= 0.05
        if min(n for _, n in first_of):
            watched = s.difference_sequence(*first_of[0], *first_of[1])
            alarms["watched"] += watched.lower > 0 or watched.upper < 0
    assert alarms["images"] / runs > 0.4
    assert alarms["subjects"] / runs <= 0.05 + slack(0.05, runs)
    assert alarms["watched"] / runs <= 0.05 + slack(0.05, runs)


def test_mcnemar_raises_no_more_false_alarms_than_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    favourable = rng.binomial(40, 0.5, RUNS)
    by_count = np.array([s.mcnemar(k, 40 - k) for k in range(41)])
    assert np.mean(by_count[favourable] <= 0.05) <= 0.05 + slack(0.05, RUNS)
    assert np.mean(by_count[rng.binomial(40, 0.8, RUNS)] <= 0.05) > 0.9


@pytest.mark.parametrize("n", [40, 200])
def test_latency_ratios_are_covered(n: int, seed: int) -> None:
    """Long-tailed times with a part that both share, as two runs on one image have."""
    rng, runs, true = np.random.default_rng(seed), 500, 0.25
    shared = rng.lognormal(0, 0.5, (runs, n))
    candidate = true * shared * rng.lognormal(0, 0.3, (runs, n))
    baseline = shared * rng.lognormal(0, 0.3, (runs, n))
    _, lower, upper = s.latency_ratio(candidate, baseline, seed=seed % 2**32)
    # The percentile bootstrap of a mean of 40 is that of a normal with the sample's deviation: 0.94, not 0.95.
    assert np.mean((lower <= true) & (true <= upper)) >= 0.935 - slack(0.935, runs)
    # Pairing pays: the interval is narrower than what the arms' times allow without it.
    unpaired = s.unpaired_latency_ratio(candidate[0], baseline[0])
    assert np.log(upper[0] / lower[0]) < np.log(unpaired.upper / unpaired.lower)


def test_unpaired_latency_ratios_are_covered(seed: int) -> None:
    rng, runs, true = np.random.default_rng(seed), 400, 0.5
    found = [s.unpaired_latency_ratio(true * rng.lognormal(0, 0.5, 30), rng.lognormal(0, 0.2, 90)) for _ in range(runs)]
    assert np.mean([each.lower <= true <= each.upper for each in found]) >= 0.95 - slack(0.95, runs)


def test_means_are_covered(seed: int) -> None:
    """Depth errors are skewed: gamma-distributed, as measured abs_rel are."""
    draws = np.random.default_rng(seed).gamma(4.0, 0.03, (600, 60))
    found = [s.mean(row) for row in draws]
    covered = np.mean([each.lower <= 0.12 <= each.upper for each in found])
    assert covered >= 0.93 - slack(0.93, 600)  # skewness 1 costs about 0.01 at n = 60


def test_the_e_value_stays_calm_under_peeking_and_repeated_p_values_do_not(seed: int) -> None:
    """2000 experiments of 1000 discordant pairs without a difference, looked at after every pair."""
    runs, pairs = 2000, 1000
    rng = np.random.default_rng(seed)
    a = np.cumsum(rng.integers(0, 2, (runs, pairs)), axis=1)
    b = np.arange(1, pairs + 1) - a
    alarms = np.mean(s.log_e_value(a, b).max(axis=1) >= np.log(20))
    assert alarms <= 0.05 + slack(0.05, runs)
    # McNemar's test on the same looks: stop at the first p below 0.05.
    p_values = 2 * scipy_stats.binom.cdf(np.minimum(a, b)[:, 9:], np.arange(10, pairs + 1), 0.5)
    naive = np.mean((p_values <= 0.05).any(axis=1))
    assert naive > 0.2 > alarms


def test_watched_intervals_cover_at_every_look(seed: int) -> None:
    """500 experiments of 600 images, looked at after every 15; exact intervals, looked at as often, do not."""
    runs, n = 500, 600
    rng = np.random.default_rng(seed)
    p_a, p_b = 0.10, 0.06
    draws = rng.choice(3, size=(runs, n), p=[p_a, p_b, 1 - p_a - p_b])
    looks = np.arange(14, n, 15)
    a, b = (np.cumsum(draws == side, axis=1)[:, looks] for side in (0, 1))
    seen = np.broadcast_to(looks + 1, a.shape)

    def always(found: s.Interval, truth: float) -> float:
        return float(np.mean(((found.lower <= truth) & (truth <= found.upper)).all(axis=1)))

    floor = 0.95 - slack(0.95, runs)
    assert always(s.paired_difference_sequence(a, b, seen), p_a - p_b) >= floor
    assert always(s.paired_difference(a, b, seen), p_a - p_b) < 0.9
    assert always(s.share_sequence(a, seen), p_a) >= floor
    assert always(s.proportion(a, seen), p_a) < 0.9


@pytest.mark.parametrize(
    ("a", "b", "n"), [(6, 4, 20), (0, 2, 20), (0, 15, 15), (15, 10, 50), (12, 2, 50), (0, 0, 50), (300, 200, 5000)]
)
def test_watching_costs_less_than_twice_the_width_from_few_images_on(a: int, b: int, n: int) -> None:
    once, watched = s.paired_difference(a, b, n), s.paired_difference_sequence(a, b, n)
    assert once.upper - once.lower < watched.upper - watched.lower < 1.9 * (once.upper - once.lower)


def test_a_watched_interval_sees_what_the_e_value_sees() -> None:
    """15 of 15 images for one arm: the e-value is 2048, and the interval must not hold an equal share."""
    assert s.e_value(0, 15) == pytest.approx(2048)
    assert s.paired_difference_sequence(0, 15, 15).upper < -0.25
    assert s.paired_difference_sequence(15, 0, 15).lower > 0.25


@pytest.mark.parametrize(("p_a", "p_b"), [(0.3, 0.3), (0.02, 0.3), (0.0, 0.5)])
def test_watched_intervals_cover_from_the_first_image_on(p_a: float, p_b: float, seed: int) -> None:
    runs, n = 400, 90
    draws = np.random.default_rng(seed).choice(3, size=(runs, n), p=[p_a, p_b, 1 - p_a - p_b])
    looks = np.arange(0, n, 3)
    a, b = (np.cumsum(draws == side, axis=1)[:, looks] for side in (0, 1))
    found = s.paired_difference_sequence(a, b, np.broadcast_to(looks + 1, a.shape))
    covered = ((found.lower <= p_a - p_b) & (p_a - p_b <= found.upper)).all(axis=1)
    assert np.mean(covered) >= 0.95 - slack(0.95, runs)


def test_a_watched_interval_is_the_end_of_what_is_refuted() -> None:
    """At its lower end the mixture of bets, written out, has earned 40; the bets leave some of the wealth."""
    a, b, n = 30, 12, 80
    lower = s.paired_difference_sequence(a, b, n).lower
    bets = np.geomspace(0.002, 0.99, 32) / (1 + lower)
    wealth = np.mean((1 + bets * (1 - lower)) ** a * (1 - bets * (1 + lower)) ** b * (1 - bets * lower) ** (n - a - b))
    assert wealth == pytest.approx(40, rel=1e-4)
    assert (1 - bets * (1 + lower) > 0).all()


def test_watching_costs_width_but_not_too_much() -> None:
    once, watched = s.paired_difference(300, 200, 5000), s.paired_difference_sequence(300, 200, 5000)
    assert once.upper - once.lower < watched.upper - watched.lower < 2 * (once.upper - once.lower)
    assert watched.estimate == pytest.approx(once.estimate)
    assert watched.lower < 0.02 < watched.upper
    assert s.paired_difference_sequence(0, 0, 0)[1:] == (-1.0, 1.0)
    assert s.share_sequence(0, 0)[1:] == (0.0, 1.0)
    split = s.difference_sequence(300, 500, 250, 500)
    assert split.lower < s.unpaired_difference(300, 500, 250, 500).lower < 0.1 < split.upper


def test_the_e_value_finds_a_difference(seed: int) -> None:
    """70 % of the discordant pairs favour one arm: nearly always found within 300 of them."""
    a = np.random.default_rng(seed).binomial(300, 0.7, RUNS)
    assert np.mean(s.log_e_value(a, 300 - a) >= np.log(20)) > 0.99


def test_the_expected_e_value_is_one_if_nothing_differs() -> None:
    k = np.arange(51)
    expected = np.sum(scipy_stats.binom.pmf(k, 50, 0.5) * np.exp(s.log_e_value(k, 50 - k)))
    assert expected == pytest.approx(1.0, rel=1e-9)


# --- sequences -------------------------------------------------------------------------------------------------------


def test_frames_that_resemble_their_neighbours_get_a_wider_interval(rng: np.random.Generator) -> None:
    """The mean is 0. Neighbours correlate by 0.8: Student's interval holds it in half of the cases, that of
    blocks much more often, and of blocks longer than the likeness reaches nearly as often as it says."""
    runs, n, correlation = 400, 200, 0.8
    noise = rng.normal(size=(runs, n))
    values = np.empty_like(noise)
    values[:, 0] = noise[:, 0] / np.sqrt(1 - correlation**2)
    for i in range(1, n):
        values[:, i] = correlation * values[:, i - 1] + noise[:, i]
    covered = {
        "frames": np.mean([(found := s.mean(run)).lower <= 0 <= found.upper for run in values]),
        "blocks": np.mean([(found := s.mean_of_sequence(run, 10)).lower <= 0 <= found.upper for run in values]),
        "longer": np.mean([(found := s.mean_of_sequence(run, 40)).lower <= 0 <= found.upper for run in values]),
    }
    assert covered["frames"] < 0.6
    assert covered["blocks"] > 0.78
    assert covered["longer"] > 0.88


def test_blocks_of_independent_values_cover_as_promised(rng: np.random.Generator) -> None:
    found = [s.mean_of_sequence(run, 10) for run in rng.normal(size=(1000, 53))]
    assert 0.92 < np.mean([each.lower <= 0 <= each.upper for each in found]) < 0.98


def test_a_mean_of_blocks_is_the_mean_of_all() -> None:
    values = np.arange(25.0) ** 2
    found = s.mean_of_sequence(values, 10)
    assert found.estimate == pytest.approx(values.mean()), "also where blocks are not equally long"
    assert found.upper - found.estimate == pytest.approx(found.estimate - found.lower)
    few = s.mean_of_sequence(values, 13)
    assert (few.estimate, few.lower, few.upper) == (pytest.approx(values.mean()), -np.inf, np.inf)
    assert np.isnan(s.mean_of_sequence([], 10).estimate)
