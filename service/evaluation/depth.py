"""Errors of predicted depth by the Eigen protocol.

The protocol is that of D. Eigen, C. Puhrsch and R. Fergus, 2014, with the crop of R. Garg et al., 2016. A prediction is
scaled bilinearly to the size of the ground truth and clipped to a cap (80 m or 50 m). It is compared at the points
inside the Garg crop whose truth is known and below the cap. The errors of an image are means over its points, and those
of a data set are means over its images, so that every image has the same weight.

The networks predict metric depth, and the main errors are those of the metres as predicted. The median-scaled errors
multiply each prediction by median(truth) / median(prediction) first, as is usual for networks that predict depth only
up to scale (T. Zhou et al., 2017). They use the truth, so they measure the shape of the depth map, not its scale.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Caps of the Eigen protocol, metres: 80 in most papers, 50 in Garg's.
CAPS_M = (80.0, 50.0)

#: Minimum depth of the protocol, metres: the truth must exceed it, and predictions are clipped to it.
MIN_DEPTH_M = 1e-3

#: Garg's crop as fractions of height and width: top, bottom, left, right.
GARG_CROP = (0.40810811, 0.99189189, 0.03594771, 0.96405229)

#: Names of the depth errors, in the order used in papers.
DEPTH_METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3")

#: Edges of the distance bins for `errors_by_distance`, metres.
DISTANCES_M = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)


def garg_mask(height: int, width: int) -> Mask:
    """Mask of the points inside Garg's crop: bool [height, width]."""
    top, bottom = int(GARG_CROP[0] * height), int(GARG_CROP[1] * height)
    left, right = int(GARG_CROP[2] * width), int(GARG_CROP[3] * width)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def _known(prediction_m: Floats, truth_m: Floats, cap_m: float) -> tuple[Mask, Mask]:
    """Masks of the known truth inside crop and cap, and of the part of it that has a prediction: bool [H, W] each."""
    if prediction_m.shape != truth_m.shape:
        raise ValueError(f"prediction {prediction_m.shape} and truth {truth_m.shape} must have the same size")
    # NaN compares false, so a truth of NaN counts as unknown.
    known = garg_mask(*truth_m.shape) & (truth_m > MIN_DEPTH_M) & (truth_m < cap_m)
    return known, known & ~np.isnan(prediction_m)


def depth_errors(
    prediction_m: Floats, truth_m: Floats, cap_m: float = CAPS_M[0], *, scale: float = 1.0
) -> dict[str, float] | None:
    """Computes the errors of one image.

    Args:
        prediction_m: float32 [H, W], metres, at the truth's size; NaN outside the network's view (not compared).
        truth_m: float32 [H, W], metres; 0 or NaN where it is unknown.
        cap_m: Maximum depth, metres: only points with a truth below it count, and predictions are clipped to it.
        scale: Factor applied to the prediction before it is clipped; see `median_scale`.

    Returns:
        Each of DEPTH_METRICS: abs_rel, sq_rel (metres), rmse (metres), rmse_log, and delta1..3, the fractions of
        points whose ratio to the truth is below 1.25, 1.25^2, 1.25^3. None for an image without points to compare.

    Raises:
        ValueError: The sizes differ.
    """
    _, compared = _known(prediction_m, truth_m, cap_m)
    if not compared.any():
        return None
    truth = truth_m[compared].astype(np.float64)
    prediction = np.clip(prediction_m[compared].astype(np.float64) * scale, MIN_DEPTH_M, cap_m)
    difference = prediction - truth
    ratio = np.maximum(prediction / truth, truth / prediction)
    return {
        "abs_rel": float(np.mean(np.abs(difference) / truth)),
        "sq_rel": float(np.mean(difference**2 / truth)),
        "rmse": math.sqrt(float(np.mean(difference**2))),
        "rmse_log": math.sqrt(float(np.mean((np.log(prediction) - np.log(truth)) ** 2))),
        "delta1": float(np.mean(ratio < 1.25)),
        "delta2": float(np.mean(ratio < 1.25**2)),
        "delta3": float(np.mean(ratio < 1.25**3)),
    }


