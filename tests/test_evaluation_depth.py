"""The Eigen protocol against an example worked by hand and against its formulas, and the traps on the way."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from service.evaluation import (
    CAPS_M,
    DEPTH_METRICS,
    depth_errors,
    errors_at_caps,
    errors_by_distance,
    frame_errors,
    garg_mask,
    median_scale,
)

Floats = npt.NDArray[np.float32]
HEIGHT, WIDTH = 375, 1242
LOG = math.log


def scene(points: dict[tuple[int, int], float]) -> Floats:
    """A ground truth with these points (row, column), metres, and nothing else."""
    truth = np.zeros((HEIGHT, WIDTH), np.float32)
    for place, depth_m in points.items():
        truth[place] = depth_m
    return truth


# Four points inside the crop; the last lies beyond 50 m. Three more that must not count.
PLACES = [(200, 100), (210, 500), (250, 900), (300, 1100)]
TRUTH = [10.0, 20.0, 40.0, 64.0]
PREDICTED = [8.0, 20.0, 50.0, 100.0]
TRUTH_M = scene(dict(zip(PLACES, TRUTH, strict=True)) | {(0, 600): 5.0, (200, 0): 5.0, (220, 600): 81.0})
PREDICTED_M = np.full((HEIGHT, WIDTH), 33.0, np.float32)
for place, value in zip(PLACES, PREDICTED, strict=True):
    PREDICTED_M[place] = value


def test_an_example_worked_by_hand_at_80_m() -> None:
    """The prediction of 100 m is clipped to 80; of 8/10, 20/20, 50/40 and 80/64 only 20/20 is below 1.25."""
    assert depth_errors(PREDICTED_M, TRUTH_M, 80.0) == pytest.approx(
        {
            "abs_rel": (0.2 + 0 + 0.25 + 0.25) / 4,
            "sq_rel": (4 / 10 + 0 + 100 / 40 + 256 / 64) / 4,
            "rmse": math.sqrt((4 + 0 + 100 + 256) / 4),
            "rmse_log": math.sqrt((LOG(0.8) ** 2 + 0 + LOG(1.25) ** 2 + LOG(1.25) ** 2) / 4),
            "delta1": 1 / 4,
            "delta2": 1.0,
            "delta3": 1.0,
        }
    )


def test_the_example_at_50_m() -> None:
    """The fourth point's truth is beyond the cap; 50 m is not clipped."""
    errors = depth_errors(PREDICTED_M, TRUTH_M, 50.0)
    assert errors is not None
    assert errors["abs_rel"] == pytest.approx((0.2 + 0 + 0.25) / 3)
    assert errors["rmse"] == pytest.approx(math.sqrt(104 / 3))
    assert errors["delta1"] == pytest.approx(1 / 3)


def test_the_example_with_median_scaling() -> None:
    """At 80 m: median(truth) 30, median(prediction) 35 before clipping; then 100 * 6/7 = 85.7 is clipped."""
    scale = 30 / 35
    assert median_scale(PREDICTED_M, TRUTH_M, 80.0) == pytest.approx(scale)
    scaled = [8 * scale, 20 * scale, 50 * scale, 80.0]
    expected = [abs(p - t) / t for p, t in zip(scaled, TRUTH, strict=True)]
    errors = errors_at_caps(PREDICTED_M, TRUTH_M, median_scaled=True)
    assert errors["abs_rel_80m"] == pytest.approx(sum(expected) / 4)
    # At 50 m by the medians of its own three points, both 20: nothing changes.
    assert median_scale(PREDICTED_M, TRUTH_M, 50.0) == pytest.approx(1.0)
    assert errors["abs_rel_50m"] == pytest.approx(0.45 / 3)


def test_the_example_by_distance() -> None:
    rows = errors_by_distance(PREDICTED_M, TRUTH_M, (0.0, 10.0, 30.0, 64.0, 80.0))
    assert [count for count, _, _ in rows] == [0, 2, 1, 1], "an edge belongs to the bin that begins there"
    assert math.isnan(rows[0][1]) and math.isnan(rows[0][2])
    assert rows[1][1:] == pytest.approx((0.1, 0.5))
    assert rows[2][1:] == pytest.approx((0.25, 0.0))
    assert rows[3][1:] == pytest.approx((0.25, 0.0))


# --- the formulas ----------------------------------------------------------------------------------------------------


