"""Every Prometheus object of the service. The registry is injected: each test has its own.

Labels are bounded: models and versions come from the zoo, variants, tasks, stages, outcomes and error codes from
fixed lists, kernels from the operator's table, and HTTP paths are route templates, never what the client typed.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypedDict, Unpack, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service import host
from service.card import Card, VariantName
from service.imaging import ImageReport

Stage = Literal["decode", "preprocess", "queue", "inference", "postprocess", "total"]
Outcome = Literal["ok", "client_error", "server_error", "rejected", "expired", "cancelled"]

STAGES: tuple[Stage, ...] = get_args(Stage)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

#: Upper bounds of every time histogram, seconds: 100 us, growing by half, up to 28.8 s.
TIME_BUCKETS: tuple[float, ...] = tuple(float(f"{1e-4 * 1.5**i:.3g}") for i in range(32))

BATCH_BUCKETS: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_TARGET = ("task", "model", "version", "variant")
_RUN = (*_TARGET, "kernel")
_MODEL = ("task", "model", "version")


class TargetLabels(TypedDict):
    """What a request asked for: labels of what may happen before it runs."""

    task: str
    model: str
    version: str
    variant: str


class RunLabels(TargetLabels):
    """What ran: the target, and the instruction set of its kernel (`onnxruntime` for float networks)."""

    kernel: str


class MetricDoc(NamedTuple):
    """One metric as docs/metrics.md shows it."""

    name: str
    type: str
    labels: tuple[str, ...]
    description: str


class MemoryCollector(Collector):
    """This process's memory and its limit, read from /proc and the cgroup when Prometheus asks."""

    def collect(self) -> Iterator[Metric]:
        """Yields the figures that the machine states."""
        for name, description, value in (
            ("bireal_process_resident_memory_bytes", "Memory of the process in RAM.", host.resident_memory_bytes()),
            ("bireal_process_peak_memory_bytes", "The most it ever was.", host.peak_memory_bytes()),
            ("bireal_memory_limit_bytes", "Limit of the container; absent without one.", host.memory_limit_bytes()),
        ):
            family = GaugeMetricFamily(name, description)
            if value is not None:
                family.add_metric([], value)
            yield family


