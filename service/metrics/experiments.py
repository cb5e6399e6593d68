"""Metrics of experiments and feedback: assignment, mirrored runs, agreement, and what the statistics say of them.

Counters belong to this process. Gauges are read from the store of feedback and observations, which replicas may share:
where they do, each of them exports the same figures, so aggregate these with `max`, not with `sum`.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, NamedTuple

from service.metrics.base import TARGET, TIME_BUCKETS, Registrar, TargetLabels, flag, replace_series

ShadowOutcome = Literal["ok", "dropped", "failed"]
FeedbackOutcome = Literal["stored", "repeated", "conflicting", "refused"]
PairResult = Literal["both", "baseline", "candidate", "neither"]


class Bounds(NamedTuple):
    """An estimate with its confidence interval; NaN where there are no data."""

    estimate: float
    lower: float
    upper: float


class LiveScores(NamedTuple):
    """What feedback says of a variant: images, and scores by metric."""

    target: TargetLabels
    images: int
    scores: dict[str, Bounds]


class ExperimentMetrics:
    """What experiments do and what they found.

    Args:
        metrics: Where they are made.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._running = metrics.gauge(
            "bireal_experiment_running",
            "1 while the experiment takes requests, 0 while it is paused or cannot run (`GET /experiments` says why).",
            ("experiment", "mode"),
        )
        self._weight = metrics.gauge(
            "bireal_experiment_weight",
            "Share of the requests that the arm gets: those it answers (`split`), or those in which it also runs.",
            ("experiment", "arm"),
        )
        self._requests = metrics.counter(
            "bireal_experiment_requests_total", "Images that an arm answered.", ("experiment", "arm")
        )
        self._seconds = metrics.histogram(
            "bireal_experiment_inference_seconds", "Time of inference by arm.", ("experiment", "arm"), TIME_BUCKETS
        )
        self._shadow = metrics.counter(
            "bireal_experiment_shadow_total",
            "Mirrored images: run (`ok`), `dropped` for want of room, or `failed`.",
            ("experiment", "outcome"),
        )
        self._pairs = metrics.counter(
            "bireal_experiment_pairs_total",
            "Images that both arms ran, by whether they agreed.",
            ("experiment", "agree"),
        )
        self._agreement = metrics.gauge(
            "bireal_experiment_agreement",
            "Share of the stored pairs in which the arms agree, with its exact 95 % interval.",
            ("experiment", "bound"),
        )
        self._latency = metrics.gauge(
            "bireal_experiment_latency_ratio",
            "Inference time of the candidate / that of the baseline (geometric mean), with its 95 % interval; none of "
            "`shadow`, where the two do not run under the same load.",
            ("experiment", "bound"),
        )
        self._accuracy = metrics.gauge(
            "bireal_experiment_accuracy",
            "Score of an arm by feedback, with its 95 % interval; metric is `top1`, `delta1` or `abs_rel`.",
            ("experiment", "arm", "metric", "bound"),
        )
        self._labelled = metrics.gauge(
            "bireal_experiment_labelled_pairs",
            "Stored pairs with a label, by which arm was right: `both`, `baseline`, `candidate` or `neither`.",
            ("experiment", "result"),
        )
        self._e_value = metrics.gauge(
            "bireal_experiment_e_value",
            "Evidence that the arms' accuracies differ; may be looked at whenever one likes: 20 is 5 % significance.",
            ("experiment",),
        )
        self._p_value = metrics.gauge(
            "bireal_experiment_p_value",
            "Exact test of the arms' accuracies, valid if looked at once: McNemar on pairs, Fisher on a split.",
            ("experiment",),
        )

        self._states: defaultdict[str, tuple[set[tuple[str, ...]], ...]] = defaultdict(lambda: (set(), set()))

    def set_state(self, experiment: str, mode: str, *, running: bool, weights: dict[str, float]) -> None:
        """Shows whether an experiment runs and the share of each arm."""
        modes, arms = self._states[experiment]  # both may be others than before
        replace_series(self._running, modes, {(experiment, mode): float(running)})
        replace_series(self._weight, arms, {(experiment, arm): weight for arm, weight in weights.items()})

    def count_request(self, experiment: str, arm: str, inference_s: float) -> None:
        """Counts an image that an arm answered."""
        self._requests.labels(experiment=experiment, arm=arm).inc()
        self._seconds.labels(experiment=experiment, arm=arm).observe(inference_s)

    def count_shadow(self, experiment: str, arm: str, outcome: ShadowOutcome, inference_s: float | None = None) -> None:
        """Counts a mirrored image, with its time where it ran."""
        self._shadow.labels(experiment=experiment, outcome=outcome).inc()
        if inference_s is not None:
            self._seconds.labels(experiment=experiment, arm=arm).observe(inference_s)

    def count_pair(self, experiment: str, *, agree: bool) -> None:
        """Counts an image that both arms ran."""
        self._pairs.labels(experiment=experiment, agree=flag(agree)).inc()

    def observe_candidate(self, experiment: str, arm: str, inference_s: float) -> None:
        """Records the time of the arm that ran beside the one that answered."""
        self._seconds.labels(experiment=experiment, arm=arm).observe(inference_s)

    def set_agreement(self, experiment: str, bounds: Bounds) -> None:
        """Shows how often the arms agree."""
        for bound, value in bounds._asdict().items():
            self._agreement.labels(experiment=experiment, bound=bound).set(value)

    def set_latency_ratio(self, experiment: str, bounds: Bounds) -> None:
        """Shows candidate / baseline inference time."""
        for bound, value in bounds._asdict().items():
            self._latency.labels(experiment=experiment, bound=bound).set(value)

    def set_accuracy(self, experiment: str, arm: str, metric: str, bounds: Bounds) -> None:
        """Shows an arm's score by feedback."""
        for bound, value in bounds._asdict().items():
            self._accuracy.labels(experiment=experiment, arm=arm, metric=metric, bound=bound).set(value)

    def set_labelled(self, experiment: str, pairs: dict[PairResult, int]) -> None:
        """Shows the labelled pairs by which arm was right."""
        for result, count in pairs.items():
            self._labelled.labels(experiment=experiment, result=result).set(count)

    def set_evidence(self, experiment: str, *, e_value: float | None, p_value: float | None) -> None:
        """Shows what the tests say; None where one does not apply."""
        for gauge, value in ((self._e_value, e_value), (self._p_value, p_value)):
            if value is not None:
                gauge.labels(experiment=experiment).set(value)

    def clear_results(self, experiment: str) -> None:
        """Takes what was found out of the gauges: something else is compared from now on."""
        for gauge in (self._agreement, self._latency, self._accuracy, self._labelled, self._e_value, self._p_value):
            gauge.remove_by_labels({"experiment": experiment})

    def remove(self, experiment: str) -> None:
        """Takes an experiment that is no longer declared out of the gauges; its counters stay, as counters must."""
        self.clear_results(experiment)
        for gauge, shown in zip((self._running, self._weight), self._states.pop(experiment, ()), strict=False):
            replace_series(gauge, shown, {})


