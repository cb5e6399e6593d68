"""The path of a request after its body is read: decode and preprocess in threads, run by the scheduler, postprocess.

Independent of wire formats: it takes uploads and returns results with their timings. Every step records its time in
the request's context, and every image is reported to the telemetry. Nothing waits past the request's deadline, be it
for a thread, a worker or the end of a call.
"""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from service.errors import BadParameterError, ServiceError, kept
from service.imaging import ImageLimits
from service.metrics import Stage
from service.pipeline.answered import Answered, Job, only
from service.pipeline.inputs import Input, Inputs, lane, preprocessed
from service.pipeline.stages import Step, noted, timed
from service.pipeline.telemetry import Telemetry
from service.pipeline.threads import SHARED, ThreadPool, answers_of
from service.pipeline.upload import Upload, picture_digest
from service.registry import Handle
from service.scheduler import Deadline, Image, Outcome, Output, Scheduler

T = TypeVar("T")
P = ParamSpec("P")
Side = Literal["a", "b"]
#: Larger bodies are parsed in a thread: 20 MB take about 50 ms, which would block the event loop.
LARGE_BYTES = 200_000


@dataclass(slots=True)
class _Wanted:
    """Whether a request still waits for an image that a thread prepares."""

    still: bool = True


class _Made(NamedTuple):
    """What is made of a network's output: the members of `Answered` that take time."""

    result: Any
    picture: str | None
    encoded: Any


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
        self._scheduler, self._pool, self._telemetry = scheduler, pool, telemetry
        self._inputs = Inputs(pool, limits, telemetry)
        self._watch = watch

    async def predict(self, upload: Upload, handle: Handle, job: Job) -> Answered:
        """Answers one image; raises the error if it fails."""
        return only(await self.predict_all([upload], handle, job))

    async def predict_all(self, uploads: Sequence[Upload], handle: Handle, job: Job) -> list[Answered | ServiceError]:
        """Answers several images, in their order; an image that cannot be read has an error instead.

        Raises:
            OverloadedError: A queue has no room for all of them.
            DeadlineExceededError: The deadline passed.
            ServiceError: The network failed.
        """
        if len(uploads) == 1 and job.trial is None:
            return [await self._one(uploads[0], handle, job)]
        answers: list[Answered | ServiceError] = []
        with self._telemetry.failures(handle, len(uploads)):
            self._scheduler.check_room(handle.model, len(uploads))
            async with job.deadline.enforced():
                inputs = await self._inputs.of_files(uploads, handle)
                tensors = [item.prepared.tensor for item in inputs if isinstance(item, Input)]
                runner = self._scheduler if job.trial is None else job.trial
                found = await runner.submit_many(handle.model, tensors, job.deadline)
                self._watched(handle, tensors, found)
                outcomes = iter(found)
                for upload, item in zip(uploads, inputs, strict=True):
                    if isinstance(item, Input):
                        try:
                            answers.append(await self._finish(upload, item, next(outcomes), handle, job))
                        except BadParameterError as error:  # it does not fit this image, but may fit the others
                            answers.append(kept(error))
                    else:
                        answers.append(item)
        for answer in answers:
            self._report(handle, answer)
        return answers

    async def _one(self, upload: Upload, handle: Handle, job: Job) -> Answered | ServiceError:
        """Answers a single image: if no other image is waiting, the thread that prepares it also runs the network."""
        wanted = _Wanted()
        answer: Answered | ServiceError
        with self._telemetry.failures(handle, 1):
            self._scheduler.check_room(handle.model, 1)
            async with job.deadline.enforced():
                try:
                    item, outcome = await self._pool.run(
                        lane(handle), self._prepare_and_run, upload, handle, job.deadline, wanted, time.perf_counter()
                    )
                finally:
                    wanted.still = False
                if isinstance(item, Input):
                    if outcome is None:
                        outcome = await self._scheduler.submit(handle.model, item.prepared.tensor, job.deadline)
                    if self._watch is not None:
                        self._watch(handle, item.prepared.tensor, outcome)
                    answer = await self._finish(upload, item, outcome, handle, job)
                else:
                    answer = item
        self._report(handle, answer)
        return answer

    def _prepare_and_run(
        self, upload: Upload, handle: Handle, deadline: Deadline, wanted: "_Wanted", asked: float
    ) -> tuple[Input | ServiceError, Outcome | None]:
        """In a thread: the input, then the network's run if it can start at once and is still wanted."""
        item = self._inputs.prepare(upload, handle, handle.task.decode_hint(handle.card), asked)
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
        a = sides["a"]  # of one task with `b`; what fails before any run counts for it, whichever were to run first
        with self._telemetry.failures(a, 1):
            async with job.deadline.enforced():
                hint = (max(hint[0] for hint in hints), max(hint[1] for hint in hints))
                decoded = await self._pool.run(lane(a), self._inputs.decode, upload, hint, time.perf_counter())
        answers: dict[Side, Answered] = {}
        for side in order:
            handle = sides[side]
            with self._telemetry.failures(handle, 1):
                async with job.deadline.enforced():
                    item = await self._pool.run(lane(handle), preprocessed, decoded, handle, time.perf_counter())
                    outcome = await self._scheduler.submit(handle.model, item.prepared.tensor, job.deadline)
                    self._watched(handle, [item.prepared.tensor], [outcome])
                    answers[side] = await self._finish(upload, item, outcome, handle, job)
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
            ServiceError: A file cannot be read, a queue was full, the deadline passed, or the network failed.
        """
        with self._telemetry.failures(handle, len(images)):
            self._scheduler.check_room(handle.model, len(images))
            async with job.deadline.enforced():
                inputs = await self._inputs.of_all(images, handle)
                tensors = [item if isinstance(item, np.ndarray) else item.prepared.tensor for item in inputs]
                outcomes = await self._scheduler.submit_many(handle.model, tensors, job.deadline)
                self._watched(handle, tensors, outcomes)
                outputs = [outcome.output for outcome in outcomes]
                made, step = await self._pool.run(_answer_lane(handle), timed, time.perf_counter(), answer, outputs)
        finished = time.perf_counter()
        share = step._replace(seconds=step.seconds / len(inputs))
        for item, outcome in zip(inputs, outcomes, strict=True):
            steps: dict[Stage, Step] = {} if isinstance(item, np.ndarray) else item.steps
            stages = noted(steps, outcome, share, handle, job.context)
            stages["total"] = finished - job.begun
            self._telemetry.answered(handle, stages)
        return made

    def _watched(self, handle: Handle, tensors: Sequence[Image], outcomes: Sequence[Outcome]) -> None:
        if self._watch is not None:
            for tensor, outcome in zip(tensors, outcomes, strict=True):
                self._watch(handle, tensor, outcome)

    async def parse(
        self, handle: Handle | None, deadline: Deadline, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls a function that reads a request, and would block the event loop, in one of the pool's threads.

        Args:
            handle: The network to count the request for if it cannot be read; None where none runs.
            deadline: The request's deadline.
            call: The function.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: Too many requests wait to be read.
            DeadlineExceededError: The deadline passed.
            Exception: Whatever the call raises.
        """
        with nullcontext() if handle is None else self._telemetry.failures(handle, 1):
            async with deadline.enforced():
                return await self._pool.run(SHARED, call, *args, **kwargs)

    async def parse_document(
        self,
        handle: Handle | None,
        deadline: Deadline,
        call: Callable[Concatenate[bytes, P], T],
        body: bytes,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Calls a function that parses a JSON body: here if the body is small, else as `parse` does.

        Args:
            handle: The network to count the request for if it cannot be read; None where none runs.
            deadline: The request's deadline.
            call: The function.
            body: Its first argument.
            *args: Its other arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: Too many requests wait to be read.
            DeadlineExceededError: The deadline passed.
            Exception: Whatever the call raises.
        """
        if len(body) > LARGE_BYTES:
            return await self.parse(handle, deadline, call, body, *args, **kwargs)
        with nullcontext() if handle is None else self._telemetry.failures(handle, 1):
            return call(body, *args, **kwargs)

    async def answer(
        self, handle: Handle, deadline: Deadline, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls a function that makes something of an image that was answered, in one of the pool's threads.

        Such calls wait among the answers of the task, where no flood of requests that have not run yet gets ahead.

        Args:
            handle: The network that ran.
            deadline: The request's deadline.
            call: The function, which would block the event loop.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Raises:
            OverloadedError: Too many answers wait.
            DeadlineExceededError: The deadline passed.
            Exception: Whatever the call raises.
        """
        with self._telemetry.losses(handle, 1):
            async with deadline.enforced():
                return await self._pool.run(_answer_lane(handle), call, *args, **kwargs)

    async def _finish(self, upload: Upload, item: Input, outcome: Outcome, handle: Handle, job: Job) -> Answered:
        """Makes the answer of an output, and records all stages in the request's context."""
        if handle.task.slow_answer:
            made, step = await self._pool.run(
                _answer_lane(handle), timed, time.perf_counter(), _made, upload, item, outcome, handle, job
            )
        else:
            begun = time.perf_counter()
            made = _made(upload, item, outcome, handle, job)
            step = Step.ended(begun)
        stages = noted(item.steps, outcome, step, handle, job.context)
        stages["total"] = time.perf_counter() - job.begun
        return Answered(handle, made.result, item.report, stages, outcome, picture=made.picture, encoded=made.encoded)

    def _report(self, handle: Handle, answer: Answered | ServiceError) -> None:
        """Counts an image of a request that is answered. Once it is, so that no image has two outcomes."""
        if isinstance(answer, ServiceError):
            self._telemetry.count("client_error", handle)
        else:
            self._telemetry.answered(handle, answer.stages)


def _made(upload: Upload, item: Input, outcome: Outcome, handle: Handle, job: Job) -> _Made:
    """Everything that is made of an output, in one call, so that it waits for a thread only once."""
    result = handle.task.postprocess(outcome.output, item.prepared, handle.card, job.options)
    picture = picture_digest(upload.data) if job.signed and handle.task.measured_again else None
    return _Made(result, picture, None if job.encode is None else job.encode(result))


def _answer_lane(handle: Handle) -> str:
    """The lane of calls that make an answer."""
    return answers_of(handle.card.task)