def median_scale(prediction_m: Floats, truth_m: Floats, cap_m: float = CAPS_M[0]) -> float | None:
    """median(truth) / median(prediction) over the points that `depth_errors` compares; None without such points.

    The medians are taken before the prediction is clipped to the cap.
    """
    _, compared = _known(prediction_m, truth_m, cap_m)
    if not compared.any():
        return None
    middle = max(float(np.median(prediction_m[compared])), MIN_DEPTH_M)
    return float(np.median(truth_m[compared])) / middle


def errors_at_caps(
    prediction_m: Floats, truth_m: Floats, caps_m: Sequence[float] = CAPS_M, *, median_scaled: bool = False
) -> dict[str, float]:
    """Computes the errors of one image at every cap, named as in model cards: `abs_rel_80m`, `delta1_50m`, ...

    Args:
        prediction_m: As for `depth_errors`.
        truth_m: As for `depth_errors`.
        caps_m: The caps, metres.
        median_scaled: Whether to apply median scaling, separately for each cap.

    Returns:
        The errors; a cap without points to compare has none.
    """
    named: dict[str, float] = {}
    for cap_m in caps_m:
        scale = median_scale(prediction_m, truth_m, cap_m) if median_scaled else 1.0
        errors = None if scale is None else depth_errors(prediction_m, truth_m, cap_m, scale=scale)
        for name, value in (errors or {}).items():
            named[f"{name}_{cap_m:g}m"] = value
    return named


def errors_by_distance(
    prediction_m: Floats, truth_m: Floats, edges_m: Sequence[float] = DISTANCES_M
) -> list[tuple[int, float, float]]:
    """Computes the errors of one image by the true distance of its points.

    Args:
        prediction_m: As for `depth_errors`.
        truth_m: As for `depth_errors`.
        edges_m: [B + 1] increasing distances, metres; the last is the cap.

    Returns:
        For each of the B bins [from, to): its number of points, abs_rel and delta1 (NaN without points).
    """
    _, compared = _known(prediction_m, truth_m, edges_m[-1])
    truth = truth_m[compared].astype(np.float64)
    prediction = np.clip(prediction_m[compared].astype(np.float64), MIN_DEPTH_M, edges_m[-1])
    relative = np.abs(prediction - truth) / truth
    right = np.maximum(prediction / truth, truth / prediction) < 1.25
    rows: list[tuple[int, float, float]] = []
    for begin, end in pairwise(edges_m):
        inside = (truth >= begin) & (truth < end)
        count = int(inside.sum())
        rows.append(
            (count, float(relative[inside].mean()), float(right[inside].mean())) if count else (0, math.nan, math.nan)
        )
    return rows


@dataclass(frozen=True, slots=True)
class FrameErrors:
    """All errors of one image.

    Attributes:
        known: Number of points with a known truth inside the crop and the first cap.
        seen: Number of these points that have a prediction.
        errors: Result of `errors_at_caps`; empty for an image without points to compare.
        median_scaled: The same after median scaling.
        scale: Factor of the median scaling at the first cap; None for an image without points to compare.
        by_distance: Result of `errors_by_distance`.
    """

    known: int
    seen: int
    errors: dict[str, float]
    median_scaled: dict[str, float]
    scale: float | None
    by_distance: list[tuple[int, float, float]]


def frame_errors(prediction_m: Floats, truth_m: Floats) -> FrameErrors:
    """Computes the errors of one image at every cap, with and without median scaling, and by distance.

    Args:
        prediction_m: As for `depth_errors`.
        truth_m: As for `depth_errors`.
    """
    known, seen = _known(prediction_m, truth_m, CAPS_M[0])
    return FrameErrors(
        known=int(known.sum()),
        seen=int(seen.sum()),
        errors=errors_at_caps(prediction_m, truth_m),
        median_scaled=errors_at_caps(prediction_m, truth_m, median_scaled=True),
        scale=median_scale(prediction_m, truth_m, CAPS_M[0]),
        by_distance=errors_by_distance(prediction_m, truth_m),
    )


def mean_errors(images: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Averages each error over the images that have it. Empty without images."""
    values: dict[str, list[float]] = {}
    for errors in images:
        for name, value in errors.items():
            values.setdefault(name, []).append(value)
    return {name: fmean(column) for name, column in values.items()}
