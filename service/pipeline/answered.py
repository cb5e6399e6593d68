"""What the images of a request have in common, and the answer for one of them, in no wire format."""

from collections.abc import Callable
from typing import Any, NamedTuple

from service.errors import ServiceError
from service.experiments.trial import Trial
from service.imaging import ImageReport
from service.metrics import Stage
from service.pipeline.context import RequestContext
from service.registry import Handle
from service.scheduler import Deadline, Outcome


class Job(NamedTuple):
    """What all images of a request have in common.

    Attributes:
        options: The task's options: `ClassifyOptions` or `DepthOptions`.
        deadline: The request's deadline.
        context: The request's context.
        begun: `time.perf_counter()` when the body had been read.
        trial: The request's part in an experiment; it runs the additional networks.
        signed: Whether the answers get a feedback token, which may need a digest of the picture.
        encode: Called with a result, in the thread that has made it; what it returns is the answer's `encoded`.
    """

    options: Any
    deadline: Deadline
    context: RequestContext
    begun: float
    trial: Trial | None = None
    signed: bool = False
    encode: Callable[[Any], Any] | None = None


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
        picture: Digest of the upload, if the answer is to be signed and feedback contains the picture again.
        encoded: What the job's `encode` made of the result.
    """

    handle: Handle
    result: Any
    report: ImageReport
    stages: dict[Stage, float]
    outcome: Outcome
    experiment: tuple[str, str, str] | None = None
    feedback_token: str | None = None
    picture: str | None = None
    encoded: Any = None

    @property
    def batch_size(self) -> int:
        """Number of images in the batch."""
        return self.outcome.batch_size


def only(answers: list[Answered | ServiceError]) -> Answered:
    """Takes the answer to a lone image out of its list; raises what was wrong with it."""
    answer = answers.pop()
    if isinstance(answer, Answered):
        return answer
    try:
        raise answer
    finally:
        del answer  # the traceback refers to this frame, which would keep the error and all that it refers to