class Metrics:
    """The service's metrics; docs/metrics.md describes each of them.

    Args:
        registry: Where they are registered.

    Attributes:
        queue_depth: Images that wait for a worker now: `.set`, `.inc`, `.dec`.
        in_flight: Requests that are being answered now.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._docs: list[MetricDoc] = []

        # Requests
        self._stage = self._histogram(
            "bireal_stage_seconds", "Time of one stage of one image.", (*_RUN, "stage"), TIME_BUCKETS
        )
        self._requests = self._counter(
            "bireal_requests_total", "Images by how their request ended.", (*_RUN, "outcome")
        )
        self._rejected = self._counter("bireal_rejected_total", "Refused because the queue was full.", _TARGET)
        self._expired = self._counter("bireal_expired_total", "Dropped because their deadline passed.", _TARGET)
        self._cancelled = self._counter("bireal_cancelled_total", "Dropped because the client had gone.", _TARGET)
        self._problems = self._counter("bireal_problems_total", "Errors answered, by their code.", ("code",))
        self._images = self._counter(
            "bireal_images_total",
            "Images decoded, by format and whether they had to be converted.",
            ("format", "converted"),
        )
        self._comparisons = self._counter(
            "bireal_comparisons_total",
            "Images answered by two variants, by whether these agreed.",
            ("task", "model_a", "variant_a", "model_b", "variant_b", "agree"),
        )
        self._fallback = self._counter(
            "bireal_fallback_total",
            "Images answered by another variant than the one asked for, because the operator cannot run.",
            (*_MODEL, "requested", "ran"),
        )
        self._http = self._counter(
            "bireal_http_requests_total", "HTTP requests; route is the template.", ("method", "route", "status")
        )
        self._http_seconds = self._histogram(
            "bireal_http_request_seconds", "Time from request to end of response.", ("method", "route"), TIME_BUCKETS
        )

        # Queue
        self.queue_depth = self._gauge("bireal_queue_depth", "Images that wait for a worker.")
        self.in_flight = self._gauge("bireal_in_flight", "Requests that are being answered.")
        self._batch = self._histogram("bireal_batch_size", "Images run together.", _RUN, BATCH_BUCKETS)

        # Models
        self._ready = self._gauge("bireal_ready", "1 when the service answers, 0 while it starts, drains or cannot.")
        self._model_ready = self._gauge("bireal_model_ready", "1 when the variant is warm, 0 when it cannot run.", _RUN)
        self._load_seconds = self._gauge("bireal_model_load_seconds", "Time to load and warm the variant.", _RUN)
        self._weight_bytes = self._gauge(
            "bireal_model_weight_bytes",
            "Weights in memory as the variant runs them; precision is `binary` (1 bit each) or `real`.",
            (*_TARGET, "precision"),
        )
        self._parameters = self._gauge(
            "bireal_model_parameters", "Number of parameters; precision as above.", (*_MODEL, "precision")
        )
        self._artefact_bytes = self._gauge("bireal_model_artefact_bytes", "Size of the model's file.", _MODEL)
        self._session_bytes = self._gauge(
            "bireal_model_session_bytes", "Growth of the process's memory when the variant was loaded.", _TARGET
        )
        self._accuracy = self._gauge(
            "bireal_model_accuracy",
            "Score on a named data set, measured when the model was exported (from its card); fractions 0..1, metres.",
            (*_TARGET, "dataset", "metric"),
        )
        self._accuracy_images = self._gauge(
            "bireal_model_accuracy_images", "Images on which that score rests.", (*_TARGET, "dataset")
        )

        # Work
        self._binary_macs = self._counter("bireal_work_binary_macs_total", "1-bit multiply-accumulates done.", _RUN)
        self._real_macs = self._counter("bireal_work_real_macs_total", "Real multiply-accumulates done.", _RUN)
        self._bops = self._counter(
            "bireal_work_bops_total", "Binary operations done: a real multiply-accumulate counts 64.", _RUN
        )
        self._touched = self._counter(
            "bireal_work_weight_bytes_total", "Weight bytes read by runs: once a run, however large its batch.", _RUN
        )

        # Process and build
        self._build = self._gauge(
            "bireal_build_info",
            "1; the versions, the kernel in use and those that this CPU could run.",
            ("version", "python", "onnxruntime", "kernel", "kernels"),
        )
        memory = MemoryCollector()
        registry.register(memory)
        self._docs += [MetricDoc(family.name, "gauge", (), family.documentation) for family in memory.collect()]
        ProcessCollector(registry=registry)

    # --- requests ----------------------------------------------------------------------------------------------------

    def observe_stage(self, stage: str, seconds: float, **run: Unpack[RunLabels]) -> None:
        """Records the time of one stage (see STAGES) of one image."""
        self._stage.labels(**run, stage=stage).observe(seconds)

    def count_request(self, outcome: Outcome, **run: Unpack[RunLabels]) -> None:
        """Counts one image by how its request ended."""
        self._requests.labels(**run, outcome=outcome).inc()

    def count_rejected(self, **target: Unpack[TargetLabels]) -> None:
        """Counts an image that was refused because the queue was full."""
        self._rejected.labels(**target).inc()

    def count_expired(self, **target: Unpack[TargetLabels]) -> None:
        """Counts an image whose deadline passed before it ran."""
        self._expired.labels(**target).inc()

    def count_cancelled(self, **target: Unpack[TargetLabels]) -> None:
        """Counts an image whose client had gone before it ran."""
        self._cancelled.labels(**target).inc()

    def count_problem(self, code: str) -> None:
        """Counts an error that was answered, by its `ServiceError.code`."""
        self._problems.labels(code=code).inc()

    def count_image(self, report: ImageReport) -> None:
        """Counts a decoded image."""
        self._images.labels(format=report.format, converted=_flag(report.converted is not None)).inc()

    def count_comparison(self, task: str, a: tuple[str, str], b: tuple[str, str], *, agree: bool) -> None:
        """Counts an image that two variants answered; `a` and `b` are (model, variant)."""
        self._comparisons.labels(
            task=task, model_a=a[0], variant_a=a[1], model_b=b[0], variant_b=b[1], agree=_flag(agree)
        ).inc()

    def count_fallback(self, *, task: str, model: str, version: str, requested: str, ran: str) -> None:
        """Counts an image that another variant than the one asked for answered."""
        self._fallback.labels(task=task, model=model, version=version, requested=requested, ran=ran).inc()

    def observe_http(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Records one HTTP request.

        Args:
            method: As sent; unknown ones are counted together.
            route: The template of the route that matched, or None.
            status: Of the response.
            seconds: From the request to the end of the response.
        """
        method = method if method in _METHODS else "other"
        route = route or "unmatched"
        self._http.labels(method=method, route=route, status=str(status)).inc()
        self._http_seconds.labels(method=method, route=route).observe(seconds)

    def observe_batch(self, size: int, **run: Unpack[RunLabels]) -> None:
        """Records how many images were run together."""
        self._batch.labels(**run).observe(size)

    def add_work(self, card: Card, variant: VariantName, kernel: str, images: int) -> None:
        """Counts the arithmetic and the weight traffic of one run.

        Args:
            card: The card of the model that ran.
            variant: How it ran. `reference` does the 1-bit layers' multiply-accumulates in float32, so they count as
                real ones: what is counted is what was done.
            kernel: What ran it.
            images: Images in the run.
        """
        run = RunLabels(task=card.task, model=card.name, version=card.version, variant=variant, kernel=kernel)
        binary, real = card.work.binary_macs, card.work.real_macs
        if variant != "binary":
            binary, real = 0, real + binary
        self._binary_macs.labels(**run).inc(binary * images)
        self._real_macs.labels(**run).inc(real * images)
        self._bops.labels(**run).inc((card.work.bops if variant == "binary" else 64 * real) * images)
        self._touched.labels(**run).inc(sum(weight_bytes(card, variant).values()))

    # --- models ------------------------------------------------------------------------------------------------------

    def set_ready(self, ready: bool) -> None:
        """Shows whether the service answers."""
        self._ready.set(ready)

    def set_card(self, card: Card) -> None:
        """Shows a model's weights, file size and accuracies."""
        model = {"task": card.task, "model": card.name, "version": card.version}
        self._artefact_bytes.labels(**model).set(card.weights.artefact_bytes)
        self._parameters.labels(**model, precision="binary").set(card.weights.binary_params)
        self._parameters.labels(**model, precision="real").set(card.weights.real_params)
        for variant in card.variants:
            for precision, size in weight_bytes(card, variant).items():
                self._weight_bytes.labels(**model, variant=variant, precision=precision).set(size)
        for metric in card.metrics:
            scored = {**model, "variant": metric.variant, "dataset": metric.dataset}
            self._accuracy_images.labels(**scored).set(metric.n)
            for name, value in metric.values.items():
                self._accuracy.labels(**scored, metric=name).set(value)

    def set_loaded(
        self,
        *,
        ready: bool,
        load_seconds: float | None = None,
        session_bytes: int | None = None,
        memory_bytes: Mapping[str, int] | None = None,
        **run: Unpack[RunLabels],
    ) -> None:
        """Shows the state of one variant of a model.

        Args:
            ready: Whether it is warm and answers.
            load_seconds: Time to load and warm it.
            session_bytes: Growth of the process's memory by loading it.
            memory_bytes: Weight bytes in memory by precision (`binary`, `real`) as the backend counted them; they
                replace those computed from the card.
            run: Its labels.
        """
        target = {name: run[name] for name in _TARGET}  # type: ignore[literal-required]
        self._model_ready.labels(**run).set(ready)
        if load_seconds is not None:
            self._load_seconds.labels(**run).set(load_seconds)
        if session_bytes is not None:
            self._session_bytes.labels(**target).set(session_bytes)
        for precision, size in (memory_bytes or {}).items():
            self._weight_bytes.labels(**target, precision=precision).set(size)

    def remove_model(self, model: str, version: str) -> None:
        """Takes a model that is no longer served out of the gauges; its counters stay, as counters must."""
        for gauge in (
            self._model_ready,
            self._load_seconds,
            self._weight_bytes,
            self._parameters,
            self._artefact_bytes,
            self._session_bytes,
            self._accuracy,
            self._accuracy_images,
        ):
            gauge.remove_by_labels({"model": model, "version": version})

    def set_build(self, *, version: str, python: str, onnxruntime: str, kernel: str, kernels: str) -> None:
        """Shows versions, the kernel in use and those that this CPU could run, separated by commas."""
        self._build.clear()
        self._build.labels(version=version, python=python, onnxruntime=onnxruntime, kernel=kernel, kernels=kernels).set(
            1
        )

    def documentation(self) -> list[MetricDoc]:
        """Every metric of the service itself, in order."""
        return list(self._docs)

    # --- registration ------------------------------------------------------------------------------------------------

    def _counter(self, name: str, description: str, labels: tuple[str, ...]) -> Counter:
        self._docs.append(MetricDoc(name, "counter", labels, description))
        return Counter(name, description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Gauge:
        self._docs.append(MetricDoc(name, "gauge", labels, description))
        return Gauge(name, description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        self._docs.append(MetricDoc(name, "histogram", labels, description))
        return Histogram(name, description, labels, registry=self.registry, buckets=buckets)


def weight_bytes(card: Card, variant: VariantName) -> dict[str, int]:
    """Weight bytes in memory by precision, from a card: `reference` holds each 1-bit weight as a float32."""
    if variant == "reference":
        return {"binary": 0, "real": card.weights.real_bytes + 4 * card.weights.binary_params}
    return {"binary": card.weights.binary_bytes, "real": card.weights.real_bytes}


def markdown_table() -> str:
    """The table of docs/metrics.md: `python -c "import service.metrics as m; print(m.markdown_table())"`."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for doc in Metrics(CollectorRegistry()).documentation():
        labels = ", ".join(f"`{label}`" for label in doc.labels) or "none"
        lines.append(f"| `{doc.name}` | {doc.type} | {labels} | {doc.description} |")
    return "\n".join(lines)


def _flag(value: bool) -> str:
    return "true" if value else "false"
