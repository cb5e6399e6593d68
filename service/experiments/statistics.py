"""What can be said of two arms from what was seen of them: intervals, exact tests, and evidence that may be watched.

Everything is scipy's but three formulas that it lacks, each a few lines with its source. All counts may be arrays:
the simulations that validate these functions (tests/experiments/test_statistics.py) run them on thousands of
experiments at once.

An interval and a p-value hold for one look, at a moment chosen beforehand. Whoever looks every day and stops at the
first good one needs the e-value: it is a bet against "the arms are equally accurate" whose wealth, were that true,
would pass 20 at any time with a probability of at most 1/20 (Ville's inequality).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded when first used: half a second of every start would go to statistics

Counts = int | npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95

#: Resamples of a bootstrap: the ends of a 95 % interval then rest on 50 values each.
RESAMPLES = 1999

#: Consecutive frames of a drive that count as one observation: a second of KITTI's ten a second.
BLOCK_FRAMES = 10

_BISECTIONS = 60


class Interval(NamedTuple):
    """An estimate with its confidence interval; each a number, or an array of one for each experiment."""

    estimate: float
    lower: float
    upper: float


def proportion(successes: Counts, trials: Counts, confidence: float = CONFIDENCE) -> Interval:
    """A share with its exact interval (C. Clopper and E. Pearson, 1934): never covers less than it says.

    Args:
        successes: How many of the trials.
        trials: How many in all; for 0 the estimate is NaN and the interval all of [0, 1].
        confidence: Of the interval.

    Returns:
        Fractions 0..1.
    """
    k, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = k / n
    # The quantiles of a beta distribution with a parameter of 0 are its limits.
    lower = np.where(k > 0, scipy.special.betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
    upper = np.where(k < n, scipy.special.betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    return _interval(estimate, lower, upper)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact test that two arms, seen on the same images, are equally accurate (Q. McNemar, 1947).

    Args:
        only_a: Images on which only one arm was right.
        only_b: Images on which only the other was.

    Returns:
        The two-sided p-value: of the discordant pairs, each is as likely to favour either arm.
    """
    discordant = only_a + only_b
    return float(scipy.stats.binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0


def fisher(right_a: int, n_a: int, right_b: int, n_b: int) -> float:
    """Exact test that two arms, seen on different images, are equally accurate (R. Fisher, 1922): two-sided p-value."""
    if not n_a or not n_b:
        return 1.0
    return float(scipy.stats.fisher_exact([[right_a, n_a - right_a], [right_b, n_b - right_b]]).pvalue)


def log_e_value(only_a: Counts, only_b: Counts) -> Floats:
    """Logarithm of the anytime-valid evidence that two arms, seen on the same images, differ in accuracy.

    A beta-binomial mixture on the discordant pairs: the likelihood of a favourable share p, averaged over all p in
    0..1, over that of p = 1/2: E = 2^n B(a + 1, b + 1) with a and b the pairs of either direction and n = a + b. Before
    each pair its expected growth is 1 if p is 1/2, so E is a martingale and may be looked at after every pair.

    Args:
        only_a: Discordant pairs in favour of one arm.
        only_b: Those in favour of the other.

    Returns:
        ln E: 0 without data; above ln 20 is significant at 5 %, however often one looked.
    """
    a, b = np.asarray(only_a, dtype=np.float64), np.asarray(only_b, dtype=np.float64)
    return np.asarray((a + b) * np.log(2.0) + scipy.special.betaln(a + 1, b + 1))


def e_value(only_a: int, only_b: int) -> float:
    """The e-value; see `log_e_value`. At most 1e300, to stay a number that JSON and Prometheus can hold."""
    return float(np.exp(min(float(log_e_value(only_a, only_b)), np.log(1e300))))


def share_sequence(successes: Counts, trials: Counts, confidence: float = CONFIDENCE) -> Interval:
    """A share with an interval that may be watched: with the stated confidence, it covers the truth at every look.

    All p that a beta-binomial mixture has not refuted by now (H. Robbins, 1970): those whose likelihood is more than
    1 - confidence times its average over all p.

    Args:
        successes: How many of the trials so far.
        trials: How many in all so far.
        confidence: Of the whole sequence of intervals.
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


def paired_difference_sequence(only_a: Counts, only_b: Counts, n: Counts, confidence: float = CONFIDENCE) -> Interval:
    """As `paired_difference`, with an interval that may be watched.

    An image gives x = +1, 0 or -1, and the difference is the mean of x. Who bets a share l of his wealth against "the
    mean is at most d" has, after these images, the product of 1 + l (x - d), which is a martingale at worst (I.
    Waudby-Smith and A. Ramdas, 2024). The interval holds all d against which neither an equal mixture of bets upwards
    nor one of bets downwards has earned 2 / (1 - confidence).
    """
    a, b, total = (np.asarray(count, dtype=np.float64) for count in (only_a, only_b, n))
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = (a - b) / total
    ends = [
        sign * _refuted_below(up, down, total, (1 - confidence) / 2) for sign, up, down in ((1.0, a, b), (-1.0, b, a))
    ]
    return _interval(estimate, *ends)


def _refuted_below(up: Floats, down: Floats, total: Floats, error: float) -> Floats:
    """The d below which every "the mean of x is at most d" is refuted; -1 where none is."""
    bets = np.geomspace(0.002, 0.5, 24)
    ups, downs, ties = (count[..., None] for count in (up, down, total - up - down))
    low, high = np.full(up.shape, -1.0), np.where(total > 0, (up - down) / np.maximum(total, 1), -1.0)
    for _ in range(_BISECTIONS // 2):
        middle = (low + high) / 2
        d = middle[..., None]
        logs = (
            scipy.special.xlogy(ups, 1 + bets * (1 - d))
            + scipy.special.xlogy(downs, np.maximum(1 - bets * (1 + d), 0))
            + scipy.special.xlogy(ties, 1 - bets * d)
        )
        refuted = scipy.special.logsumexp(logs, axis=-1) - np.log(bets.size) >= -np.log(error)
        low, high = np.where(refuted, middle, low), np.where(refuted, high, middle)
    return np.asarray(low)


def difference_sequence(right_a: int, n_a: int, right_b: int, n_b: int, confidence: float = CONFIDENCE) -> Interval:
    """As `unpaired_difference`, with an interval that may be watched."""
    a, b = (share_sequence(right, n, (1 + confidence) / 2) for right, n in ((right_a, n_a), (right_b, n_b)))
    return Interval(a.estimate - b.estimate, a.lower - b.upper, a.upper - b.lower)


def paired_difference(only_a: Counts, only_b: Counts, n: Counts, confidence: float = CONFIDENCE) -> Interval:
    """Accuracy of one arm less that of another on the same images, with a score interval (T. Tango, 1998).

    Score intervals keep their coverage where one direction, or both, has no pair, as is usual at the start of an
    experiment; Wald's do not.

    Args:
        only_a: Images on which only the first arm was right.
        only_b: Images on which only the second was.
        n: All images, concordant ones included.
        confidence: Of the interval.

    Returns:
        A difference of fractions, -1..1; without images NaN and all of [-1, 1].
    """
    x, y, total = (np.asarray(count, dtype=np.float64) for count in (only_a, only_b, n))
    z = scipy.special.ndtri((1 + confidence) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = (x - y) / total

    def excess(delta: Floats, bound: float) -> Floats:
        """(x - y - n delta) / its standard error if delta were true, less a bound; falls with delta."""
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
            # Without discordant pairs it is 0 at 0, where the standard error vanishes too: no end lies there.
            above = over > 0 if bound > 0 else over >= 0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        ends.append((low + high) / 2)
    lower, upper = np.where(total > 0, ends[0], -1.0), np.where(total > 0, ends[1], 1.0)
    return _interval(estimate, lower, upper)


def unpaired_difference(right_a: int, n_a: int, right_b: int, n_b: int, confidence: float = CONFIDENCE) -> Interval:
    """Accuracy of one arm less that of another on different images (R. Newcombe, 1998, method 10).

    Returns:
        A difference of fractions, -1..1; NaN and all of [-1, 1] while an arm has no image.
    """
    if not n_a or not n_b:
        return Interval(float("nan"), -1.0, 1.0)
    sides = []
    for right, n in ((right_a, n_a), (right_b, n_b)):
        wilson = scipy.stats.binomtest(right, n).proportion_ci(confidence, method="wilson")
        sides.append((right / n, wilson.low, wilson.high))
    (a, low_a, high_a), (b, low_b, high_b) = sides
    lower = a - b - np.hypot(a - low_a, high_b - b)
    upper = a - b + np.hypot(high_a - a, b - low_b)
    return Interval(a - b, float(lower), float(upper))


def latency_ratio(
    candidate_s: npt.ArrayLike, baseline_s: npt.ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval:
    """How long one arm takes as a multiple of another, on the same images.

    The geometric mean of the ratios, as times differ by factors; a bootstrap over the images for the interval, as
    times have long tails and no known distribution.

    Args:
        candidate_s: [..., N] seconds, above 0.
        baseline_s: [..., N] seconds of the same images.
        seed: Of the resampling: the same data give the same interval.
        confidence: Of the interval.

    Returns:
        Below 1 where the candidate is faster; the interval is (0, inf) for fewer than two images.
    """
    logs = np.log(np.asarray(candidate_s, dtype=np.float64)) - np.log(np.asarray(baseline_s, dtype=np.float64))
    if logs.shape[-1] < 2:
        return Interval(float(np.exp(logs).mean()) if logs.size else float("nan"), 0.0, float("inf"))
    lower, upper = _bootstrap_mean(logs, seed, confidence)
    return _interval(np.exp(logs.mean(axis=-1)), np.exp(lower), np.exp(upper))


def unpaired_latency_ratio(
    candidate_s: npt.ArrayLike, baseline_s: npt.ArrayLike, *, confidence: float = CONFIDENCE
) -> Interval:
    """As `latency_ratio` for arms that ran different images: Welch's interval on the logarithms."""
    candidate, baseline = (np.log(np.asarray(side, dtype=np.float64)) for side in (candidate_s, baseline_s))
    if min(candidate.size, baseline.size) < 2:
        return Interval(float("nan"), 0.0, float("inf"))
    return Interval(*(float(np.exp(end)) for end in unpaired_mean_difference(candidate, baseline, confidence)))


