"""Common parts of the metrics: label types, buckets, and the registrar that keeps their documentation.

The set of label values is bounded: models and versions come from the zoo; variants, tasks, stages, outcomes and error
codes from fixed lists; kernels from the operator's table; experiments and arms from their declarations. HTTP paths are
route templates, never the path in the request.
"""

import math
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from typing import Generic, Literal, NamedTuple, TypedDict, TypeVar, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics
from prometheus_client.registry import Collector

from service.metrics.buffered import Buffers

# Without the `_created` series of each counter and histogram, which no rule or dashboard uses.
disable_created_metrics()  # type: ignore[no-untyped-call]

Stage = Literal["decode", "preprocess", "queue", "inference", "postprocess", "total"]
RequestOutcome = Literal["ok", "client_error", "server_error", "rejected", "expired", "cancelled"]

STAGES: tuple[Stage, ...] = get_args(Stage)
OUTCOMES: tuple[RequestOutcome, ...] = get_args(RequestOutcome)

#: Upper bounds of every time histogram, seconds: from 100 us to 28.8 s, each 1.5 times the one before.
TIME_BUCKETS: tuple[float, ...] = tuple(float(f"{1e-4 * 1.5**i:.3g}") for i in range(32))

#: Upper bounds of the deadlines that clients set, seconds: every third of `TIME_BUCKETS`, which includes the bounds of
#: the latency objectives (deploy/prometheus/rules/slo.yml).
DEADLINE_BUCKETS: tuple[float, ...] = TIME_BUCKETS[1::3]

BATCH_BUCKETS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128)

#: Label names of a requested target, of a run, and of a model regardless of its variant.
TARGET = ("task", "model", "version", "variant")
RUN = (*TARGET, "kernel")
MODEL = ("task", "model", "version")


class Histogram(prometheus_client.Histogram):
    """Prometheus' histogram with a binary search for the bucket: a request observes eight values in 32 buckets.

    A value that is not finite is counted, NaN in the last bucket, but not added to the sum, which would stay NaN or
    infinite until the process ends.
    """

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Counts a value in the first bucket that contains it."""
        if exemplar is not None:
            raise ValueError("these histograms do not support exemplars")
        if math.isfinite(amount):
            self._sum.inc(amount)
        bucket = -1 if math.isnan(amount) else bisect_left(self._upper_bounds, amount)  # NaN would be below all bounds
        self._buckets[bucket].inc(1)

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Counts several values; each bucket is incremented only once."""
        total = sum(amounts)
        if not math.isfinite(total):
            for amount in amounts:
                self.observe(amount)
            return
        bounds = self._upper_bounds
        self._sum.inc(total)
        for bucket, count in Counts(bisect_left(bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(count)


MetricT = TypeVar("MetricT", Counter, Histogram)


class TargetLabels(TypedDict):
    """Labels of a requested target, for events before the run."""

    task: str
    model: str
    version: str
    variant: str


class RunLabels(TargetLabels):
    """Labels of a run: the target, and the instruction set of its kernel (`onnxruntime` for float networks)."""

    kernel: str


class Children(Generic[MetricT]):
    """Cache of a metric's children by their labels.

    For series that are counted several times per request and never removed: `Metric.labels` checks and copies the
    labels under a lock on every call.

    Args:
        metric: A counter or histogram with labels.
    """

    def __init__(self, metric: MetricT) -> None:
        self._metric: MetricT = metric
        self._known: dict[tuple[tuple[str, object], ...], MetricT] = {}

    def __call__(self, **labels: object) -> MetricT:
        """Returns the child with these labels."""
        key = tuple(labels.items())
        child = self._known.get(key)
        if child is None:
            child = self._known[key] = self._metric.labels(**labels)
        return child


def replace_series(gauge: Gauge, shown: set[tuple[str, ...]], values: Mapping[tuple[str, ...], float]) -> None:
    """Sets new values of a gauge, then removes old series without a value, so that no scrape misses a series.

    Args:
        gauge: A gauge with labels.
        shown: Label values of the series that were set last; updated in place.
        values: The new values by label values.
    """
    for labels, value in values.items():
        gauge.labels(*labels).set(value)
    for labels in shown - values.keys():
        gauge.remove(*labels)
    shown.clear()
    shown.update(values)


class MetricDoc(NamedTuple):
    """Documentation of one metric in docs/metrics.md."""

    name: str
    type: str
    labels: tuple[str, ...]
    description: str


class Registrar:
    """Creates and registers metrics, and keeps their documentation for docs/metrics.md.

    Args:
        registry: Registry for the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        buffers = Buffers(registry)
        self.buffered, self.flush = buffers.buffered, buffers.flush
        self.docs: list[MetricDoc] = []

    def counter(self, name: str, description: str, labels: tuple[str, ...]) -> Counter:
        """Creates a counter; its name ends in `_total`."""
        self.docs.append(MetricDoc(name, "counter", labels, description))
        return Counter(name, description, labels, registry=self.registry)

    def gauge(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Gauge:
        """Creates a gauge."""
        self.docs.append(MetricDoc(name, "gauge", labels, description))
        return Gauge(name, description, labels, registry=self.registry)

    def histogram(self, name: str, description: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        """Creates a histogram with these upper bounds."""
        self.docs.append(MetricDoc(name, "histogram", labels, description))
        return Histogram(name, description, labels, registry=self.registry, buckets=buckets)

    def collector(self, collector: Collector) -> None:
        """Registers a collector whose gauges, without labels, are read at each scrape."""
        self.registry.register(collector)
        self.docs += [MetricDoc(family.name, "gauge", (), family.documentation) for family in collector.collect()]


def flag(value: bool) -> str:
    """Returns the label value for a boolean."""
    return "true" if value else "false"
