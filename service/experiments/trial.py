"""One request as part of an experiment: runs the arms and records what was observed.

A trial takes the scheduler's place between the pipeline and the networks: it takes images and returns the outcomes of
the arm that answers. The arms are compared by their networks' outputs, before these are turned into answers.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.background import Background
from service.errors import ServiceError
from service.experiments.assignment import Assignment
from service.experiments.observation import Observation
from service.experiments.recorder import Recorder
from service.experiments.tokens import Target, new_id
from service.metrics import ExperimentMetrics
from service.registry import Handle
from service.scheduler import Deadline, Image, Outcome, Runnable, Scheduler
from service.tasks import TASKS

log = logging.getLogger(__name__)

# Share of the requests with too little time for both arms that run both anyway, the candidate second. Otherwise, the
# service would never notice that the candidate has become faster.
_RUN_BOTH_ANYWAY = 0.02


@dataclass(slots=True)
class Seen:
    """Outcomes of the arms on one image.

    Attributes:
        id: ID of the answer.
        outcome: Outcome of the arm that answers.
        other: Outcome of the other arm, if it ran before the answer.
        other_classes: Classification: classes of the other arm, best first.
    """

    id: str
    outcome: Outcome
    other: Outcome | None = None
    other_classes: tuple[int, ...] = ()


class Trial:
    """Runs one request as part of an experiment; see the module's docstring.

    Args:
        assignment: The arm that the request is assigned to.
        scheduler: Runs the networks.
        background: Runs mirrored images.
        recorder: Stores the observations.
        metrics: Counts the runs.
        watch: Called after every run of the arm that does not answer; the pipeline's own `watch` covers the other arm.
    """

    def __init__(
        self,
        assignment: Assignment,
        scheduler: Scheduler,
        background: Background,
        recorder: Recorder,
        metrics: ExperimentMetrics,
        watch: Callable[[Handle, Image, Outcome], None] | None = None,
    ) -> None:
        self.assignment = assignment
        self.seen: list[Seen] = []
        self._scheduler, self._background, self._recorder, self._metrics = scheduler, background, recorder, metrics
        self._watch = watch

    async def submit_many(
        self, target: Runnable, images: Sequence[Image], deadline: Deadline | None = None
    ) -> list[Outcome]:
        """Like `Scheduler.submit_many` for the arm that answers; in `paired` mode, the other arm runs too."""
        declaration = self.assignment.declaration
        paired = declaration.mode == "paired"
        # Pairs are drawn for all images of a request, so that both arms run under the same load.
        with_other = (
            [self.assignment.sampled()] * len(images) if paired else [self.assignment.sampled() for _ in images]
        )
        both = paired and any(with_other)
        hurry = both and deadline is not None and not self._has_time_for_both(target, len(images), deadline)
        if both and (not hurry or random.random() < _RUN_BOTH_ANYWAY):  # noqa: S311  not a secret
            self.seen = await self._run_both(target, images, deadline, hurry=hurry)
        else:
            outcomes = await self._scheduler.submit_many(target, images, deadline)
            self.seen = [Seen(new_id(), outcome) for outcome in outcomes]
        for seen, image, mirrored in zip(self.seen, images, with_other, strict=True):
            self._metrics.count_request(declaration.name, self.assignment.arm.label, seen.outcome.inference_s)
            if mirrored and not paired:
                self._mirror(seen, image)
            else:
                self._record(seen, seen.other)
        return [seen.outcome for seen in self.seen]

    @property
    def other_target(self) -> Target | None:
        """The network of the other arm, if it may run too."""
        other = self.assignment.other
        return None if other is None else Target(other.card.name, other.card.version, other.variant)

    def _has_time_for_both(self, target: Runnable, images: int, deadline: Deadline) -> bool:
        """Whether the runs of both arms are expected to take at most half of the remaining time."""
        assert self.assignment.other is not None
        costs_s = (self._scheduler.cost_s(target) or 0.0) + (self._scheduler.cost_s(self.assignment.other.model) or 0.0)
        return images * costs_s + 2 * self._scheduler.expected_wait_s() <= deadline.remaining_s / 2

    async def _run_both(
        self, target: Runnable, images: Sequence[Image], deadline: Deadline | None, *, hurry: bool
    ) -> list[Seen]:
        """Runs all images on one arm, then on the other, in random order, so that neither always finds warm caches.

        Each arm gets all images at once: the queue admits all of them or none, and more than it holds where nothing
        waits, as it does without an experiment.

        If time is short, or its cost is not known yet, the arm that does not answer runs second, because its runs could
        occupy the only worker.
        """
        other = self.assignment.other
        assert other is not None
        first = random.random() < 0.5  # noqa: S311  not a secret
        if first and not hurry and self._scheduler.cost_s(other.model) is not None:
            self._scheduler.check_room(target, len(images))  # nothing runs for a request that is refused
            other_runs = await self._run_other(other, images, deadline)
            outcomes = await self._scheduler.submit_many(target, images, deadline)
        else:
            outcomes = await self._scheduler.submit_many(target, images, deadline)
            other_runs = await self._run_other(other, images, deadline)
        if other_runs is None:
            return [Seen(new_id(), outcome) for outcome in outcomes]
        return [
            Seen(new_id(), outcome, other_run, other.task.best(other_run.output))
            for outcome, other_run in zip(outcomes, other_runs, strict=True)
        ]

    async def _run_other(
        self, other: Handle, images: Sequence[Image], deadline: Deadline | None
    ) -> list[Outcome] | None:
        """Runs the arm that does not answer; its errors do not affect the client's answer.

        It gets half of the remaining time. The rest is for the runs of the arm that answers, or for its response.
        """
        if deadline is not None:
            deadline = deadline._replace(at=deadline.at - deadline.remaining_s / 2)
        try:
            outcomes = await self._scheduler.submit_many(other.model, images, deadline)
        except Exception as error:  # noqa: BLE001  whatever it is, the client gets its answer
            self._note(error)
            return None
        for image, outcome in zip(images, outcomes, strict=True):
            self._notify_watch(other, image, outcome)
        return outcomes

    def _note(self, error: Exception) -> None:
        """Logs an error of the arm that does not answer, unless it is one of those that the service reports."""
        if not isinstance(error, ServiceError):
            name = self.assignment.declaration.name
            log.error("experiment %s: the arm that does not answer failed", name, exc_info=error)

    def _notify_watch(self, other: Handle, image: Image, outcome: Outcome) -> None:
        if self._watch is not None:
            self._watch(other, image, outcome)

    def _mirror(self, seen: Seen, image: Image) -> None:
        """Runs the candidate in the background on an image that has been answered."""
        name, candidate = self.assignment.declaration.name, self.assignment.declaration.candidate.label

        async def run() -> None:
            assert self.assignment.other is not None
            try:
                other = await self._scheduler.submit(self.assignment.other.model, image)
            except Exception as error:  # noqa: BLE001  the image was answered, and its observation counts
                self._note(error)
                self._metrics.count_shadow(name, candidate, "failed")
                self._record(seen, None)
                return
            self._notify_watch(self.assignment.other, image, other)
            self._metrics.count_shadow(name, candidate, "ok", other.inference_s)
            self._record(seen, other, mirrored=True)

        def dropped() -> None:
            self._metrics.count_shadow(name, candidate, "dropped")
            self._record(seen, None)

        self._background.offer(run, dropped)

    def _record(self, seen: Seen, other: Outcome | None, *, mirrored: bool = False) -> None:
        """Records the observation of an image."""
        declaration, arm = self.assignment.declaration, self.assignment.arm
        own_s, other_s = seen.outcome.inference_s, None if other is None else other.inference_s
        is_baseline = arm == declaration.baseline
        agree = within = abs_rel = candidate_class = None
        if other is not None:
            task = TASKS[declaration.task]
            agree, within, abs_rel = task.agree(other.output, seen.outcome.output)
            candidate_class = next(iter(task.best(other.output)), None)
            self._metrics.count_pair(declaration.name, agree=agree)
            if not mirrored:
                self._metrics.observe_candidate(declaration.name, declaration.candidate.label, other.inference_s)
        self._recorder.put(
            Observation(
                id=seen.id,
                at=time.time(),
                experiment=declaration.name,
                revision=self.assignment.revision,
                arm=arm.label,
                baseline_s=own_s if is_baseline else other_s,
                candidate_s=other_s if is_baseline else own_s,
                agree=agree,
                within=within,
                abs_rel=abs_rel,
                candidate_class=candidate_class,
            )
        )