class FeedbackMetrics:
    """What clients said of the answers, and what is kept of it.

    Args:
        metrics: Where they are made.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._feedback = metrics.counter(
            "bireal_feedback_total",
            "Feedback: `stored`, `repeated` (known already), `conflicting` (another label than before), `refused`.",
            ("task", "outcome"),
        )
        self._accuracy = metrics.gauge(
            "bireal_live_accuracy",
            "Score by feedback, with its 95 % interval: exact for `top1`, `top5`, Student's for `delta1`, `abs_rel`.",
            (*TARGET, "metric", "bound"),
        )
        self._images = metrics.gauge("bireal_live_accuracy_images", "Images on which that score rests.", TARGET)
        self._rows = metrics.gauge(
            "bireal_feedback_rows",
            "Rows in the store: `feedback`, `observations` of experiments; ids of feedback that was removed early and "
            "must not count again (`spent`); `subjects` that were counted in a split.",
            ("table",),
        )
        self._bytes = metrics.gauge("bireal_feedback_store_bytes", "Size of the store's files.")
        self._removed = metrics.counter(
            "bireal_feedback_removed_total",
            "Rows removed by retention: too old (`age`) or too many (`count`).",
            ("reason",),
        )
        self._lost = metrics.counter(
            "bireal_experiment_observations_lost_total",
            "Observations of experiments that the store did not take; feedback is never among them.",
            (),
        )

        self._shown: tuple[set[tuple[str, ...]], set[tuple[str, ...]]] = set(), set()

    def count(self, task: str, outcome: FeedbackOutcome) -> None:
        """Counts one call."""
        self._feedback.labels(task=task, outcome=outcome).inc()

    def show_live(self, found: Iterable[LiveScores]) -> None:
        """Shows the scores of these variants, and no others: retention may have forgotten one."""
        accuracy, images = dict[tuple[str, ...], float](), dict[tuple[str, ...], float]()
        for live in found:
            target = live.target["task"], live.target["model"], live.target["version"], live.target["variant"]
            images[target] = live.images
            for metric, bounds in live.scores.items():
                accuracy.update({(*target, metric, bound): value for bound, value in bounds._asdict().items()})
        replace_series(self._accuracy, self._shown[0], accuracy)
        replace_series(self._images, self._shown[1], images)

    def set_store(self, rows: dict[str, int], size_bytes: int) -> None:
        """Shows what the store holds."""
        for table, count in rows.items():
            self._rows.labels(table=table).set(count)
        self._bytes.set(size_bytes)

    def count_removed(self, reason: Literal["age", "count"], rows: int) -> None:
        """Counts rows that retention removed."""
        self._removed.labels(reason=reason).inc(rows)

    def count_lost(self, observations: int) -> None:
        """Counts observations that could not be stored."""
        self._lost.inc(observations)
