"""One request in an experiment: runs what has to run beside the answer, and notes what was seen.

Stands in the place of the scheduler between the pipeline and the networks: images go in, the answering arm's outcomes
come out. All that an arm is compared by is read off the networks' own outputs, before they are made into answers.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from service.background import Background
from service.errors import ServiceError
from service.experiments.catalogue import Route
from service.experiments.observation import Observation
from service.experiments.recorder import Recorder
from service.experiments.tokens import Target, new_id
from service.metrics import ExperimentMetrics
from service.registry import Handle
from service.scheduler import Deadline, Image, Outcome, Runnable, Scheduler
from service.tasks import TASKS


@dataclass(slots=True)
class Seen:
    """What an experiment saw of one image.

    Attributes:
        id: Of the answer.
        outcome: Of the arm that answers.
        other: Of the other arm, where it ran before the answer.
        other_classes: Classification: what that said, best first.
    """

    id: str
    outcome: Outcome
    other: Outcome | None = None
    other_classes: tuple[int, ...] = ()


class Trial:
    """See the module's text.

    Args:
        route: How the request is answered.
        scheduler: Runs the networks.
        background: Runs mirrored images.
        recorder: Keeps what was seen.
        metrics: Counts it.
    """

    def __init__(
        self, route: Route, scheduler: Scheduler, background: Background, recorder: Recorder, metrics: ExperimentMetrics
    ) -> None:
        self.route = route
        self.seen: list[Seen] = []
        self._scheduler, self._background, self._recorder, self._metrics = scheduler, background, recorder, metrics

    async def submit_many(
        self, target: Runnable, images: Sequence[Image], deadline: Deadline | None = None
    ) -> list[Outcome]:
        """As `Scheduler.submit_many`, for the arm that answers; in `paired` mode the other arm runs, too."""
        declaration = self.route.declaration
        paired = declaration.mode == "paired"
        with_other = [self.route.sampled() for _ in images]
        if paired and any(with_other):
            self.seen = list(
                await asyncio.gather(
                    *(
                        self._both(target, image, deadline) if both else self._alone(target, image, deadline)
                        for image, both in zip(images, with_other, strict=True)
                    )
                )
            )
        else:
            outcomes = await self._scheduler.submit_many(target, images, deadline)
            self.seen = [Seen(new_id(), outcome) for outcome in outcomes]
        for seen, image, mirrored in zip(self.seen, images, with_other, strict=True):
            self._metrics.count_request(declaration.name, self.route.arm.label, seen.outcome.inference_s)
            if mirrored and not paired:
                self._mirror(seen, image)
            else:
                self._note(seen, seen.other)
        return [seen.outcome for seen in self.seen]

    @property
    def other_target(self) -> Target | None:
        """What may have run beside the answer."""
        other = self.route.other
        return None if other is None else Target(other.card.name, other.card.version, other.variant)

    async def _alone(self, target: Runnable, image: Image, deadline: Deadline | None) -> Seen:
        return Seen(new_id(), await self._scheduler.submit(target, image, deadline))

    async def _both(self, target: Runnable, image: Image, deadline: Deadline | None) -> Seen:
        """Runs both arms one after the other, in an order that is drawn, so that neither always finds warm caches."""
        other = self.route.other
        assert other is not None
        beside: Outcome | None = None
        if random.random() < 0.5:  # noqa: S311  no secret
            beside = await self._beside(other, image, deadline)
            outcome = await self._scheduler.submit(target, image, deadline)
        else:
            outcome = await self._scheduler.submit(target, image, deadline)
            beside = await self._beside(other, image, deadline)
        return Seen(new_id(), outcome, beside, () if beside is None else other.task.best(beside.output))

    async def _beside(self, other: Handle, image: Image, deadline: Deadline | None) -> Outcome | None:
        """Runs the arm that does not answer: whatever goes wrong with it, the client gets the other one's answer."""
        try:
            return await self._scheduler.submit(other.model, image, deadline)
        except ServiceError:
            return None

    def _mirror(self, seen: Seen, image: Image) -> None:
        """Has the candidate run on an image that is answered already."""
        name, candidate = self.route.declaration.name, self.route.declaration.candidate.label

        async def run() -> None:
            assert self.route.other is not None
            try:
                other = await self._scheduler.submit(self.route.other.model, image)
            except ServiceError:
                self._metrics.count_shadow(name, candidate, "failed")
                self._note(seen, None)
                return
            self._metrics.count_shadow(name, candidate, "ok", other.inference_s)
            self._note(seen, other, mirrored=True)

        def dropped() -> None:
            self._metrics.count_shadow(name, candidate, "dropped")
            self._note(seen, None)

        self._background.offer(run, dropped)

    def _note(self, seen: Seen, other: Outcome | None, *, mirrored: bool = False) -> None:
        """Keeps what was seen of an image."""
        declaration, arm = self.route.declaration, self.route.arm
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
                revision=self.route.revision,
                arm=arm.label,
                baseline_s=own_s if is_baseline else other_s,
                candidate_s=other_s if is_baseline else own_s,
                agree=agree,
                within=within,
                abs_rel=abs_rel,
                candidate_class=candidate_class,
            )
        )
