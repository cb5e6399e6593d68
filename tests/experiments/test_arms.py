"""Which networks an experiment may compare."""

from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from service.errors import InvalidExperimentError
from service.experiments.declaration import Declaration
from service.experiments.experiments import Experiments
from service.experiments.store import Store
from service.metrics import Metrics


class TwoModels:
    """A registry with models `a` and `b`, which differ in what the test wants."""

    def __init__(self, **differs: object) -> None:
        self._differs = differs

    def resolve(self, task: str, model: str | None, variant: str) -> SimpleNamespace:
        card = {"name": model, "version": "1", "input": 64, "depth": None, "wnids": ("n1", "n2")}
        if model == "b":
            card |= self._differs
        return SimpleNamespace(card=SimpleNamespace(**card), variant=variant, fallback=None)


@pytest.mark.parametrize(
    ("differs", "refused"),
    [
        ({}, None),
        ({"input": 96}, "a and b take different inputs"),
        ({"wnids": ("n1", "n3")}, "a and b have different classes or class orders"),
        ({"wnids": ("n2", "n1")}, "a and b have different classes or class orders"),
    ],
)
def test_arms_have_one_input_and_the_same_classes(differs: dict[str, object], refused: str | None) -> None:
    arms = [{"model": "a", "variant": "full"}, {"model": "b", "variant": "binary"}]
    declared = Declaration.model_validate(
        {"name": "e", "task": "classify", "mode": "paired", "baseline": arms[0], "candidate": arms[1]}
    )
    metrics = Metrics(CollectorRegistry())
    experiments = Experiments([], Store(None), TwoModels(**differs), metrics.experiments)
    if refused is None:
        assert [handle.card.name for handle in experiments.handles(declared)] == ["a", "b"]
    else:
        with pytest.raises(InvalidExperimentError, match=refused):
            experiments.handles(declared)


def test_two_names_of_one_network_are_no_comparison() -> None:
    """A label may move to the version of the other arm: the experiment would find the candidate good enough."""
    declared = Declaration.model_validate(
        {
            "name": "e",
            "task": "classify",
            "mode": "paired",
            "baseline": {"name": "old", "model": "a@stable", "variant": "full"},
            "candidate": {"name": "new", "model": "a@canary", "variant": "full"},
        }
    )
    found = TwoModels()
    networks = {model: found.resolve("classify", "a", "full") for model in ("a@stable", "a@canary")}
    registry = SimpleNamespace(resolve=lambda task, model, variant: networks[model])
    experiments = Experiments([declared], Store(None), registry, Metrics(CollectorRegistry()).experiments)
    assert experiments.assign("classify", None, None, "s") is not None
    networks["a@canary"] = networks["a@stable"]
    with pytest.raises(InvalidExperimentError, match="both arms of 'e' are now full of a@1"):
        experiments.handles(declared)
    assert experiments.assign("classify", None, None, "s") is None
