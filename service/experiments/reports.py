"""Reports: the results of experiments and what they mean, computed once for all who ask, and shown as gauges."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from service import statistics as st
from service.errors import ServiceError
from service.experiments.declaration import Declaration
from service.experiments.experiments import Experiments
from service.experiments.observation import Live
from service.experiments.recorder import Recorder
from service.experiments.results import analyse, frames, interval
from service.experiments.store import Store
from service.experiments.verdict import Design, Estimates, verdict
from service.experiments.wire import IntervalInfo, Results, Verdict
from service.metrics import Bounds, LiveScores, Metrics, TargetLabels
from service.tasks import TASKS

_FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """Results of an experiment.

    Attributes:
        results: The results; None if the experiment cannot run.
        verdict: What the results mean; None if the experiment cannot run.
        networks: Name and version of the models of baseline and candidate; empty if the experiment cannot run.
        problem: Why the experiment cannot run, or None.
    """

    results: Results | None = None
    verdict: Verdict | None = None
    networks: tuple[tuple[str, str], ...] = ()
    problem: str | None = None


class _CachedReport(NamedTuple):
    """A cached report with its declaration, the state of the store, and the time when it was finished."""

    declaration: Declaration
    changes: tuple[int, int]
    at: float
    report: Report


class Reports:
    """The latest report of each experiment, and the gauges of results and feedback.

    Args:
        experiments: The current experiments.
        store: Store of feedback and observations.
        recorder: Holds the observations that are not in the store yet.
        metrics: Receives the results.
    """

    def __init__(self, experiments: Experiments, store: Store, recorder: Recorder, metrics: Metrics) -> None:
        self._experiments, self._store, self._recorder, self._metrics = experiments, store, recorder, metrics
        self._analyst = ThreadPoolExecutor(1, thread_name_prefix="bireal-results")
        self._cached: dict[str, _CachedReport] = {}
        self._asked: dict[str, tuple[Declaration, Future[Report]]] = {}
        self._lock = threading.Lock()
        self._updating = threading.Lock()
        self._shown: object = None
        self._figures: dict[str, tuple[str, tuple[bool, ...]]] = {}

    def close(self) -> None:
        """Waits for the report that is being computed, and computes no more for `get`. Blocks."""
        self._analyst.shutdown(cancel_futures=True)

    async def get(self, declaration: Declaration) -> Report:
        """Returns an experiment's report; see `compute`.

        With hundreds of thousands of labels, `analyse` takes seconds. It runs in a thread of its own, and all who ask
        meanwhile get the same report: each in a thread of asyncio's pool would leave none for bodies and feedback.
        """
        name = declaration.name
        asked, future = self._asked.get(name, (None, None))
        if future is None or future.done() or asked != declaration:
            future = self._analyst.submit(self.compute, declaration)
            self._asked[name] = declaration, future
        # Shielded, because whoever leaves must not take the report away from the others.
        return await asyncio.shield(asyncio.wrap_future(future))

    def compute(self, declaration: Declaration, *, fresh_s: float = _FRESH_S) -> Report:
        """Returns an experiment's report. Blocks as long as `analyse` does; `get` is for the event loop.

        Args:
            declaration: The experiment.
            fresh_s: For how many seconds a report is returned again although the store has changed since.

        Raises:
            FeedbackStoreError: The store cannot be read.
        """
        with self._lock:  # one at a time, so that many pollers do not multiply the work
            try:
                baseline, candidate = self._experiments.handles(declaration)
            except ServiceError as error:
                return Report(problem=error.detail)
            networks = tuple((handle.card.name, handle.card.version) for handle in (baseline, candidate))
            self._recorder.flush()
            changes = self._store.changes()
            kept = self._cached.get(declaration.name)
            if (
                kept is not None
                and (kept.declaration, kept.report.networks) == (declaration, networks)
                and (kept.changes == changes or time.monotonic() - kept.at < fresh_s)
            ):
                return kept.report
            revision = declaration.revision((baseline.card.version, candidate.card.version))
            results = analyse(declaration, revision, self._store)
            report = Report(results, in_words(declaration, results), networks)
            # Fresh from now on: counted from its beginning, a report that took longer would never be used again.
            self._cached[declaration.name] = _CachedReport(declaration, changes, time.monotonic(), report)
            return report

    def names(self) -> set[str]:
        """Returns the names of the experiments of which a report is kept or has been asked for."""
        return set(self._cached) | set(self._asked)

    def forget(self, name: str) -> None:
        """Drops what is kept of an experiment; its next report is computed anew."""
        self._cached.pop(name, None)
        self._asked.pop(name, None)

    def update_gauges(self) -> None:
        """Updates the gauges if the store or what is compared has changed since the last call."""
        with self._updating:  # an older state must not overwrite a newer one
            declarations = self._experiments.all()
            state = self._store.changes(), [self._revision(declaration) for declaration in declarations]
            if state == self._shown:
                return
            for declaration in declarations:
                self._update_results(declaration)
            current = {each.name for each in self._experiments.all()}
            for name in self._figures.keys() - current:
                self._metrics.experiments.clear_results(name)  # removed while it was being shown
                del self._figures[name]
            for name in self.names() - current:
                self.forget(name)
            self._metrics.feedback.show_live([_scores(live) for live in self._store.live()])
            self._metrics.feedback.set_store(*self._store.size())
            self._shown = state

    def _revision(self, declaration: Declaration) -> str | None:
        """Returns an experiment's current revision, or None if it cannot run, for example while its models load."""
        try:
            return self._experiments.revision(declaration)
        except ServiceError:
            return None

    def _update_results(self, declaration: Declaration) -> None:
        results = self.compute(declaration, fresh_s=0.0).results
        name, shown = declaration.name, self._metrics.experiments
        if results is None:
            self._figures.pop(name, None)
            shown.clear_results(name)
            return
        figures = results.revision, _figures(results)
        if self._figures.get(name) != figures:  # the gauges show an earlier revision, or data that retention removed
            self._figures[name] = figures
            shown.clear_results(name)
        if results.agreement is not None:
            shown.set_agreement(name, _bounds(results.agreement))
        if results.latency_ratio is not None:
            shown.set_latency_ratio(name, _bounds(results.latency_ratio))
        for arm in results.arms:
            if arm.accuracy is not None:
                shown.set_accuracy(name, arm.name, TASKS[declaration.task].main_score, _bounds(arm.accuracy))
            if arm.abs_rel is not None:
                shown.set_accuracy(name, arm.name, "abs_rel", _bounds(arm.abs_rel))
        if results.labelled_pairs is not None:
            pairs = results.labelled_pairs
            shown.set_labelled(
                name,
                {
                    "both": pairs.both,
                    "baseline": pairs.baseline,
                    "candidate": pairs.candidate,
                    "neither": pairs.neither,
                },
            )
        if results.evidence is not None:
            shown.set_evidence(name, e_value=results.evidence.e_value, p_value=results.evidence.p_value)


