"""Metrics of experiments and feedback: assignment, mirrored runs, agreement, and their statistics.

Counters belong to this process. Gauges are read from the store of feedback and observations. Replicas that share a
store export the same gauges, so aggregate these with `max`, not with `sum`.
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
    """Scores of a variant by feedback: number of images, and scores by metric."""

    target: TargetLabels
    images: int
    scores: dict[str, Bounds]


class ExperimentMetrics:
    """Metrics of experiments: their state, their traffic and their results.

    Args:
        metrics: Registrar for the metrics.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._running = metrics.gauge(
            "bireal_experiment_running",
            "1 while the experiment takes requests, 0 while it is paused or cannot run (`GET /experiments` says why).",
            ("experiment", "mode"),
        )
        self._weight = metrics.gauge(
            "bireal_experiment_weight",
            "Share of the images that the arm answers (`split`) or runs (`shadow`, `paired`).",
            ("experiment", "arm"),
        )
        self._requests = metrics.counter(
            "bireal_experiment_requests_total", "Images that the arm answered.", ("experiment", "arm")
        )
        self._seconds = metrics.histogram(
            "bireal_experiment_inference_seconds", "Inference time by arm.", ("experiment", "arm"), TIME_BUCKETS
        )
        self._shadow = metrics.counter(
            "bireal_experiment_shadow_total",
            "Mirrored images: `ok` (run), `dropped` (no spare capacity) or `failed`.",
            ("experiment", "outcome"),
        )
        self._pairs = metrics.counter(
            "bireal_experiment_pairs_total",
            "Images that both arms ran, by whether the arms agreed.",
            ("experiment", "agree"),
        )
        self._agreement = metrics.gauge(
            "bireal_experiment_agreement",
            "Share of the stored pairs in which the arms agree, with its exact 95 % confidence interval.",
            ("experiment", "bound"),
        )
        self._latency = metrics.gauge(
            "bireal_experiment_latency_ratio",
            "Inference time of the candidate / the baseline (geometric mean), with its 95 % confidence interval; none "
            "in `shadow`, where the arms do not run under the same load.",
            ("experiment", "bound"),
        )
        self._accuracy = metrics.gauge(
            "bireal_experiment_accuracy",
            "Score of the arm by feedback, with its 95 % confidence interval; metric is `top1`, `delta1` or `abs_rel`.",
            ("experiment", "arm", "metric", "bound"),
        )
        self._labelled = metrics.gauge(
            "bireal_experiment_labelled_pairs",
            "All labelled pairs so far, by which arm was right: `both`, `baseline`, `candidate` or `neither`.",
            ("experiment", "result"),
        )
        self._e_value = metrics.gauge(
            "bireal_experiment_e_value",
            "Evidence that the arms' accuracies differ; valid at any number of looks: 20 is significant at 5 %.",
            ("experiment",),
        )
        self._p_value = metrics.gauge(
            "bireal_experiment_p_value",
            "p-value of the exact test of equal accuracy, valid for one look: McNemar on pairs, Fisher on a split.",
            ("experiment",),
        )

        self._states: defaultdict[str, tuple[set[tuple[str, ...]], ...]] = defaultdict(lambda: (set(), set()))

    def set_state(self, experiment: str, mode: str, *, running: bool, weights: dict[str, float]) -> None:
        """Sets whether an experiment runs and the share of each arm."""
        modes, arms = self._states[experiment]  # the mode and the arms may have changed
        replace_series(self._running, modes, {(experiment, mode): float(running)})
        replace_series(self._weight, arms, {(experiment, arm): weight for arm, weight in weights.items()})

    def count_request(self, experiment: str, arm: str, inference_s: float) -> None:
        """Counts an image that an arm answered."""
        self._requests.labels(experiment=experiment, arm=arm).inc()
        self._seconds.labels(experiment=experiment, arm=arm).observe(inference_s)

    def count_shadow(self, experiment: str, arm: str, outcome: ShadowOutcome, inference_s: float | None = None) -> None:
        """Counts a mirrored image, with its inference time if it ran."""
        self._shadow.labels(experiment=experiment, outcome=outcome).inc()
        if inference_s is not None:
            self._seconds.labels(experiment=experiment, arm=arm).observe(inference_s)

    def count_pair(self, experiment: str, *, agree: bool) -> None:
        """Counts an image that both arms ran."""
        self._pairs.labels(experiment=experiment, agree=flag(agree)).inc()

    def observe_candidate(self, experiment: str, arm: str, inference_s: float) -> None:
        """Records the inference time of the arm that did not answer."""
        self._seconds.labels(experiment=experiment, arm=arm).observe(inference_s)

    def set_agreement(self, experiment: str, bounds: Bounds) -> None:
        """Sets how often the arms agree."""
        for bound, value in bounds._asdict().items():
            self._agreement.labels(experiment=experiment, bound=bound).set(value)

    def set_latency_ratio(self, experiment: str, bounds: Bounds) -> None:
        """Sets the ratio of inference times, candidate / baseline."""
        for bound, value in bounds._asdict().items():
            self._latency.labels(experiment=experiment, bound=bound).set(value)

    def set_accuracy(self, experiment: str, arm: str, metric: str, bounds: Bounds) -> None:
        """Sets an arm's score by feedback."""
        for bound, value in bounds._asdict().items():
            self._accuracy.labels(experiment=experiment, arm=arm, metric=metric, bound=bound).set(value)

    def set_labelled(self, experiment: str, pairs: dict[PairResult, int]) -> None:
        """Sets the number of labelled pairs by which arm was right."""
        for result, count in pairs.items():
            self._labelled.labels(experiment=experiment, result=result).set(count)

    def set_evidence(self, experiment: str, *, e_value: float | None, p_value: float | None) -> None:
        """Sets the results of the tests; None where a test does not apply."""
        for gauge, value in ((self._e_value, e_value), (self._p_value, p_value)):
            if value is not None:
                gauge.labels(experiment=experiment).set(value)

    def clear_results(self, experiment: str) -> None:
        """Removes an experiment's results from the gauges, because it now compares something else."""
        for gauge in (self._agreement, self._latency, self._accuracy, self._labelled, self._e_value, self._p_value):
            gauge.remove_by_labels({"experiment": experiment})

    def remove(self, experiment: str) -> None:
        """Removes an experiment that is no longer declared from the gauges; its counters stay, as counters must."""
        self.clear_results(experiment)
        for gauge, shown in zip((self._running, self._weight), self._states.pop(experiment, ()), strict=False):
            replace_series(gauge, shown, {})


