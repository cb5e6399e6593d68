"""The times of an image's stages: measured where the work is done, so that waiting for a thread is apart from it."""

import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

from service.metrics import Stage
from service.pipeline.context import ImageTimes, RequestContext
from service.pipeline.telemetry import run_labels
from service.registry import Handle
from service.scheduler import Outcome

T = TypeVar("T")
P = ParamSpec("P")


class Step(NamedTuple):
    """A piece of work on an image.

    Attributes:
        begun: Its start by `time.perf_counter()`.
        seconds: Its duration.
        waited_s: Seconds that it had waited for a thread before; None if it needed none of its own.
    """

    begun: float
    seconds: float
    waited_s: float | None = None

    @classmethod
    def ended(cls, begun: float, asked: float | None = None) -> "Step":
        """A step that ends now.

        Args:
            begun: Its start.
            asked: When a thread was asked for; None if none was.
        """
        return cls(begun, time.perf_counter() - begun, None if asked is None else begun - asked)


def timed(asked: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, Step]:
    """In a thread that was asked for at a moment: calls a function; returns what it does, and its times."""
    begun = time.perf_counter()
    made = call(*args, **kwargs)
    return made, Step.ended(begun, asked)


def noted(
    steps: dict[Stage, Step], outcome: Outcome, postprocess: Step, handle: Handle, context: RequestContext
) -> dict[Stage, float]:
    """Records in the request's context what ran and for how long, and returns the stages.

    Args:
        steps: What came before the run: `decode` and `preprocess`, if the image was a file.
        outcome: The run.
        postprocess: What came after it.
        handle: The network that ran.
        context: The request's context.
    """
    decode, preprocess = steps.get("decode"), steps.get("preprocess")
    stages: dict[Stage, float] = {
        "decode": 0.0 if decode is None else decode.seconds,
        "preprocess": 0.0 if preprocess is None else preprocess.seconds,
        "queue": outcome.queue_s + sum([step.waited_s or 0.0 for step in (*steps.values(), postprocess)]),
        "inference": outcome.inference_s,
        "postprocess": postprocess.seconds,
    }
    if context.stages:  # from an earlier image
        for stage, seconds in stages.items():
            context.add(stage, seconds)
    else:
        context.stages.update(list(stages.items()))
    if context.images is not None:
        context.images.append(_times(steps, outcome, postprocess, handle))
    context.labels |= {"model": handle.card.name, "version": handle.card.version, "variant": handle.variant}
    return stages


def _times(steps: dict[Stage, Step], outcome: Outcome, postprocess: Step, handle: Handle) -> ImageTimes:
    """The times of an image that has just been answered: each wait apart, before the stage that it was for."""
    spans: list[tuple[str, float, float]] = []
    for stage, step in steps.items():
        spans += _spans(stage, step)
    spans.append(("queue", outcome.started - outcome.queue_s, outcome.queue_s))
    spans.append(("inference", outcome.started, outcome.inference_s))
    spans += _spans("postprocess", postprocess)
    return ImageTimes(run_labels(handle), outcome.batch_size, tuple(spans))


def _spans(stage: Stage, step: Step) -> list[tuple[str, float, float]]:
    own = (stage, step.begun, step.seconds)
    return [own] if step.waited_s is None else [("queue", step.begun - step.waited_s, step.waited_s), own]
