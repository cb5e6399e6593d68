"""The path of a request after its body is read: decode and preprocess in threads, run by the scheduler, postprocess.

Independent of wire formats: it takes uploads and returns results with their timings. Every step records its time in
the request's context, and every image is reported to the telemetry.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from service.api.context import ImageTimes, RequestContext
from service.api.telemetry import Telemetry, run_labels
from service.api.threads import SHARED, ThreadPool
from service.api.uploads import Upload
from service.errors import BadParameterError, OverloadedError, ServiceError
from service.experiments.trial import Trial
from service.imaging import DecodedImage, ImageLimits, ImageReport, decode
from service.metrics import Stage
from service.registry import Handle
from service.scheduler import Deadline, Image, Outcome, Output, Scheduler
from service.tasks import Prepared

T = TypeVar("T")
P = ParamSpec("P")
Side = Literal["a", "b"]


class Answered(NamedTuple):
    """The answer for one image.

    Attributes:
        handle: The network that ran.
        result: The task's result: `ClassifyResult` or `DepthResult`.
        report: The properties of the upload.
        stages: Seconds in each of `service.metrics.STAGES`; `total` is from the end of the body to the answer.
        outcome: The outcome of the run; experiments identify their runs by it.
        experiment: Name, mode and arm, if the answer is part of an experiment.
        feedback_token: The token that a client sends with its feedback.
    """

    handle: Handle
    result: Any
    report: ImageReport
    stages: dict[Stage, float]
    outcome: Outcome
    experiment: tuple[str, str, str] | None = None
    feedback_token: str | None = None

    @property
    def batch_size(self) -> int:
        """Number of images in the batch."""
        return self.outcome.batch_size


class Input(NamedTuple):
    """A network's input and its source, with start (`time.perf_counter()`) and duration in seconds of each step."""

    prepared: Prepared
    report: ImageReport
    decode_begun: float
    decode_s: float
    preprocess_begun: float
    preprocess_s: float


class Job(NamedTuple):
    """What all images of a request have in common.

    Attributes:
        options: The task's options: `ClassifyOptions` or `DepthOptions`.
        deadline: The request's deadline.
        context: The request's context.
        begun: `time.perf_counter()` when the body had been read.
        trial: The request's part in an experiment; it runs the additional networks.
    """

    options: Any
    deadline: Deadline
    context: RequestContext
    begun: float
    trial: Trial | None = None


@dataclass(slots=True)
class _Wanted:
    """Whether a request still waits for an image that a thread prepares."""

    still: bool = True


