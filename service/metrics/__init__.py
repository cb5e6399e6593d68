"""Every Prometheus object of the service, one area a file. The registry is injected: each test has its own."""

from prometheus_client import CollectorRegistry

from service.metrics.base import (
    BATCH_BUCKETS,
    DEADLINE_BUCKETS,
    OUTCOMES,
    STAGES,
    TIME_BUCKETS,
    MetricDoc,
    Outcome,
    Registrar,
    RunLabels,
    Stage,
    TargetLabels,
)
from service.metrics.experiments import Bounds, ExperimentMetrics, FeedbackMetrics
from service.metrics.models import ModelMetrics, WorkMeter, weight_bytes
from service.metrics.parity import ParityMetrics
from service.metrics.process import MemoryCollector, ProcessMetrics
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
    "MemoryCollector",
    "MetricDoc",
    "Metrics",
    "Outcome",
    "ParityMetrics",
    "RunLabels",
    "Stage",
    "TargetLabels",
    "WorkMeter",
    "markdown_table",
    "weight_bytes",
]


class Metrics(RequestMetrics, ModelMetrics, ProcessMetrics):
    """The service's metrics; docs/metrics.md describes each of them.

    Args:
        registry: Where they are registered.

    Attributes:
        experiments: Of experiments.
        feedback: Of feedback and its store.
        parity: Of the parity monitor.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._registrar = Registrar(registry)
        RequestMetrics.__init__(self, self._registrar)
        ModelMetrics.__init__(self, self._registrar)
        self.experiments = ExperimentMetrics(self._registrar)
        self.feedback = FeedbackMetrics(self._registrar)
        self.parity = ParityMetrics(self._registrar)
        ProcessMetrics.__init__(self, self._registrar)

    def remove_model(self, model: str, version: str) -> None:
        """Takes a model that is no longer served out of the gauges; its counters stay, as counters must."""
        super().remove_model(model, version)
        self.parity.remove(model, version)

    def documentation(self) -> list[MetricDoc]:
        """Every metric of the service itself, in order."""
        return list(self._registrar.docs)


def markdown_table() -> str:
    """The table of docs/metrics.md: `python -c "import service.metrics as m; print(m.markdown_table())"`."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for doc in Metrics(CollectorRegistry()).documentation():
        labels = ", ".join(f"`{label}`" for label in doc.labels) or "none"
        lines.append(f"| `{doc.name}` | {doc.type} | {labels} | {doc.description} |")
    return "\n".join(lines)
