"""What two variants made of one image of a folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.tasks import ClassifyResult


@dataclass(frozen=True, slots=True)
class Side:
    """One variant on one image.

    Attributes:
        inference_s: Time of the network's run, seconds.
        says: Its answer in words: a class, or the median depth.
        confidence: Classification: probability of its best class, 0..1.
        right: Classification with labels: whether that class is the right one.
        errors: Depth with a ground truth: `abs_rel`, `delta1` and the others of `service.evaluation.depth_errors`.
    """

    inference_s: float
    says: str
    confidence: float | None = None
    right: bool | None = None
    errors: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Both variants on one image.

    Attributes:
        file: Its path, as the report names it.
        a: The candidate.
        b: The baseline.
        agree: Whether they agree: the same best class, or 90 % of the pixels within a factor of 1.25.
        divergence: How far apart they are, 0..1: total variation of the class probabilities, or the share of pixels
            beyond a factor of 1.25.
        truth: What it shows, in words, where that is known.
        within: Depth: share of the pixels within a factor of 1.25 of each other.
        abs_rel: Depth: mean of |a - b| / b.
        maps: Depth: both maps, float32 [H, W] metres, for the picture of their difference.
        path: Of its file, where a report is to show it: `file` may be spelt otherwise.
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
        """Without the maps; members that are not known are left out."""
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
    """How far apart two distributions over the same classes are: 0 where equal, 1 where they share no class."""
    return float(np.abs(a.probabilities - b.probabilities).sum() / 2)
