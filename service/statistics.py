"""Statistics for the comparison of two arms: confidence intervals, exact tests, and anytime-valid evidence.

The functions use scipy where it has the method; the others are a few lines with their source. All counts may be arrays,
because the simulations that validate these functions (tests/test_statistics.py) run them on thousands of
experiments at once.

Intervals and p-values hold for one look at a time planned beforehand. Whoever looks every day and stops at the first
good result needs the e-value or an interval sequence. The e-value is the wealth of a bet against "the arms are equally
accurate". If that is true, the wealth ever exceeds 20 with a probability of at most 1/20 (Ville's inequality).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # loads its submodules on first use, which saves half a second at start-up

Counts = int | npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95

#: Number of bootstrap resamples: 50 of them lie beyond each end of a 95 % interval.
RESAMPLES = 1999

#: Number of consecutive frames that count as one observation: one second of a drive at KITTI's ten frames per second.
BLOCK_FRAMES = 10

_BISECTIONS = 60


class Interval(NamedTuple):
    """An estimate with its confidence interval; each is a number, or an array with one number per experiment."""

    estimate: float
    lower: float
    upper: float


def proportion(successes: Counts, trials: Counts) -> Interval:
    """A share with its exact interval (C. Clopper and E. Pearson, 1934), whose coverage is never below 95 %.

    Args:
        successes: Number of successes.
        trials: Number of trials; for 0, the estimate is NaN and the interval is [0, 1].

    Returns:
        Fractions 0..1.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = k / n
    # The quantiles of a beta distribution with a parameter of 0 are its limits.
    lower = np.where(k > 0, scipy.special.betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
    upper = np.where(k < n, scipy.special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    return _interval(estimate, lower, upper)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact test of the hypothesis that two arms are equally accurate on the same images (Q. McNemar, 1947).

    Args:
        only_a: Number of images on which only the first arm was right.
        only_b: Number of images on which only the second arm was right.

    Returns:
        The two-sided p-value. Under the hypothesis, each discordant pair favours either arm with probability 1/2.
    """
    discordant = only_a + only_b
    return float(scipy.stats.binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def fisher(right_a: int, n_a: int, right_b: int, n_b: int) -> float:
    """Exact test of equal accuracy of two arms on different images (R. Fisher, 1922). Returns the two-sided p-value."""
    if not n_a or not n_b:
        return 1.0
    return float(scipy.stats.fisher_exact([[right_a, n_a - right_a], [right_b, n_b - right_b]]).pvalue)


def log_e_value(only_a: Counts, only_b: Counts) -> Floats:
    """Logarithm of the anytime-valid evidence that two arms differ in accuracy on the same images.

    The e-value is a beta-binomial mixture over the discordant pairs: the likelihood of the share p of pairs in favour
    of the first arm, averaged over all p in 0..1, divided by the likelihood of p = 1/2. With a and b pairs in favour of
    the arms and n = a + b, E = 2^n B(a + 1, b + 1). If p = 1/2, E is a martingale with expected value 1, so it may be
    looked at after every pair.

    Args:
        only_a: Number of discordant pairs in favour of the first arm.
        only_b: Number of discordant pairs in favour of the second arm.

    Returns:
        ln E: 0 without data; above ln 20 is significant at 5 %, regardless of the number of looks.
    """
    a, b = np.asarray(only_a, dtype=np.float64), np.asarray(only_b, dtype=np.float64)
    return np.asarray((a + b) * np.log(2.0) + scipy.special.betaln(a + 1, b + 1))


def e_value(only_a: int, only_b: int) -> float:
    """The e-value; see `log_e_value`. Limited to 1e300, so that it stays a finite number in JSON and Prometheus."""
    return float(np.exp(min(float(log_e_value(only_a, only_b)), np.log(1e300))))


def share_sequence(successes: Counts, trials: Counts, confidence: float = CONFIDENCE) -> Interval:
    """A share with an anytime-valid interval, which covers the true share at all looks with this confidence.

    The interval contains all p that a beta-binomial mixture has not yet refuted (H. Robbins, 1970): those whose
    likelihood is more than 1 - `confidence` of the average likelihood over all p.

    Args:
        successes: Number of successes so far.
        trials: Number of trials so far.
        confidence: The probability with which all looks together are right.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = k / n
    limit = scipy.special.betaln(k + 1, n - k + 1) + np.log(1 - confidence)
    inside = np.nan_to_num(estimate, nan=0.5)
    ends = []
    for outside in (np.zeros_like(inside), np.ones_like(inside)):
        out, within = outside, inside
        for _ in range(_BISECTIONS):
            middle = (out + within) / 2
            kept = scipy.special.xlogy(k, middle) + scipy.special.xlog1py(n - k, -middle) > limit
            out, within = np.where(kept, out, middle), np.where(kept, middle, within)
        ends.append(out)
    lower, upper = np.where(k > 0, ends[0], 0.0), np.where(k < n, ends[1], 1.0)
    return _interval(estimate, lower, upper)


def paired_difference_sequence(only_a: Counts, only_b: Counts, n: Counts) -> Interval:
    """Like `paired_difference`, with an anytime-valid interval.

    An image gives x = +1, 0 or -1, and the difference is the mean of x. A bet of size l against "the mean of x is at
    most d" has the wealth prod(1 + l (x - d)) after these images, which is a supermartingale if the statement is true
    (I. Waudby-Smith and A. Ramdas, 2024). The wealth stays positive for l < 1 / (1 + d), so the bets are l = c /
    (1 + d) with c < 1. Large c learn quickly from few images but lose most of their wealth to an x of -1, so the wealth
    is averaged over many c. Each factor decreases with d, so the refuted d are all those below some value. The interval
    contains all d against which neither the mixture of upward bets nor that of downward bets has reached 40.
    """
    a, b, total = (np.asarray(count, dtype=np.float64) for count in (only_a, only_b, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = (a - b) / total
    ends = [
        sign * _refuted_below(up, down, total, (1 - CONFIDENCE) / 2) for sign, up, down in ((1.0, a, b), (-1.0, b, a))
    ]
    return _interval(estimate, *ends)


def _refuted_below(up: Floats, down: Floats, total: Floats, error: float) -> Floats:
    """Returns the d below which every "the mean of x is at most d" is refuted; -1 if none is."""
    shares = np.geomspace(0.002, 0.99, 32)
    ups, downs, ties = (count[..., None] for count in (up, down, total - up - down))
    low, high = np.full(up.shape, -1.0), np.where(total > 0, (up - down) / np.maximum(total, 1), -1.0)
    for _ in range(_BISECTIONS // 2):
        middle = (low + high) / 2
        d = middle[..., None]
        bets = shares / np.maximum(1 + d, 1e-9)  # d reaches -1 only if every x is -1, when nothing is refuted
        logs = (
            scipy.special.xlogy(ups, 1 + bets * (1 - d))
            + scipy.special.xlogy(downs, 1 - shares)
            + scipy.special.xlogy(ties, 1 - bets * d)
        )
        refuted = scipy.special.logsumexp(logs, axis=-1) - np.log(shares.size) >= -np.log(error)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return np.asarray(low)


def difference_sequence(right_a: int, n_a: int, right_b: int, n_b: int) -> Interval:
    """Like `unpaired_difference`, with an anytime-valid interval."""
    a, b = (share_sequence(right, n, (1 + CONFIDENCE) / 2) for right, n in ((right_a, n_a), (right_b, n_b)))
    return Interval(a.estimate - b.estimate, a.lower - b.upper, a.upper - b.lower)


def paired_difference(only_a: Counts, only_b: Counts, n: Counts) -> Interval:
    """Difference of the accuracies of two arms on the same images, with a score interval (T. Tango, 1998).

    Unlike Wald intervals, score intervals keep their coverage if there are no discordant pairs in one or both
    directions, which is common at the start of an experiment.

    Args:
        only_a: Number of images on which only the first arm was right.
        only_b: Number of images on which only the second arm was right.
        n: Number of all images, including concordant pairs.

    Returns:
        First minus second, a difference of fractions in -1..1; without images, NaN with the interval [-1, 1].
    """
    x, y, total = (np.asarray(count, dtype=np.float64) for count in (only_a, only_b, n))
    z = scipy.special.ndtri((1 + CONFIDENCE) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = (x - y) / total

    def excess(delta: Floats, bound: float) -> Floats:
        """Decreasing function of delta with the sign of (x - y - n delta) / (its standard error at delta) - bound."""
        a, b = 2 * total, -x - y + (2 * total - x + y) * delta
        c = -y * delta * (1 - delta)
        only_b_share = (np.sqrt(np.maximum(b * b - 4 * a * c, 0)) - b) / np.maximum(2 * a, 1e-300)
        variance = total * (2 * only_b_share + delta * (1 - delta))
        return np.asarray(x - y - total * delta - bound * np.sqrt(np.maximum(variance, 0)))

    ends = []
    for bound in (z, -z):
        low, high = np.full(estimate.shape, -1.0), np.full(estimate.shape, 1.0)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            over = excess(middle, bound)
            # Without discordant pairs, it is 0 at delta = 0, where the standard error is 0 too; that is not an end.
            above = over > 0 if bound > 0 else over >= 0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        ends.append((low + high) / 2)
    lower, upper = np.where(total > 0, ends[0], -1.0), np.where(total > 0, ends[1], 1.0)
    return _interval(estimate, lower, upper)


def unpaired_difference(right_a: int, n_a: int, right_b: int, n_b: int) -> Interval:
    """Difference of the accuracies of two arms on different images, with an interval (R. Newcombe, 1998, method 10).

    Returns:
        First minus second, a difference of fractions in -1..1; NaN with [-1, 1] while an arm has no images.
    """
    if not n_a or not n_b:
        return Interval(float("nan"), -1.0, 1.0)
    sides = []
    for right, n in ((right_a, n_a), (right_b, n_b)):
        wilson = scipy.stats.binomtest(right, n).proportion_ci(CONFIDENCE, method="wilson")
        sides.append((right / n, wilson.low, wilson.high))
    (a, low_a, high_a), (b, low_b, high_b) = sides
    lower = a - b - np.hypot(a - low_a, high_b - b)
    upper = a - b + np.hypot(high_a - a, b - low_b)
    return Interval(a - b, float(lower), float(upper))


def latency_ratio(candidate_s: npt.ArrayLike, baseline_s: npt.ArrayLike, *, seed: int = 0) -> Interval:
    """Ratio of the inference times of two arms on the same images.

    The estimate is the geometric mean of the ratios, because times differ by factors. The interval is a bootstrap over
    the images, because times have long tails and no known distribution.

    Args:
        candidate_s: [..., N] seconds, above 0.
        baseline_s: [..., N] seconds of the same images.
        seed: Seed of the resampling, so that the same data give the same interval.

    Returns:
        Candidate / baseline, below 1 if the candidate is faster; the interval is (0, inf) for fewer than two images.
    """
    logs = np.log(np.asarray(candidate_s, dtype=np.float64)) - np.log(np.asarray(baseline_s, dtype=np.float64))
    if logs.shape[-1] < 2:
        return Interval(float(np.exp(logs).mean()) if logs.size else float("nan"), 0.0, float("inf"))
    lower, upper = _bootstrap_mean(logs, seed)
    return _interval(np.exp(logs.mean(axis=-1)), np.exp(lower), np.exp(upper))


def unpaired_latency_ratio(candidate_s: npt.ArrayLike, baseline_s: npt.ArrayLike) -> Interval:
    """Like `latency_ratio` for arms that ran different images, with Welch's interval of the logarithms."""
    candidate, baseline = (np.log(np.asarray(side, dtype=np.float64)) for side in (candidate_s, baseline_s))
    if min(candidate.size, baseline.size) < 2:
        return Interval(float("nan"), 0.0, float("inf"))
    return Interval(*(float(np.exp(end)) for end in unpaired_mean_difference(candidate, baseline)))


def mean(values: npt.ArrayLike) -> Interval:
    """The mean with Student's interval, for depth errors of images or for paired differences of two arms' errors.

    Args:
        values: [N]; for fewer than two, the interval is (-inf, inf).
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return Interval(float(sample.mean()) if sample.size else float("nan"), float("-inf"), float("inf"))
    estimate = float(sample.mean())
    half = float(scipy.stats.sem(sample) * scipy.special.stdtrit(sample.size - 1, (1 + CONFIDENCE) / 2))
    return Interval(estimate, estimate - half, estimate + half)


def mean_of_sequence(values: npt.ArrayLike, block: int) -> Interval:
    """The mean of autocorrelated values, such as scores of the consecutive frames of a drive.

    `mean` assumes independent values, so its interval would be too narrow. Here the sample consists of the means of
    blocks of consecutive values (batch means; A. Law and J. Carson, 1979). These are nearly independent if the blocks
    are longer than the correlation reaches, and few blocks give a wide interval, as they should.

    Args:
        values: [N], in their order.
        block: Minimum number of values per block.

    Returns:
        The mean of all values with Student's interval from the blocks; (-inf, inf) for fewer than two blocks.
    """
    sample = np.asarray(values, dtype=np.float64)
    blocks = sample.size // block
    if blocks < 2:
        return Interval(float(sample.mean()) if sample.size else float("nan"), float("-inf"), float("inf"))
    of_blocks = mean([part.mean() for part in np.array_split(sample, blocks)])
    estimate = float(sample.mean())
    return Interval(
        estimate, estimate + of_blocks.lower - of_blocks.estimate, estimate + of_blocks.upper - of_blocks.estimate
    )


def unpaired_mean_difference(a: npt.ArrayLike, b: npt.ArrayLike) -> Interval:
    """Difference of the means of two samples with Welch's interval.

    Args:
        a: At least one value.
        b: The same; if one sample has fewer than two values, the interval is (-inf, inf).
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    estimate = float(sides[0].mean() - sides[1].mean())
    if min(side.size for side in sides) < 2:
        return Interval(estimate, float("-inf"), float("inf"))
    if all(side.std() == 0 for side in sides):
        return Interval(estimate, estimate, estimate)
    found = scipy.stats.ttest_ind(*sides, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(estimate, float(found.low), float(found.high))


def _bootstrap_mean(values: Floats, seed: int) -> tuple[Floats, Floats]:
    """Percentile bootstrap of the mean over the last axis; for a constant sample, the interval is a single point."""
    found = scipy.stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=max(1, int(4e6 // max(values.size, 1))),  # about 32 MB at a time
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def _interval(estimate: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> Interval:
    """Builds an interval of numbers from scalars, or of arrays from arrays."""
    parts = [np.asarray(part, dtype=np.float64) for part in (estimate, lower, upper)]
    return Interval(*(float(part) if part.ndim == 0 else part for part in parts))  # type: ignore[arg-type]
