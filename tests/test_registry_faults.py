"""The registry: faults in one model, or in the code that loads it, do not affect the others."""

from pathlib import Path

import pytest

from service.backends import backend_for
from service.card import Card
from service.errors import ModelBrokenError
from service.registry import Registry
from service.settings import load_settings
from tests.test_onnx_file import nested
from tests.test_registry import load, replace_model, without_op
from tests.tiny_zoo import write_zoo


@pytest.fixture
def zoo(tmp_path) -> Path:
    return write_zoo(tmp_path / "zoo")


class Exploding:
    """A backend with a fault of its own."""

    name = "exploding"

    def load(self, *_, **__):
        raise ZeroDivisionError("a fault in the runtime")


def test_a_fault_of_the_runtime_takes_down_one_variant_only(zoo):
    registry = load(zoo, find_backend=lambda variant: Exploding() if variant == "reference" else backend_for(variant))
    with pytest.raises(ModelBrokenError, match="ZeroDivisionError; see the service"):
        registry.resolve("classify", "tiny-bireal", "reference")
    assert registry.resolve("classify", "tiny-colours").variant == "full"


def test_a_file_that_nests_too_deeply_is_refused_and_the_others_are_served(zoo):
    """It ended the thread that loads the models, and the service was starting for good."""
    replace_model(zoo / "tiny-ramp" / "1", nested(3000))
    registry = load(zoo, find_backend=without_op, fallback="reference")
    assert list(registry.broken()) == ["tiny-ramp@1"]
    assert "nested more than 100 levels" in str(registry.broken()["tiny-ramp@1"])
    assert registry.resolve("classify", "tiny-colours").variant == "full"
    assert registry.readiness().state == "ready"


def test_a_fault_while_a_file_is_verified_takes_down_its_model_only(zoo, monkeypatch, caplog):
    def verify(card: Card) -> None:
        if card.name == "tiny-ramp":
            raise RecursionError("a fault in the verification")

    monkeypatch.setattr(Card, "verify_file", verify)
    seen = []
    registry = Registry(load_settings({"model_dir": zoo, "fallback": "reference"}), find_backend=without_op)
    registry.observe(lambda card, variant, handle, _: seen.append((card.name, variant, handle is not None)))
    registry.load()
    with pytest.raises(ModelBrokenError, match=r"model\.onnx cannot be verified: RecursionError; see the service"):
        registry.resolve("depth", "tiny-ramp")
    assert ("tiny-ramp", "full", False) in seen
    assert "a fault in the verification" in caplog.text
    assert registry.resolve("classify", "tiny-colours").variant == "full"


def test_a_fault_that_ends_the_loading_is_logged_and_the_service_does_not_start_for_good(zoo, caplog):
    def report(*_) -> None:
        raise ZeroDivisionError("a fault in a gauge")

    registry = Registry(load_settings({"model_dir": zoo}), find_backend=without_op)
    registry.observe(report)
    with pytest.raises(ZeroDivisionError):
        registry.load()
    assert "a fault in a gauge" in caplog.text
    assert registry.readiness().state == "failed"
