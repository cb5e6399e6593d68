"""The service's Prometheus metrics, one area per file. The registry is injected, so that each test has its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from service.card import Card, VariantName
from service.metrics.base import (
    BATCH_BUCKETS,
    DEADLINE_BUCKETS,
    OUTCOMES,
    STAGES,
    TIME_BUCKETS,
    MetricDoc,
    Registrar,
    RequestOutcome,
    RunLabels,
    Stage,
    TargetLabels,
)
from service.metrics.experiments import Bounds, ExperimentMetrics, FeedbackMetrics, LiveScores
from service.metrics.models import ModelMetrics
from service.metrics.parity import ParityMetrics
from service.metrics.process import ProcessMetrics
from service.metrics.requests import AnswerMeter, RequestMetrics

__all__ = [
    "BATCH_BUCKETS",
    "DEADLINE_BUCKETS",
    "OUTCOMES",
    "STAGES",
    "TIME_BUCKETS",
    "AnswerMeter",
    "Bounds",
    "ExperimentMetrics",
    "FeedbackMetrics",
    "LiveScores",
    "Metrics",
    "ParityMetrics",
    "RequestMetrics",
    "RequestOutcome",
    "RunLabels",
    "Stage",
    "TargetLabels",
    "markdown_table",
]


class Metrics:
    """The service's metrics; docs/metrics.md describes each of them.

    Args:
        registry: Registry for the metrics.

    Attributes:
        requests: Metrics of requests and of the queue.
        models: Metrics of models.
        experiments: Metrics of experiments.
        feedback: Metrics of feedback and its store.
        parity: Metrics of the parity monitor.
        process: Metrics of the process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._registrar = Registrar(registry)
        self.requests = RequestMetrics(self._registrar)
        self.models = ModelMetrics(self._registrar)
        self.experiments = ExperimentMetrics(self._registrar)
        self.feedback = FeedbackMetrics(self._registrar)
        self.parity = ParityMetrics(self._registrar)
        self.process = ProcessMetrics(self._registrar)
        self._runs: dict[tuple[object, ...], Callable[[int], None]] = {}

    def runs_of(self, card: Card, variant: VariantName, kernel: str) -> Callable[[int], None]:
        """Returns a function that counts one run of a network, given its number of images. Callable from any thread."""
        work = self.models.work_of(card, variant, kernel)
        run = RunLabels(task=card.task, model=card.name, version=card.version, variant=variant, kernel=kernel)
        # The amounts are part of the key, because they may change when a version is loaded again.
        key = (*run.values(), *(amount for _, amount in work.each_image), work.weight_bytes)
        if key not in self._runs:

            def count(runs: list[int]) -> None:
                self.requests.observe_batches(runs, **run)
                work.run(sum(runs), len(runs))

            # Another worker may have come first: all count in one buffer, which calls `count` in one thread at a time.
            self._runs.setdefault(key, self._registrar.buffered(count).add)
        return self._runs[key]

    def remove_model(self, model: str, version: str) -> None:
        """Removes a model that is no longer served from the gauges; its counters stay, as counters must."""
        self.models.remove(model, version)
        self.parity.remove(model, version)

    def documentation(self) -> list[MetricDoc]:
        """Returns the documentation of the service's own metrics, in order."""
        return list(self._registrar.docs)


def markdown_table() -> str:
    """Returns the table of docs/metrics.md: `python -c "import service.metrics as m; print(m.markdown_table())"`."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for doc in Metrics(CollectorRegistry()).documentation():
        labels = ", ".join(f"`{label}`" for label in doc.labels) or "none"
        lines.append(f"| `{doc.name}` | {doc.type} | {labels} | {doc.description} |")
    return "\n".join(lines)
