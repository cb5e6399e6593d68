"""The calibration temperature: found where it was hidden, and folded into an exported graph without changing ranks."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from torch import nn

from models.arch import ArchConfig, DepthNet
from models.eval.calibration import fit_temperature, logits_of, negative_log_likelihood, report, undetermined
from models.export.__main__ import calibration, divide_logits
from models.export.convert import to_onnx
from tests.models.test_distillation import images
from tests.models.test_export import random_network


def drawn(temperature: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times those from which the labels were drawn."""
    rng = np.random.default_rng(4)
    true = rng.normal(0, 2, (count, 5))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    labels = (p.cumsum(1) < rng.random((count, 1))).sum(1)
    return true * temperature, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_calibrates(temperature: float) -> None:
    logits, labels = drawn(temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert report(logits, labels, found)["ece"] < 0.015
    for other in (found * 0.9, found * 1.1):
        assert negative_log_likelihood(logits, labels, other) > negative_log_likelihood(logits, labels, found)


def test_a_network_that_errs_nowhere_or_only_guesses_determines_no_temperature() -> None:
    logits, labels = drawn(1.0)
    assert not undetermined(fit_temperature(logits, labels))
    assert undetermined(fit_temperature(logits, logits.argmax(axis=1)))
    assert undetermined(fit_temperature(100 * logits, labels[::-1]))


def test_likelihood_of_known_answers() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6]]))
    assert negative_log_likelihood(logits, np.array([0, 1]), 1.0) == pytest.approx(-np.log([0.8, 0.6]).mean())


def test_a_folded_temperature_divides_the_served_logits(tmp_path: Path) -> None:
    config = ArchConfig(depth=18, method="none", num_classes=4, width=0.25)
    network = random_network(config)
    data = images(6, 64)
    before = logits_of(network, data, 0)
    divide_logits(network, 2.5)
    session = ort.InferenceSession(to_onnx(network, 64, 64, half=False).SerializeToString())
    (served,) = session.run(None, {"image": data.images})
    assert np.allclose(served * 2.5, before, atol=1e-3)
    assert (served.argmax(1) == before.argmax(1)).all()
    assert "2.500" in calibration(2.5)
    assert "not calibrated" in calibration(1.0)


def test_only_classifiers_have_a_temperature() -> None:
    with pytest.raises(ValueError, match="needs a classifier and a positive number"):
        divide_logits(random_network(ArchConfig(depth=18, method="none", num_classes=4, width=0.25)), 0.0)
    depth = DepthNet.__new__(DepthNet)
    nn.Module.__init__(depth)
    with pytest.raises(ValueError, match="needs a classifier"):
        divide_logits(depth, 2.0)
