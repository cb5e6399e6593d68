"""Calibration, confusions and intervals of a classifier's scores."""

import numpy as np
import pytest
from scipy.stats import binomtest

from service.calibration import ClassifyScores, expected_calibration_error, reliability


def test_a_calibrated_classifier_has_no_error_and_an_overconfident_one_its_gap():
    probabilities = np.repeat([0.25, 0.75], 100)
    right = np.concatenate([np.arange(100) < 25, np.arange(100) < 75])
    assert expected_calibration_error(probabilities, right) == pytest.approx(0.0)
    assert expected_calibration_error(np.full(200, 0.95), right) == pytest.approx(0.95 - 0.5)
    # a gap in one bin of two that hold the same number of answers
    half = np.concatenate([np.arange(100) < 25, np.arange(100) < 55])
    assert expected_calibration_error(probabilities, half) == pytest.approx(0.1)


def test_edges_belong_to_the_lower_bin_and_nothing_is_lost():
    found = reliability([0.0, 0.5, 0.5000001, 1.0], [True, False, True, True], bins=2)
    assert [item.n for item in found] == [2, 2]
    assert found[0].probability == pytest.approx(0.25)
    assert [item.accuracy for item in found] == [0.5, 1.0]
    rng = np.random.default_rng(5)
    p = rng.random(1000)
    assert sum(item.n for item in reliability(p, p > 0.5)) == 1000
    with pytest.raises(ValueError, match="probabilities for"):
        reliability([0.1], [True, False])


def test_scores_name_what_is_confused():
    scores = ClassifyScores()
    for truth, said, probability in [
        ("cat", "cat", 0.9),
        ("cat", "dog", 0.6),
        ("cat", "dog", 0.5),
        ("dog", "dog", 0.8),
    ]:
        scores.add([said, "cat", "dog"], truth, probability)
    figures, details = scores.summary(), scores.details()
    interval = binomtest(2, 4).proportion_ci(method="exact")
    assert (figures["top1"], figures["top5"], figures["n"]) == (0.5, 1.0, 4)
    assert (figures["top1_low"], figures["top1_high"]) == pytest.approx((interval.low, interval.high))
    assert figures["top5_high"] == 1.0
    assert details["per_class"] == {"cat": [1, 3], "dog": [1, 1]}
    assert details["confusions"] == [{"truth": "cat", "said": "dog", "n": 2}]
    assert figures["ece"] == pytest.approx(expected_calibration_error([0.9, 0.6, 0.5, 0.8], [True, False, False, True]))


def test_no_answers_are_no_error():
    assert ClassifyScores().summary()["ece"] == 0.0
