"""Assignment of requests: a request's subject, the network that answers it, and the feedback tokens of its answers."""

import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import Depends, Header
from starlette.requests import Request

from service.api.context import context_of
from service.api.services import Services
from service.card import TaskName
from service.errors import BadParameterError, ServiceError
from service.experiments.tokens import Prediction, Target, new_id
from service.experiments.trial import Seen, Trial
from service.pipeline import Answered, RequestContext
from service.registry import Handle
from service.tasks import CLASSIFY, ClassifyResult

SUBJECT_HEADER = "x-bireal-subject"
_SUBJECT = re.compile(r"[!-~]{1,128}")


async def subject_of(
    request: Request,
    subject: Annotated[
        str | None,
        Header(
            alias=SUBJECT_HEADER,
            description="Id of the user or the camera. A `split` experiment always assigns the same arm to the same "
            "subject. 1 to 128 printable ASCII characters without spaces; only a hash of it is used, and it is not "
            "logged. Without it, each request is a separate subject.",
            json_schema_extra={"pattern": f"^{_SUBJECT.pattern}$"},  # checked below, for a more helpful error
        ),
    ] = None,
) -> str:
    """The subject of a request."""
    if subject is None:
        return context_of(request).request_id
    if not _SUBJECT.fullmatch(subject):
        raise BadParameterError(
            SUBJECT_HEADER,
            f"The header {SUBJECT_HEADER} is not 1 to 128 printable ASCII characters without spaces.",
            remedy="Send an id, or a hexadecimal hash of it.",
        )
    return subject


SubjectOf = Annotated[str, Depends(subject_of)]


class Assigned(NamedTuple):
    """The network that answers a request, and the trial that the request is part of, if any."""

    handle: Handle
    trial: Trial | None = None


def assign(services: Services, task: TaskName, model: str | None, variant: str | None, subject: str) -> Assigned:
    """Assigns a request to the network that answers it; raises the errors of `Registry.resolve`."""
    experimentation = services.experimentation
    found = experimentation.assign(task, model, variant, subject)
    if found is None:
        return Assigned(services.registry.resolve(task, model, variant))
    return Assigned(found.handle, experimentation.trial(found))


def signed(
    services: Services,
    assigned: Assigned,
    answers: Sequence[Answered | ServiceError],
    context: RequestContext,
    fx_px: float | None = None,
) -> list[Answered | ServiceError]:
    """Adds to each answer its feedback token, and the experiment and arm that it belongs to."""
    # Matched by outcome, not by position: an image may have been run and recorded although its answer failed.
    seen = {id(each.outcome): each for each in assigned.trial.seen} if assigned.trial is not None else {}
    return [
        _signed(services, assigned.trial, seen.get(id(answer.outcome)), answer, context, fx_px)
        if isinstance(answer, Answered)
        else answer
        for answer in answers
    ]


def _signed(
    services: Services,
    trial: Trial | None,
    seen: Seen | None,
    answer: Answered,
    context: RequestContext,
    fx_px: float | None,
) -> Answered:
    card, task, result = answer.handle.card, answer.handle.task, answer.result
    experiment = other = subject = None
    if trial is not None:
        declaration, arm = trial.assignment.declaration, trial.assignment.arm.label
        experiment = (declaration.name, trial.assignment.revision, arm)
        # In `shadow` mode the candidate may run later, so it counts only if feedback measures the image again.
        other = trial.other_target if task.measured_again or (seen is not None and seen.other_classes) else None
        if trial.assignment.subject is not None:  # all images of one request have the same subject
            subject = services.experimentation.tokens.pseudonym(declaration.name, trial.assignment.subject)
    prediction = Prediction(
        id=seen.id if seen is not None else new_id(),
        request_id=context.request_id,
        task=card.task,
        target=Target(card.name, card.version, answer.handle.variant),
        classes=_classes(result) if isinstance(result, ClassifyResult) else (),
        picture=answer.picture,
        fx_px=fx_px,
        experiment=experiment,
        other=other,
        other_classes=seen.other_classes if seen is not None else (),
        subject=subject,
    )
    return answer._replace(
        experiment=(experiment[0], trial.assignment.declaration.mode, experiment[2]) if trial and experiment else None,
        feedback_token=services.experimentation.tokens.sign(prediction),
    )


def _classes(result: ClassifyResult) -> tuple[int, ...]:
    """The best five classes, whatever number the client requested."""
    if len(result.predictions) >= 5:
        return tuple([item.index for item in result.predictions[:5]])
    return CLASSIFY.best(result.probabilities)
