"""Metrics of requests: stages, outcomes, HTTP, and the queue."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Unpack

from prometheus_client import Counter

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
    Outcome,
    Registrar,
    RunLabels,
    Stage,
    TargetLabels,
    flag,
)

#: What a request for an answer may end with that promises and alerts ask about.
_WATCHED_STATUSES = (200, 429, 500, 503, 504)

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AnswerMeter:
    """Counts the answers of one network.

    Args:
        answers: How many there were.
        stages: Their stages' times.
        metrics: Where they are made.
    """

    def __init__(self, answers: Counter, stages: dict[Stage, Histogram], metrics: Registrar) -> None:
        self._answers, self._stages = answers, stages
        #: Takes the seconds of each stage of an image that was answered, and counts it. The mapping must not change.
        self.answered: Callable[[Mapping[Stage, float]], None] = metrics.later(self._count).add

    def _count(self, answers: list[Mapping[Stage, float]]) -> None:
        self._answers.inc(len(answers))
        for stage, histogram in self._stages.items():
            histogram.observe_all([seconds[stage] for seconds in answers if stage in seconds])


class _Http(NamedTuple):
    """A request that was answered, by the labels that it is counted with."""

    method: str
    route: str
    status: int
    seconds: float


class RequestMetrics:
    """What became of the images that clients sent.

    Args:
        metrics: Where they are made.

    Attributes:
        queue_depth: Images that wait for a worker now: `.set`, `.inc`, `.dec`.
        in_flight: Requests that are being answered now.
    """

    def __init__(self, metrics: Registrar) -> None:
        # Requests
        self._stage = metrics.histogram(
            "bireal_stage_seconds", "Time of one stage of one image.", (*RUN, "stage"), TIME_BUCKETS
        )
        self._requests = metrics.counter(
            "bireal_requests_total", "Images by how their request ended.", (*RUN, "outcome")
        )
        self._rejected = metrics.counter("bireal_rejected_total", "Refused because the queue was full.", TARGET)
        self._expired = metrics.counter("bireal_expired_total", "Dropped because their deadline passed.", TARGET)
        self._cancelled = metrics.counter("bireal_cancelled_total", "Dropped because the client had gone.", TARGET)
        self._problems = metrics.counter("bireal_problems_total", "Errors answered, by their code.", ("code",))
        self._images = metrics.counter(
            "bireal_images_total",
            "Images decoded, by format and whether they had to be converted.",
            ("format", "converted"),
        )
        self._comparisons = metrics.counter(
            "bireal_comparisons_total",
            "Images answered by two variants, by whether these agreed.",
            ("task", "model_a", "variant_a", "model_b", "variant_b", "agree"),
        )
        self._fallback = metrics.counter(
            "bireal_fallback_total",
            "Images answered by another variant than the one asked for, because the operator cannot run.",
            (*MODEL, "requested", "ran"),
        )
        self._http = metrics.counter(
            "bireal_http_requests_total", "HTTP requests; route is the template.", ("method", "route", "status")
        )
        self._http_seconds = metrics.histogram(
            "bireal_http_request_seconds", "Time from request to end of response.", ("method", "route"), TIME_BUCKETS
        )
        self._client_deadline = metrics.histogram(
            "bireal_client_deadline_seconds",
            "Deadlines that passed (504) and that clients had set, below the service's own limit, by their length.",
            ("route",),
            DEADLINE_BUCKETS,
        )

        # Queue
        self.queue_depth = metrics.gauge("bireal_queue_depth", "Images that wait for a worker.")
        self.in_flight = metrics.gauge("bireal_in_flight", "Requests that are being answered.")
        self._queue_limit = metrics.gauge(
            "bireal_queue_limit", "Images that may wait for one variant of one model; beyond it, 429."
        )
        self._workers = metrics.gauge("bireal_workers", "Networks that can run at the same time.")
        self._batch = metrics.histogram("bireal_batch_size", "Images run together.", RUN, BATCH_BUCKETS)

        # What every image is counted by.
        self._stage_of, self._batch_of = Children(self._stage), Children(self._batch)
        self._requests_of, self._images_of = Children(self._requests), Children(self._images)
        self._http_of, self._http_seconds_of = Children(self._http), Children(self._http_seconds)
        self._registrar = metrics
        self._meters: dict[tuple[tuple[str, object], ...], AnswerMeter] = {}
        self._http_later = metrics.later(self._count_http)
        self._images_later = metrics.later(self._count_images)

    def set_capacity(self, *, queue_limit: int, workers: int) -> None:
        """Shows how much may wait and run, so that rules can compare the queue with what it holds."""
        self._queue_limit.set(queue_limit)
        self._workers.set(workers)

    def begin(self, **run: Unpack[RunLabels]) -> None:
        """Shows the counters of what is served from 0 on: `rate` misses the first of what appears with a value of 1."""
        target = {name: run[name] for name in TARGET}  # type: ignore[literal-required]
        for counter in (self._rejected, self._expired, self._cancelled):
            counter.labels(**target)
        for outcome in OUTCOMES:
            self._requests_of(**run, outcome=outcome)
        self._stage_of(**run, stage="total")

    def begin_routes(self, routes: Iterable[str]) -> None:
        """The same of the routes that answer with a network; see `begin`."""
        for route in routes:
            for status in _WATCHED_STATUSES:
                self._http_of(method="POST", route=route, status=str(status))
            self._client_deadline.labels(route=route)

    def begin_fallback(self, *, task: str, model: str, version: str) -> None:
        """The same of a binary model's answers by its reference; see `begin`."""
        self._fallback.labels(task=task, model=model, version=version, requested="binary", ran="reference")

    def answered_by(self, **run: Unpack[RunLabels]) -> "AnswerMeter":
        """What counts the answers of one network, for who keeps it: the labels are looked up once."""
        key = tuple(run.items())
        if key not in self._meters:
            stages = {stage: self._stage_of(**run, stage=stage) for stage in STAGES}
            self._meters[key] = AnswerMeter(self._requests_of(**run, outcome="ok"), stages, self._registrar)
        return self._meters[key]

    def count_request(self, outcome: Outcome, **run: Unpack[RunLabels]) -> None:
        """Counts one image by how its request ended."""
        self._requests_of(**run, outcome=outcome).inc()

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
        self._images_later.add((report.format, report.converted is not None))

    def _count_images(self, images: list[tuple[str, bool]]) -> None:
        for (kind, converted), count in Counts(images).items():
            self._images_of(format=kind, converted=flag(converted)).inc(count)

    def count_comparison(self, task: str, a: tuple[str, str], b: tuple[str, str], *, agree: bool) -> None:
        """Counts an image that two variants answered; `a` and `b` are (model, variant)."""
        self._comparisons.labels(
            task=task, model_a=a[0], variant_a=a[1], model_b=b[0], variant_b=b[1], agree=flag(agree)
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
        self._http_later.add(_Http(method, route or "unmatched", status, seconds))

    def _count_http(self, requests: list[_Http]) -> None:
        spent: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for one in requests:
            spent[one.method, one.route].append(one.seconds)
        for (method, route), seconds in spent.items():
            self._http_seconds_of(method=method, route=route).observe_all(seconds)
        for (method, route, status), count in Counts(one[:3] for one in requests).items():
            self._http_of(method=method, route=route, status=str(status)).inc(count)

    def observe_client_deadline(self, route: str | None, seconds: float) -> None:
        """Records a deadline of a client's own that passed; `route` as for `observe_http`."""
        self._client_deadline.labels(route=route or "unmatched").observe(seconds)

    def observe_batches(self, sizes: list[int], **run: Unpack[RunLabels]) -> None:
        """Records of several runs of one network how many images were run together."""
        self._batch_of(**run).observe_all(sizes)