class Pipeline:
    """Answers images.

    Args:
        scheduler: Runs the networks.
        pool: Decodes, preprocesses and postprocesses, off the event loop.
        limits: Limits on images.
        telemetry: Notified of every image.
        watch: Called in the event loop after every run of a network, with its input and output; for the parity monitor.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        pool: ThreadPool,
        limits: ImageLimits,
        telemetry: Telemetry,
        watch: Callable[[Handle, Image, Outcome], None] | None = None,
    ) -> None:
        self._scheduler, self._pool, self._limits, self._telemetry = scheduler, pool, limits, telemetry
        self._watch = watch

    async def predict(self, upload: Upload, handle: Handle, job: Job) -> Answered:
        """Answers one image; raises the error if it fails."""
        answer = (await self.predict_all([upload], handle, job))[0]
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def predict_all(self, uploads: Sequence[Upload], handle: Handle, job: Job) -> list[Answered | ServiceError]:
        """Answers several images, in their order; an image that cannot be read has an error instead.

        Raises:
            OverloadedError: The queue has no room for all of them.
            DeadlineExceededError: The deadline passed.
            ServiceError: The network failed.
        """
        if len(uploads) == 1 and job.trial is None:
            return [await self._one(uploads[0], handle, job)]
        answers: list[Answered | ServiceError] = []
        with self._telemetry.failures(handle, len(uploads)):
            self._scheduler.check_room(handle.model, len(uploads))
            hint = handle.task.decode_hint(handle.card)
            async with job.deadline.enforced():
                inputs = await self._prepared(uploads, handle, hint)
            tensors = [item.prepared.tensor for item in inputs if isinstance(item, Input)]
            runner = self._scheduler if job.trial is None else job.trial
            found = await runner.submit_many(handle.model, tensors, job.deadline)
            self._watched(handle, tensors, found)
            outcomes = iter(found)
            for item in inputs:
                if isinstance(item, Input):
                    try:
                        answers.append(await self._finish(item, next(outcomes), handle, job))
                    except BadParameterError as error:  # the parameter does not fit this image, but may fit the others
                        answers.append(error)
                else:
                    answers.append(item)
        for answer in answers:
            self._report(handle, answer)
        return answers

    async def _one(self, upload: Upload, handle: Handle, job: Job) -> Answered | ServiceError:
        """Answers a single image: if no other image is waiting, the thread that prepares it also runs the network."""
        wanted = _Wanted()
        with self._telemetry.failures(handle, 1):
            self._scheduler.check_room(handle.model, 1)
            hint = handle.task.decode_hint(handle.card)
            async with job.deadline.enforced():
                try:
                    item, outcome = await self._pool.run(
                        _lane(handle), self._prepare_and_run, upload, handle, hint, job.deadline, wanted
                    )
                finally:
                    wanted.still = False
            answer: Answered | ServiceError
            if isinstance(item, Input):
                if outcome is None:
                    outcome = await self._scheduler.submit(handle.model, item.prepared.tensor, job.deadline)
                if self._watch is not None:
                    self._watch(handle, item.prepared.tensor, outcome)
                answer = await self._finish(item, outcome, handle, job)
            else:
                answer = item
        self._report(handle, answer)
        return answer

    def _prepare_and_run(
        self, upload: Upload, handle: Handle, hint: tuple[int, int], deadline: Deadline, wanted: "_Wanted"
    ) -> tuple[Input | ServiceError, Outcome | None]:
        """In a thread: `_prepare`, then the network's run if it can start at once and is still wanted."""
        item = self._prepare(upload, handle, hint)
        if not isinstance(item, Input) or not wanted.still:
            return item, None
        return item, self._scheduler.run_here(handle.model, item.prepared.tensor, deadline)

    async def compare(
        self, upload: Upload, sides: dict[Side, Handle], job: Job
    ) -> tuple[dict[Side, Answered], list[Side]]:
        """Runs two networks on one decoded image, one after the other so that neither slows the other down.

        Returns:
            The two answers, and the order in which they ran. The order is random, so that neither side always benefits
            from warm caches.
        """
        hints = [handle.task.decode_hint(handle.card) for handle in sides.values()]
        order: list[Side] = random.sample(list(sides), k=len(sides))
        for handle in sides.values():
            with self._telemetry.failures(handle, 1):
                self._scheduler.check_room(handle.model, 1)
        with self._telemetry.failures(sides[order[0]], 1):
            async with job.deadline.enforced():
                hint = (max(hint[0] for hint in hints), max(hint[1] for hint in hints))
                image, begun, decode_s = await self._pool.run(_lane(sides[order[0]]), self._decode, upload, hint)
        answers: dict[Side, Answered] = {}
        for side in order:
            handle = sides[side]
            with self._telemetry.failures(handle, 1):
                async with job.deadline.enforced():
                    item = await self._pool.run(_lane(handle), _input, image, begun, decode_s, handle)
                outcome = await self._scheduler.submit(handle.model, item.prepared.tensor, job.deadline)
                self._watched(handle, [item.prepared.tensor], [outcome])
                answers[side] = await self._finish(item, outcome, handle, job)
            self._report(handle, answers[side])
        return answers, order

    async def infer(
        self,
        images: Sequence[Upload] | npt.NDArray[np.uint8],
        handle: Handle,
        job: Job,
        answer: Callable[[list[Output]], T],
    ) -> T:
        """Runs a network on files or on raw inputs, and makes one answer from all outputs. Fails if any image fails.

        Args:
            images: Image files, or uint8 [N, H, W, 3] of the network's input size.
            handle: The network.
            job: The request's job.
            answer: Called in a thread with the network's output for each image.

        Raises:
            ServiceError: A file cannot be read, the queue was full, the deadline passed, or the network failed.
        """
        with self._telemetry.failures(handle, len(images)):
            self._scheduler.check_room(handle.model, len(images))
            async with job.deadline.enforced():
                inputs = await self._inputs(images, handle)
            tensors = [item if isinstance(item, np.ndarray) else item.prepared.tensor for item in inputs]
            outcomes = await self._scheduler.submit_many(handle.model, tensors, job.deadline)
            self._watched(handle, tensors, outcomes)
            begun = time.perf_counter()
            made = await self._pool.run(_answer_lane(handle), answer, [outcome.output for outcome in outcomes])
        finished = time.perf_counter()
        for item, outcome in zip(inputs, outcomes, strict=True):
            prepared = None if isinstance(item, np.ndarray) else item
            stages = _noted(prepared, outcome, (finished - begun) / len(inputs), handle, job)
            stages["total"] = finished - job.begun
            self._telemetry.answered(handle, None if prepared is None else prepared.report, stages)
        return made

    async def _inputs(
        self, images: Sequence[Upload] | npt.NDArray[np.uint8], handle: Handle
    ) -> list[Input | npt.NDArray[np.uint8]]:
        if isinstance(images, np.ndarray):
            return list(images)
        hint = handle.task.decode_hint(handle.card)
        found = await self._prepared(images, handle, hint)
        for upload, item in zip(images, found, strict=True):
            if isinstance(item, ServiceError):
                raise item if len(images) == 1 else item.about(upload.name)
        return [item for item in found if isinstance(item, Input)]

    async def _prepared(
        self, uploads: Sequence[Upload], handle: Handle, hint: tuple[int, int]
    ) -> list[Input | ServiceError]:
        """Converts uploads to inputs, in threads; returns them in order. Either all are admitted or none."""
        calls = [partial(self._prepare, upload, handle, hint) for upload in uploads]
        return await self._pool.run_many(_lane(handle), calls)

    def _watched(self, handle: Handle, tensors: Sequence[Image], outcomes: Sequence[Outcome]) -> None:
        if self._watch is not None:
            for tensor, outcome in zip(tensors, outcomes, strict=True):
                self._watch(handle, tensor, outcome)

    async def parse(self, handle: Handle | None, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function that reads a request, and would block the event loop, in one of the pool's threads.

        Args:
            handle: The network to count the request for if it is refused; None where none runs.
            call: The function.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: Too many requests wait to be read.
            Exception: Whatever the call raises.
        """
        try:
            return await self._pool.run(SHARED, call, *args, **kwargs)
        except OverloadedError:
            if handle is not None:
                self._telemetry.count("rejected", handle)
            raise

    async def answer(self, handle: Handle, images: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls a function that makes something of images that have run in one of the pool's threads.

        Such calls wait among the answers of the task, where no flood of requests that have not run yet gets ahead.

        Args:
            handle: The network that ran.
            images: How many images the call is for.
            call: The function, which would block the event loop.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: Too many answers wait.
            Exception: Whatever the call raises.
        """
        try:
            return await self._pool.run(_answer_lane(handle), call, *args, **kwargs)
        except OverloadedError:
            self._telemetry.refused(handle, images)
            raise

    def _decode(self, upload: Upload, hint: tuple[int, int]) -> tuple[DecodedImage, float, float]:
        begun = time.perf_counter()
        image = decode(upload.data, upload.content_type, self._limits, hint=hint)
        return image, begun, time.perf_counter() - begun

    def _prepare(self, upload: Upload, handle: Handle, hint: tuple[int, int]) -> Input | ServiceError:
        """In a thread: converts an upload to a network's input. Errors in the upload are returned, not raised."""
        try:
            return _input(*self._decode(upload, hint), handle)
        except ServiceError as error:
            return error

    async def _finish(self, item: Input, outcome: Outcome, handle: Handle, job: Job) -> Answered:
        """Postprocesses an output, and records all stages in the request's context."""
        begun = time.perf_counter()
        arguments = (outcome.output, item.prepared, handle.card, job.options)
        if handle.task.slow_answer:
            result = await self._pool.run(_answer_lane(handle), handle.task.postprocess, *arguments)
        else:
            result = handle.task.postprocess(*arguments)
        finished = time.perf_counter()
        stages = _noted(item, outcome, finished - begun, handle, job)
        stages["total"] = finished - job.begun
        return Answered(handle, result, item.report, stages, outcome)

    def _report(self, handle: Handle, answer: Answered | ServiceError) -> None:
        """Counts an image of a request that is answered. Once it is, so that no image has two outcomes."""
        if isinstance(answer, ServiceError):
            self._telemetry.count("client_error", handle)
        else:
            self._telemetry.answered(handle, answer.report, answer.stages)


def _noted(item: Input | None, outcome: Outcome, postprocess_s: float, handle: Handle, job: Job) -> dict[Stage, float]:
    """Records in the request's context what ran and for how long, and returns the stages."""
    stages: dict[Stage, float] = {
        "decode": 0.0 if item is None else item.decode_s,
        "preprocess": 0.0 if item is None else item.preprocess_s,
        "queue": outcome.queue_s,
        "inference": outcome.inference_s,
        "postprocess": postprocess_s,
    }
    if job.context.stages:  # from an earlier image
        for stage, seconds in stages.items():
            job.context.add(stage, seconds)
    else:
        job.context.stages.update(list(stages.items()))
    if job.context.images is not None:
        job.context.images.append(_times(item, outcome, postprocess_s, handle))
    job.context.labels |= {"model": handle.card.name, "version": handle.card.version, "variant": handle.variant}
    return stages


def _times(item: Input | None, outcome: Outcome, postprocess_s: float, handle: Handle) -> ImageTimes:
    """The times of each stage of an image that has just been answered."""
    prepared = (
        ()
        if item is None
        else (
            ("decode", item.decode_begun, item.decode_s),
            ("preprocess", item.preprocess_begun, item.preprocess_s),
        )
    )
    ran = (
        ("queue", outcome.started - outcome.queue_s, outcome.queue_s),
        ("inference", outcome.started, outcome.inference_s),
        ("postprocess", time.perf_counter() - postprocess_s, postprocess_s),
    )
    return ImageTimes(run_labels(handle), outcome.batch_size, prepared + ran)


def _lane(handle: Handle) -> str:
    """The lane of calls that prepare a network's input."""
    return handle.card.task


def _answer_lane(handle: Handle) -> str:
    """The lane of calls that make an answer. Separate, so that a full queue of inputs fails no image that has run."""
    return f"{handle.card.task} answers"


def _input(image: DecodedImage, decode_begun: float, decode_s: float, handle: Handle) -> Input:
    begun = time.perf_counter()
    prepared = handle.task.preprocess(image, handle.card)
    return Input(prepared, image.report, decode_begun, decode_s, begun, time.perf_counter() - begun)