def _figures(results: Results) -> tuple[bool, ...]:
    """Returns for each figure that has a gauge whether there are data for it."""
    of_all = (results.agreement, results.latency_ratio, results.labelled_pairs, results.evidence)
    of_arms = (figure for arm in results.arms for figure in (arm.accuracy, arm.abs_rel))
    return tuple(figure is not None for figure in (*of_all, *of_arms))


def in_words(declaration: Declaration, results: Results) -> Verdict:
    """Returns the verdict on an experiment's results."""
    evidence = results.evidence
    watched = evidence.difference_watched if evidence is not None else None
    baseline, candidate = results.arms
    split = declaration.mode == "split"
    estimates = Estimates(
        images=baseline.images + candidate.images if split else results.pairs,
        agreement=results.agreement,
        latency_ratio=results.latency_ratio,
        accuracies=(candidate.accuracy, baseline.accuracy),
        labelled=(candidate.counted, baseline.counted),
        difference=watched or (evidence.difference if evidence is not None else None),
        watched=watched is not None,
    )
    return verdict(Design(candidate.name, baseline.name, declaration.task, declaration.margin, split), estimates)


def _scores(live: Live) -> LiveScores:
    """Computes a variant's scores from its feedback."""
    found = {"top1": st.proportion(live.top1, live.n), "top5": st.proportion(live.top5, live.n)}
    if live.task == "depth":
        found = {"abs_rel": frames(live.abs_rel), "delta1": frames(live.delta1, share=True)}
    target = TargetLabels(task=live.task, model=live.model, version=live.version, variant=live.variant)
    return LiveScores(target, live.n, {metric: _bounds(interval(each)) for metric, each in found.items()})


def _bounds(found: IntervalInfo) -> Bounds:
    return Bounds(*(float("nan") if value is None else value for value in found.model_dump().values()))
