"""Metrics of requests: stages, outcomes, HTTP, and the queue."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Unpack

from prometheus_client import Counter

from service.errors import ServiceError
from service.imaging import ImageReport
from service.metrics.base import (
    BATCH_BUCKETS,
    DEADLINE_BUCKETS,
    MODEL,
    OUTCOMES,
    RUN,
    STAGES,
    TARGET,
    TIME_BUCKETS,
    Children,
    Histogram,
    Registrar,
    RequestOutcome,
    RunLabels,
    Stage,
    TargetLabels,
    flag,
)
from service.metrics.totals import SizesOf, Totals, totals

#: Status codes of requests to a network that the service-level objectives and alerts use.
_WATCHED_STATUSES = (200, 429, 500, 503, 504)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AnswerMeter:
    """Counts the answers of one network.

    Args:
        answers: Counter of answers.
        stages: Histogram of the time of each stage.
        metrics: Registrar of the metrics.
    """

    def __init__(self, answers: Counter, stages: dict[Stage, Histogram], metrics: Registrar) -> None:
        self._answers, self._stages = answers, stages
        #: Counts one answered image, given the seconds of each stage. The mapping must not be modified afterwards.
        self.answered: Callable[[Mapping[Stage, float]], None] = metrics.buffered(self._count).add

    def _count(self, answers: list[Mapping[Stage, float]]) -> None:
        self._answers.inc(len(answers))
        for stage, histogram in self._stages.items():
            histogram.observe_all([seconds[stage] for seconds in answers if stage in seconds])


class _Http(NamedTuple):
    """An answered request: its labels and its time."""

    method: str
    route: str
    status: int
    seconds: float


class RequestMetrics:
    """Metrics of requests and their images.

    Args:
        metrics: Registrar for the metrics.

    Attributes:
        queue_depth: Gauge of the images that are waiting for a worker.
        decode_queue_depth: Gauge of what is waiting for a decoding thread.
        in_flight: Gauge of the requests that are being answered.
    """

    def __init__(self, metrics: Registrar) -> None:
        # Requests
        self._stage = metrics.histogram(
            "bireal_stage_seconds", "Time of one stage of one image.", (*RUN, "stage"), TIME_BUCKETS
        )
        self._requests = metrics.counter(
            "bireal_requests_total", "Images by the outcome of their request.", (*RUN, "outcome")
        )
        self._rejected = metrics.counter(
            "bireal_rejected_total", "Images rejected (429) because a queue was full.", TARGET
        )
        self._expired = metrics.counter(
            "bireal_expired_total", "Images not answered because their deadline passed.", TARGET
        )
        self._cancelled = metrics.counter(
            "bireal_cancelled_total", "Images not answered because the client disconnected.", TARGET
        )
        self._problems = metrics.counter("bireal_problems_total", "Error responses, by their code.", ("code",))
        self._images = metrics.counter(
            "bireal_images_total",
            "Uploaded images decoded, once each, by format and by whether they had to be converted to 8-bit RGB.",
            ("format", "converted"),
        )
        self._comparisons = metrics.counter(
            "bireal_comparisons_total",
            "Images that two variants answered, by whether the variants agreed.",
            ("task", "model_a", "variant_a", "model_b", "variant_b", "agree"),
        )
        self._fallback = metrics.counter(
            "bireal_fallback_total",
            "Images answered by another variant than the requested one, because the operator cannot run.",
            (*MODEL, "requested", "ran"),
        )
        self._http = metrics.counter(
            "bireal_http_requests_total", "HTTP requests; route is its template.", ("method", "route", "status")
        )
        self._http_seconds = metrics.histogram(
            "bireal_http_request_seconds", "Time until the end of the response.", ("method", "route"), TIME_BUCKETS
        )
        self._client_deadline = metrics.histogram(
            "bireal_client_deadline_seconds",
            "Length of the deadlines that passed (504) and that clients had set, below the service's own limit.",
            ("route",),
            DEADLINE_BUCKETS,
        )

        # Queue
        self.queue_depth = metrics.gauge("bireal_queue_depth", "Images that are waiting for a worker.")
        self.decode_queue_depth = metrics.gauge(
            "bireal_decode_queue_depth", "Images, request bodies and answers that are waiting for a decoding thread."
        )
        self.in_flight = metrics.gauge("bireal_in_flight", "Requests that are being answered.")
        self._queue_limit = metrics.gauge(
            "bireal_queue_limit",
            "Images that may wait for one variant of one model, or one task's decoding; more are rejected with 429.",
        )
        self._workers = metrics.gauge("bireal_workers", "Networks that can run at the same time.")
        self._batch = metrics.histogram("bireal_batch_size", "Images per run.", RUN, BATCH_BUCKETS)

        # Caches for the metrics that every image is counted in.
        self._stage_of, self._batch_of = Children(self._stage), Children(self._batch)
        self._requests_of, self._images_of = Children(self._requests), Children(self._images)
        self._http_of, self._http_seconds_of = Children(self._http), Children(self._http_seconds)
        self._sizes: dict[SizesOf, Counts[int]] = {}  # exact, which the histogram's buckets are not
        self._registrar = metrics
        self._meters: dict[tuple[tuple[str, object], ...], AnswerMeter] = {}
        self._http_buffer = metrics.buffered(self._count_http)
        self._images_buffer = metrics.buffered(self._count_images)

    def set_capacity(self, *, queue_limit: int, workers: int) -> None:
        """Sets the limits of the queue and the workers, so that alert rules can compare the queue with them."""
        self._queue_limit.set(queue_limit)
        self._workers.set(workers)

    def begin(self, **run: Unpack[RunLabels]) -> None:
        """Creates the series of a served network at 0, because `rate` misses the first event of a new series."""
        target = {name: run[name] for name in TARGET}  # type: ignore[literal-required]
        for counter in (self._rejected, self._expired, self._cancelled):
            counter.labels(**target)
        for outcome in OUTCOMES:
            self._requests_of(**run, outcome=outcome)
        self._stage_of(**run, stage="total")

    def begin_routes(self, routes: Iterable[str]) -> None:
        """Does the same for the routes that run a network; see `begin`."""
        for route in routes:
            for status in _WATCHED_STATUSES:
                self._http_of(method="POST", route=route, status=str(status))
            self._client_deadline.labels(route=route)

    def begin_fallback(self, *, task: str, model: str, version: str) -> None:
        """Does the same for a binary model's answers by its reference; see `begin`."""
        self._fallback.labels(task=task, model=model, version=version, requested="binary", ran="reference")

    def answered_by(self, **run: Unpack[RunLabels]) -> "AnswerMeter":
        """Returns the meter of one network's answers, whose labels are looked up only once."""
        key = tuple(run.items())
        if key not in self._meters:
            stages = {stage: self._stage_of(**run, stage=stage) for stage in STAGES}
            self._meters[key] = AnswerMeter(self._requests_of(**run, outcome="ok"), stages, self._registrar)
        return self._meters[key]

    def count_request(self, outcome: RequestOutcome, images: int = 1, **run: Unpack[RunLabels]) -> None:
        """Counts images by the outcome of their request."""
        self._requests_of(**run, outcome=outcome).inc(images)

    def count_rejected(self, images: int, **target: Unpack[TargetLabels]) -> None:
        """Counts images that were rejected because a queue was full."""
        self._rejected.labels(**target).inc(images)

    def count_expired(self, images: int, **target: Unpack[TargetLabels]) -> None:
        """Counts images whose deadline passed before they were answered."""
        self._expired.labels(**target).inc(images)

    def count_cancelled(self, images: int, **target: Unpack[TargetLabels]) -> None:
        """Counts images whose client disconnected before they were answered."""
        self._cancelled.labels(**target).inc(images)

    def count_problem(self, code: str) -> None:
        """Counts an error response by its `ServiceError.code`."""
        self._problems.labels(code=code).inc()

    def count_unread(self, error: ServiceError, begun: bool) -> None:
        """Counts an error response to what is no whole request: its route is `unmatched` and its method `other`.

        It has no time, because no request began.

        Args:
            error: The error that was sent.
            begun: Whether the application had begun the request, which it counts itself as one whose client left.
        """
        self.count_problem(error.code)
        if not begun:
            self._http_of(method="other", route="unmatched", status=str(error.status)).inc()

    def count_image(self, report: ImageReport) -> None:
        """Counts a decoded image."""
        self._images_buffer.add((report.format, report.converted is not None))

    def _count_images(self, images: list[tuple[str, bool]]) -> None:
        for (kind, converted), count in Counts(images).items():
            self._images_of(format=kind, converted=flag(converted)).inc(count)

    def count_comparison(self, task: str, a: tuple[str, str], b: tuple[str, str], *, agree: bool) -> None:
        """Counts an image that two variants answered; `a` and `b` are (model, variant)."""
        self._comparisons.labels(
            task=task, model_a=a[0], variant_a=a[1], model_b=b[0], variant_b=b[1], agree=flag(agree)
        ).inc()

    def count_fallback(self, *, task: str, model: str, version: str, requested: str, ran: str) -> None:
        """Counts an image that another variant than the requested one answered."""
        self._fallback.labels(task=task, model=model, version=version, requested=requested, ran=ran).inc()

    def observe_http(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Records one HTTP request.

        Args:
            method: Method of the request; unknown methods are counted together.
            route: Template of the matched route, or None.
            status: Status code of the response.
            seconds: Time from the request to the end of the response.
        """
        method = method if method in _METHODS else "other"
        self._http_buffer.add(_Http(method, route or "unmatched", status, seconds))

    def _count_http(self, requests: list[_Http]) -> None:
        spent: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for one in requests:
            spent[one.method, one.route].append(one.seconds)
        for (method, route), seconds in spent.items():
            self._http_seconds_of(method=method, route=route).observe_all(seconds)
        for (method, route, status), count in Counts(one[:3] for one in requests).items():
            self._http_of(method=method, route=route, status=str(status)).inc(count)

    def observe_client_deadline(self, route: str | None, seconds: float) -> None:
        """Records a deadline that a client had set and that passed; `route` as for `observe_http`."""
        self._client_deadline.labels(route=route or "unmatched").observe(seconds)

    def observe_batches(self, sizes: list[int], **run: Unpack[RunLabels]) -> None:
        """Records the batch sizes of several runs of one network."""
        self._batch_of(**run).observe_all(sizes)
        self._sizes.setdefault((run["model"], run["version"], run["variant"], run["kernel"]), Counts()).update(sizes)

    def totals(self) -> dict[tuple[str, str], Totals]:
        """Totals by name and version of the model."""
        self._registrar.flush()
        return totals(self._requests, self._stage, self._sizes)