class FeedbackMetrics:
    """Metrics of the clients' feedback and of its store.

    Args:
        metrics: Registrar for the metrics.
    """

    def __init__(self, metrics: Registrar) -> None:
        self._feedback = metrics.counter(
            "bireal_feedback_total",
            "Feedback: `stored`, `repeated` (stored before), `conflicting` (another label than before) or `refused`.",
            ("task", "outcome"),
        )
        self._accuracy = metrics.gauge(
            "bireal_live_accuracy",
            "Score by feedback, with its 95 % confidence interval: exact for `top1` and `top5`, Student's for `delta1` "
            "and `abs_rel`.",
            (*TARGET, "metric", "bound"),
        )
        self._images = metrics.gauge("bireal_live_accuracy_images", "Images behind `bireal_live_accuracy`.", TARGET)
        self._rows = metrics.gauge(
            "bireal_feedback_rows",
            "Rows in the store: `feedback`; `observations` of experiments; `spent`, ids of feedback that was removed "
            "early and must not count again; `subjects` that were counted in a split.",
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
            "Observations of experiments that could not be stored; feedback is never among them.",
            (),
        )

        self._shown: tuple[set[tuple[str, ...]], set[tuple[str, ...]]] = set(), set()

    def count(self, task: str, outcome: FeedbackOutcome) -> None:
        """Counts one feedback request."""
        self._feedback.labels(task=task, outcome=outcome).inc()

    def show_live(self, found: Iterable[LiveScores]) -> None:
        """Sets the scores of these variants and removes all others, whose feedback retention may have removed."""
        accuracy, images = dict[tuple[str, ...], float](), dict[tuple[str, ...], float]()
        for live in found:
            target = live.target["task"], live.target["model"], live.target["version"], live.target["variant"]
            images[target] = live.images
            for metric, bounds in live.scores.items():
                accuracy.update({(*target, metric, bound): value for bound, value in bounds._asdict().items()})
        replace_series(self._accuracy, self._shown[0], accuracy)
        replace_series(self._images, self._shown[1], images)

    def set_store(self, rows: dict[str, int], size_bytes: int) -> None:
        """Sets the number of rows by table, and the size of the store."""
        for table, count in rows.items():
            self._rows.labels(table=table).set(count)
        self._bytes.set(size_bytes)

    def count_removed(self, reason: Literal["age", "count"], rows: int) -> None:
        """Counts rows that retention removed."""
        self._removed.labels(reason=reason).inc(rows)

    def count_lost(self, observations: int) -> None:
        """Counts observations that could not be stored."""
        self._lost.inc(observations)
