"""How good answers are: against labels, against measured depth, and against each other.

Used by the command line, by the comparisons of the API and by the offline evaluation of models, so that one figure
means one thing everywhere. Fractions are 0..1, lengths in metres.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

#: Caps of the two usual reports of the Eigen protocol, metres.
CAPS_M = (80.0, 50.0)
#: Depths below this are taken for missing, and predictions below it are raised to it (Eigen et al. 2014), metres.
MIN_DEPTH_M = 1e-3

# The crop of Garg et al. 2016, as fractions of the ground truth's height and width: top, bottom, left, right.
_GARG_CROP = (0.40810811, 0.99189189, 0.03594771, 0.96405229)

# KITTI's horizontal focal length by image width, pixels, and its stereo baseline, metres (rectified pictures of 2011).
_KITTI_FX_PX = {1242: 721.5377, 1238: 718.3351, 1224: 707.0493}
_KITTI_BASELINE_M = 0.5327254279298227

FloatMap = npt.NDArray[np.float32]


@dataclass(slots=True)
class TopK:
    """Counts how often the right class is among the best.

    Attributes:
        n: Images seen.
        top1: Of these, with the right class first.
        top5: Of these, with the right class among the first five.
    """

    n: int = 0
    top1: int = 0
    top5: int = 0

    def add(self, wnids: Sequence[str], truth: str) -> bool:
        """Adds one image: its classes by falling probability, and the right one. Returns whether the first is right."""
        first = bool(wnids) and wnids[0] == truth
        self.n += 1
        self.top1 += first
        self.top5 += truth in wnids[:5]
        return first

    def summary(self) -> dict[str, float]:
        """`n`, `top1` and `top5`, the latter as fractions."""
        count = max(self.n, 1)
        return {"n": self.n, "top1": self.top1 / count, "top5": self.top5 / count}


def garg_mask(height: int, width: int) -> npt.NDArray[np.bool_]:
    """The part of a picture that the Garg crop keeps: bool [height, width]."""
    top, bottom, left, right = _GARG_CROP
    mask = np.zeros((height, width), np.bool_)
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return mask


def depth_errors(predicted_m: FloatMap, measured_m: FloatMap, *, cap_m: float = 80.0) -> dict[str, float] | None:
    """The seven measures of the Eigen protocol for one image, Garg crop.

    Args:
        predicted_m: float32 [H, W] at the size of the ground truth; NaN where nothing was predicted.
        measured_m: float32 [H, W]; 0 where nothing was measured.
        cap_m: Ground truth beyond it is left out, and predictions are cut to it.

    Returns:
        abs_rel, sq_rel (metres), rmse (metres), rmse_log, delta1, delta2, delta3 (fractions within 1.25, 1.25^2 and
        1.25^3); None where no pixel can be compared.

    Raises:
        ValueError: The maps differ in size.
    """
    if predicted_m.shape != measured_m.shape:
        raise ValueError(f"the prediction is {predicted_m.shape} and the ground truth {measured_m.shape}")
    mask = garg_mask(*measured_m.shape) & (measured_m > MIN_DEPTH_M) & (measured_m < cap_m) & np.isfinite(predicted_m)
    if not mask.any():
        return None
    truth = measured_m[mask].astype(np.float64)
    guess = np.clip(predicted_m[mask].astype(np.float64), MIN_DEPTH_M, cap_m)
    difference = guess - truth
    ratio = np.maximum(guess / truth, truth / guess)
    return {
        "abs_rel": float(np.mean(np.abs(difference) / truth)),
        "sq_rel": float(np.mean(difference**2 / truth)),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "rmse_log": float(np.sqrt(np.mean((np.log(guess) - np.log(truth)) ** 2))),
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.25**2)),
        "delta3": float(np.mean(ratio < 1.25**3)),
    }


def mean_errors(images: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Means of per-image measures, as the protocol has it (not of pixels)."""
    rows = list(images)
    return {name: fmean(row[name] for row in rows) for name in rows[0]} if rows else {}


def depth_agreement(a_m: FloatMap, b_m: FloatMap) -> tuple[float, float]:
    """How far two predictions of one picture agree.

    Args:
        a_m: float32 [H, W], metres, above 0.
        b_m: Likewise.

    Returns:
        The fraction of pixels whose depths are within a factor of 1.25, and the mean of |a - b| / b.
    """
    a, b = a_m.astype(np.float64), b_m.astype(np.float64)
    ratio = np.maximum(a / b, b / a)
    return float(np.mean(ratio < 1.25)), float(np.mean(np.abs(a - b) / b))


def kitti_fx_px(width: int) -> float | None:
    """Horizontal focal length of KITTI's rectified pictures of a width, pixels; None for another width."""
    return _KITTI_FX_PX.get(width)


def depth_from_disparity(disparity_px: FloatMap, fx_px: float, baseline_m: float = _KITTI_BASELINE_M) -> FloatMap:
    """Disparity, float32 [H, W] pixels with 0 for none, to depth in metres: fx * B / d, 0 for none."""
    depth_m = np.zeros_like(disparity_px, dtype=np.float32)
    np.divide(np.float32(fx_px * baseline_m), disparity_px, out=depth_m, where=disparity_px > 0)
    return depth_m
