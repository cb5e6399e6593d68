"""Results of two variants on one image of a folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.tasks import ClassifyResult


@dataclass(frozen=True, slots=True)
class Side:
    """Result of one variant on one image.

    Attributes:
        inference_s: Inference time, seconds.
        says: The answer in words: a class, or the median depth.
        confidence: Classification: probability of the best class, 0..1.
        right: Classification with labels: whether the best class is right.
        errors: Depth with ground truth: the errors of `service.evaluation.depth_errors`.
    """

    inference_s: float
    says: str
    confidence: float | None = None
    right: bool | None = None
    errors: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Results of both variants on one image.

    Attributes:
        file: Name of the image's file in the report.
        a: Result of the candidate.
        b: Result of the baseline.
        agree: Whether they agree: the same best class, or at least 90 % of the pixels within a factor of 1.25.
        divergence: How far they are apart, 0..1: total variation distance of the class probabilities, or share of the
            pixels beyond a factor of 1.25.
        truth: The true class in words, if known.
        within: Depth: share of the pixels within a factor of 1.25 of each other.
        abs_rel: Depth: mean of |a - b| / b.
        maps: Depth: both maps, float32 [H, W] metres, for the picture of their difference.
        path: Path of the file, if the report shows the image; `file` may be spelt differently.
    """

    file: str
    a: Side
    b: Side
    agree: bool
    divergence: float
    truth: str | None = None
    within: float | None = None
    abs_rel: float | None = None
    maps: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = field(default=None, compare=False)
    path: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the pair for the JSON report, without the maps and without unknown members."""
        known: dict[str, Any] = {
            "file": self.file,
            "agree": self.agree,
            "divergence": round(self.divergence, 5),
            "truth": self.truth,
        }
        for name, side in (("a", self.a), ("b", self.b)):
            known[name] = {
                "says": side.says,
                "inference_ms": round(1000 * side.inference_s, 4),
                "confidence": None if side.confidence is None else round(side.confidence, 5),
                "right": side.right,
                "errors": side.errors,
            }
            known[name] = {key: value for key, value in known[name].items() if value is not None}
        return {key: value for key, value in known.items() if value is not None}


def total_variation(a: ClassifyResult, b: ClassifyResult) -> float:
    """Total variation distance of two distributions over the same classes: 0 if equal, 1 if they share no class."""
    return float(np.abs(a.probabilities - b.probabilities).sum() / 2)