def formulas(prediction: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> dict[str, float]:
    """The seven measures as papers print them, of points [N]."""
    n = len(truth)
    threshold = np.where(truth > prediction, truth / prediction, prediction / truth)
    return {
        "abs_rel": float(np.sum(np.abs(truth - prediction) / truth) / n),
        "sq_rel": float(np.sum((truth - prediction) ** 2 / truth) / n),
        "rmse": float(np.sqrt(np.sum((truth - prediction) ** 2) / n)),
        "rmse_log": float(np.sqrt(np.sum((np.log(truth / prediction)) ** 2) / n)),
        **{f"delta{k}": float(np.count_nonzero(threshold < 1.25**k) / n) for k in (1, 2, 3)},
    }


def random_frame(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A dense prediction and a sparse truth, some of it beyond every cap."""
    truth = rng.uniform(1, 120, (HEIGHT, WIDTH)).astype(np.float32)
    truth[rng.random(truth.shape) > 0.05] = 0
    return (truth * 0 + rng.lognormal(3, 0.7, truth.shape)).astype(np.float32), truth


@pytest.mark.parametrize("cap_m", CAPS_M)
@pytest.mark.parametrize("scaled", [False, True])
def test_random_frames_by_the_formulas(rng: np.random.Generator, cap_m: float, scaled: bool) -> None:
    prediction_m, truth_m = random_frame(rng)
    rows, columns = np.nonzero((truth_m > 1e-3) & (truth_m < cap_m))
    inside = (rows >= 153) & (rows < 371) & (columns >= 44) & (columns < 1197)  # the crop of 375 x 1242
    truth = truth_m[rows, columns][inside].astype(np.float64)
    prediction = prediction_m[rows, columns][inside].astype(np.float64)
    if scaled:
        prediction *= np.median(truth) / np.median(prediction)
    expected = formulas(np.clip(prediction, 1e-3, cap_m), truth)
    found = errors_at_caps(prediction_m, truth_m, (cap_m,), median_scaled=scaled)
    assert found == pytest.approx({f"{name}_{cap_m:g}m": value for name, value in expected.items()}, rel=1e-6)


def test_bins_add_up_to_the_whole(rng: np.random.Generator) -> None:
    prediction_m, truth_m = random_frame(rng)
    whole = depth_errors(prediction_m, truth_m, 80.0)
    assert whole is not None
    rows = errors_by_distance(prediction_m, truth_m)
    total = sum(count for count, _, _ in rows)
    assert sum(count * abs_rel for count, abs_rel, _ in rows) / total == pytest.approx(whole["abs_rel"])
    assert sum(count * delta1 for count, _, delta1 in rows) / total == pytest.approx(whole["delta1"])


# --- traps -----------------------------------------------------------------------------------------------------------


def test_a_common_factor_vanishes_with_median_scaling_only() -> None:
    truth = TRUTH_M
    thrice = np.where(truth > 0, 3 * truth, 3).astype(np.float32)
    found = frame_errors(thrice, truth)
    assert found.scale == pytest.approx(1 / 3)
    assert found.median_scaled["abs_rel_50m"] == pytest.approx(0, abs=1e-6)
    assert found.errors["abs_rel_50m"] == pytest.approx((2 + 1.5 + 0.25) / 3), "clipped to 50 m, and not scaled"


def test_truth_outside_the_crop_is_not_compared() -> None:
    outside = np.where(garg_mask(HEIGHT, WIDTH), 0, 10).astype(np.float32)
    found = frame_errors(np.full_like(outside, 20), outside)
    assert (found.known, found.seen, found.errors, found.median_scaled, found.scale) == (0, 0, {}, {}, None)
    assert all(count == 0 for count, _, _ in found.by_distance)


def test_a_frame_without_a_single_point() -> None:
    found = frame_errors(np.full((HEIGHT, WIDTH), 20, np.float32), np.zeros((HEIGHT, WIDTH), np.float32))
    assert (found.errors, found.scale) == ({}, None)
    assert median_scale(PREDICTED_M, TRUTH_M * 0) is None


def test_empty_rows_change_nothing() -> None:
    """Scan lines leave whole rows without a point: they neither count nor weigh."""
    dense = np.zeros((HEIGHT, WIDTH), np.float32)
    dense[200], dense[210] = 10, 10
    moved = np.zeros_like(dense)
    moved[200], moved[340] = 10, 10
    prediction = np.full_like(dense, 12)
    assert depth_errors(prediction, dense) == depth_errors(prediction, moved)


def test_truth_that_is_not_a_number_is_no_truth() -> None:
    truth = TRUTH_M.copy()
    truth[230, 600], truth[231, 600] = np.nan, np.inf
    assert frame_errors(PREDICTED_M, truth).errors == frame_errors(PREDICTED_M, TRUTH_M).errors


def test_what_the_network_did_not_see_is_counted_but_not_compared() -> None:
    prediction = PREDICTED_M.copy()
    prediction[PLACES[0]] = np.nan
    found = frame_errors(prediction, TRUTH_M)
    assert (found.known, found.seen) == (4, 3)
    assert found.errors["abs_rel_80m"] == pytest.approx(0.5 / 3)
    assert found.scale == pytest.approx(40 / 50)


@pytest.mark.parametrize("value", [0.0, -5.0, 1e30])
def test_predictions_beyond_reason_stay_finite(value: float) -> None:
    found = frame_errors(np.full((HEIGHT, WIDTH), value, np.float32), TRUTH_M)
    assert set(found.errors) == {f"{name}_{cap:g}m" for name in DEPTH_METRICS for cap in CAPS_M}
    assert all(math.isfinite(number) for number in (*found.errors.values(), *found.median_scaled.values()))