def mean(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The mean with Student's interval: per-image depth errors, or the paired differences of two arms' errors.

    Args:
        values: [N]; for fewer than two the interval is all numbers.
        confidence: Of the interval.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2:
        return Interval(float(sample.mean()) if sample.size else float("nan"), float("-inf"), float("inf"))
    estimate = float(sample.mean())
    half = float(scipy.stats.sem(sample) * scipy.special.stdtrit(sample.size - 1, (1 + confidence) / 2))
    return Interval(estimate, estimate - half, estimate + half)


def mean_of_sequence(values: npt.ArrayLike, block: int, confidence: float = CONFIDENCE) -> Interval:
    """The mean of values that come one after the other and resemble their neighbours, such as the frames of a drive.

    `mean` would take each frame for news and state an interval that is too narrow. Here the means of whole blocks of
    consecutive values are the sample (batch means; A. Law and J. Carson, 1979): with blocks longer than the likeness
    reaches they are nearly independent, and few blocks give a wide interval, as they should.

    Args:
        values: [N], in their order.
        block: Least number of values a block.
        confidence: Of the interval.

    Returns:
        The mean of all values with Student's interval from the blocks; all numbers for fewer than two blocks.
    """
    sample = np.asarray(values, dtype=np.float64)
    blocks = sample.size // block
    if blocks < 2:
        return Interval(float(sample.mean()) if sample.size else float("nan"), float("-inf"), float("inf"))
    of_blocks = mean([part.mean() for part in np.array_split(sample, blocks)], confidence)
    estimate = float(sample.mean())
    return Interval(
        estimate, estimate + of_blocks.lower - of_blocks.estimate, estimate + of_blocks.upper - of_blocks.estimate
    )


def unpaired_mean_difference(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean of one sample less that of another, each of two values or more, with Welch's interval."""
    sides = [np.asarray(side, dtype=np.float64) for side in (a, b)]
    estimate = float(sides[0].mean() - sides[1].mean())
    if all(side.std() == 0 for side in sides):
        return Interval(estimate, estimate, estimate)
    found = scipy.stats.ttest_ind(*sides, equal_var=False).confidence_interval(confidence)
    return Interval(estimate, float(found.low), float(found.high))


def _bootstrap_mean(values: Floats, seed: int, confidence: float) -> tuple[Floats, Floats]:
    """Percentile bootstrap of the mean over the last axis.

    A constant sample has a constant bootstrap: the interval is that point.
    """
    found = scipy.stats.bootstrap(
        (values,),
        np.mean,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=max(1, int(4e6 // max(values.size, 1))),  # some 32 MB at a time
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high


def _interval(estimate: npt.ArrayLike, lower: npt.ArrayLike, upper: npt.ArrayLike) -> Interval:
    """Numbers for numbers, arrays for arrays."""
    parts = [np.asarray(part, dtype=np.float64) for part in (estimate, lower, upper)]
    return Interval(*(float(part) if part.ndim == 0 else part for part in parts))  # type: ignore[arg-type]
