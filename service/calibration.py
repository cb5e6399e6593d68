"""Calibration of probabilities, confusions between classes, and confidence intervals of accuracies.

A classifier is calibrated if a fraction p of its answers with probability p is right. The expected calibration error
(C. Guo et al., 2017) is the mean gap between the two over bins of equal width, weighted by the number of answers in
each bin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from service.evaluation import TopK
from service.statistics import proportion

Floats = npt.NDArray[np.float64]

BINS = 15
MOST_CONFUSED = 12


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose probability lies in one bin.

    Attributes:
        n: Number of answers.
        probability: Their mean probability.
        accuracy: The fraction of them that is right.
    """

    n: int
    probability: float
    accuracy: float


def reliability(probabilities: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> list[Bin]:
    """The non-empty bins of equal width, by rising probability.

    Args:
        probabilities: [N], probability of the first class of each answer, 0..1.
        right: bool [N], whether that class is the right one.
        bins: Number of bins; a probability on an edge belongs to the lower bin.

    Raises:
        ValueError: The lengths differ.
    """
    p, hit = np.asarray(probabilities, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    if p.shape != hit.shape:
        raise ValueError(f"{p.shape} probabilities for {hit.shape} answers")
    index = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    chosen = [index == i for i in range(bins)]
    return [Bin(int(c.sum()), float(p[c].mean()), float(hit[c].mean())) for c in chosen if c.any()]


def expected_calibration_error(probabilities: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Weighted mean of |accuracy - probability| over the bins of `reliability`, 0..1; 0 without answers."""
    found = reliability(probabilities, right)
    total = sum(item.n for item in found)
    return sum(item.n * abs(item.accuracy - item.probability) for item in found) / max(total, 1)


@dataclass(slots=True)
class ClassifyScores:
    """Scores of a classifier, image by image.

    Attributes:
        counts: Top-1 and top-5 counts.
        truths: WordNet id of each image's true class.
        said: WordNet id of each image's first class.
        probabilities: Probability of each image's first class.
    """

    counts: TopK = field(default_factory=TopK)
    truths: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    def add(self, wnids: Sequence[str], truth: str, probability: float) -> None:
        """Adds one image: its classes by falling probability, the true class, and the first class's probability."""
        self.counts.add(wnids, truth)
        self.truths.append(truth)
        self.said.append(wnids[0])
        self.probabilities.append(probability)

    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each image's first class is the true one: bool [N]."""
        return np.array([a == b for a, b in zip(self.truths, self.said, strict=True)], dtype=np.bool_)

    def summary(self) -> dict[str, float]:
        """`n`, and as fractions `top1`, `top5`, their exact 95 % intervals (`top1_low`, `top1_high`, ...) and `ece`."""
        figures = self.counts.summary()
        for name, hits in (("top1", self.counts.top1), ("top5", self.counts.top5)):
            found = proportion(hits, self.counts.n)
            figures |= {f"{name}_low": found.lower, f"{name}_high": found.upper}
        return figures | {"ece": expected_calibration_error(self.probabilities, self.right())}

    def details(self) -> dict[str, object]:
        """`per_class` ({wnid: [right, images]}), `confusions` (most frequent first) and `reliability` (bins)."""
        per_class: dict[str, list[int]] = {}
        pairs: dict[tuple[str, str], int] = {}
        for truth, said in zip(self.truths, self.said, strict=True):
            entry = per_class.setdefault(truth, [0, 0])
            entry[0] += truth == said
            entry[1] += 1
            if truth != said:
                pairs[truth, said] = pairs.get((truth, said), 0) + 1
        ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:MOST_CONFUSED]
        bins = reliability(self.probabilities, self.right())
        return {
            "per_class": dict(sorted(per_class.items())),
            "confusions": [{"truth": truth, "said": said, "n": n} for (truth, said), n in ranked],
            "reliability": [{"n": b.n, "probability": b.probability, "accuracy": b.accuracy} for b in bins],
        }
