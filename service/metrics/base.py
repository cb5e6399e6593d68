"""What every area of the metrics is made with: label types, buckets, and the registrar that keeps their documentation.

Labels are bounded: models and versions come from the zoo, variants, tasks, stages, outcomes and error codes from
fixed lists, kernels from the operator's table, experiments and arms from their declarations, and HTTP paths are route
templates, never what the client typed.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from typing import Generic, Literal, NamedTuple, TypedDict, TypeVar, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.registry import Collector

from service.metrics.later import Settling

# The client's gauges of when each counter and histogram was made: a series more for each, which no rule asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

Stage = Literal["decode", "preprocess", "queue", "inference", "postprocess", "total"]
RequestOutcome = Literal["ok", "client_error", "server_error", "rejected", "expired", "cancelled"]

STAGES: tuple[Stage, ...] = get_args(Stage)
OUTCOMES: tuple[RequestOutcome, ...] = get_args(RequestOutcome)

#: Upper bounds of every time histogram, seconds: 100 us, growing by half, up to 28.8 s.
TIME_BUCKETS: tuple[float, ...] = tuple(float(f"{1e-4 * 1.5**i:.3g}") for i in range(32))

#: Upper bounds of the deadlines that clients set, seconds: each third of `TIME_BUCKETS`, and thus what latency promises
#: are made at (deploy/prometheus/rules/slo.yml).
DEADLINE_BUCKETS: tuple[float, ...] = TIME_BUCKETS[1::3]

BATCH_BUCKETS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128)

#: Labels of what was asked for, of what ran, and of a model whatever its variant.
TARGET = ("task", "model", "version", "variant")
RUN = (*TARGET, "kernel")
MODEL = ("task", "model", "version")


class Histogram(prometheus_client.Histogram):
    """Prometheus' histogram, its bucket found by halving: there are 32 of them, and eight values a request."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Counts a value in the first bucket that holds it."""
        if exemplar is not None:
            raise ValueError("these histograms keep no exemplars")
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Counts values; a bucket that holds several is counted up once."""
        bounds = self._upper_bounds
        self._sum.inc(sum(amounts))
        for bucket, count in Counts(bisect_left(bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(count)


MetricT = TypeVar("MetricT", Counter, Histogram)


class TargetLabels(TypedDict):
    """What a request asked for: labels of what may happen before it runs."""

    task: str
    model: str
    version: str
    variant: str


class RunLabels(TargetLabels):
    """What ran: the target, and the instruction set of its kernel (`onnxruntime` for float networks)."""

    kernel: str


class Children(Generic[MetricT]):
    """The children of a metric by their labels, each looked up in the metric once.

    For what is counted several times a request and never removed: the metric itself checks and copies the labels
    each time, under a lock.

    Args:
        metric: A counter or histogram with labels.
    """

    def __init__(self, metric: MetricT) -> None:
        self._metric: MetricT = metric
        self._known: dict[tuple[tuple[str, object], ...], MetricT] = {}

    def __call__(self, **labels: object) -> MetricT:
        """The child of these labels."""
        key = tuple(labels.items())
        child = self._known.get(key)
        if child is None:
            child = self._known[key] = self._metric.labels(**labels)
        return child


def replace_series(gauge: Gauge, shown: set[tuple[str, ...]], values: Mapping[tuple[str, ...], float]) -> None:
    """Shows new values of a gauge, and takes away series that have none: in this order, so that a scrape misses none.

    Args:
        gauge: With labels.
        shown: Values of the labels of the series that may be taken away; becomes those that are shown.
        values: By the values of the labels.
    """
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
    for labels in shown - values.keys():
        gauge.remove(*labels)
    shown.clear()
    shown.update(values)


class MetricDoc(NamedTuple):
    """One metric as docs/metrics.md shows it."""

    name: str
    type: str
    labels: tuple[str, ...]
    description: str


class Registrar:
    """Makes metrics, registers them and remembers how docs/metrics.md describes them.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.later = Settling(registry).later
        self.docs: list[MetricDoc] = []

    def counter(self, name: str, description: str, labels: tuple[str, ...]) -> Counter:
        """A figure that only grows; its name ends in `_total`."""
        self.docs.append(MetricDoc(name, "counter", labels, description))
        return Counter(name, description, labels, registry=self.registry)

    def gauge(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Gauge:
        """A figure that rises and falls."""
        self.docs.append(MetricDoc(name, "gauge", labels, description))
        return Gauge(name, description, labels, registry=self.registry)

    def histogram(self, name: str, description: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        """Counts of values by upper bound."""
        self.docs.append(MetricDoc(name, "histogram", labels, description))
        return Histogram(name, description, labels, registry=self.registry, buckets=buckets)

    def collector(self, collector: Collector) -> None:
        """Registers figures that are read when Prometheus asks; gauges without labels."""
        self.registry.register(collector)
        self.docs += [MetricDoc(family.name, "gauge", (), family.documentation) for family in collector.collect()]


def flag(value: bool) -> str:
    """A label's value for yes and no."""
    return "true" if value else "false"
