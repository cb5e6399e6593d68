"""Every Prometheus object of the service. The registry is injected: each test has its own."""

from prometheus_client import CollectorRegistry

from service.card import Card


class Metrics:
    """The service's metrics; docs/metrics.md describes each of them.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

    def observe_stage(  # noqa: PLR0913
        self, stage: str, seconds: float, *, task: str, model: str, version: str, variant: str, kernel: str
    ) -> None:
        """Records the time of one stage (decode, preprocess, queue, inference, postprocess, total) of one image."""
        raise NotImplementedError

    def set_card(self, card: Card) -> None:
        """Shows a model's weights, artefact size and accuracies."""
        raise NotImplementedError
