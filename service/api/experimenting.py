"""Where experiments meet a request: whose it is, which arm answers it, and the token that its answer carries."""

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from fastapi import Depends, Header
from starlette.requests import Request

from service.api.context import RequestContext, context_of
from service.api.pipeline import Answered
from service.api.services import Services
from service.api.uploads import Upload
from service.card import TaskName
from service.errors import BadParameterError, ServiceError
from service.experiments.tokens import Prediction, Target, new_id
from service.experiments.trial import Seen, Trial
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
            description="Whom a `split` experiment gives the same arm each time: a user's or a camera's id, 1 to 128 "
            "printable ASCII characters without spaces. Only a hash of it is used, and it is not logged. Without it "
            "each request is a subject of its own.",
            json_schema_extra={"pattern": f"^{_SUBJECT.pattern}$"},  # checked below, for an error that helps
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
            remedy="Send an id, or a hash of it in hexadecimal digits.",
        )
    return subject


SubjectOf = Annotated[str, Depends(subject_of)]


class Routed(NamedTuple):
    """What answers a request: a network, and the trial that this is part of, if it is."""

    handle: Handle
    trial: Trial | None = None


def route(services: Services, task: TaskName, model: str | None, variant: str | None, subject: str) -> Routed:
    """Says what answers; raises as `Registry.resolve` does."""
    laboratory = services.laboratory
    found = laboratory.route(task, model, variant, subject)
    if found is None:
        return Routed(services.registry.resolve(task, model, variant))
    return Routed(found.handle, laboratory.trial(found))


async def signed(
    services: Services,
    routed: Routed,
    uploads: Sequence[Upload],
    answers: Sequence[Answered | ServiceError],
    context: RequestContext,
    fx_px: float | None = None,
) -> list[Answered | ServiceError]:
    """Gives each answer its feedback token, and says which arm of which experiment it is."""
    if len(answers) == 1 and routed.trial is None and not routed.handle.task.measured_again:  # nearly always
        answer = answers[0]
        return [_signed(services, None, None, answer, context, None, None) if isinstance(answer, Answered) else answer]
    # not by position: an image whose answer could not be made was run, and seen, all the same
    seen = {id(each.outcome): each for each in routed.trial.seen} if routed.trial is not None else {}
    pictures: list[str | None] = [None] * len(uploads)
    if routed.handle.task.measured_again:  # a picture has megabytes: off the event loop
        pictures = await services.pipeline.in_thread(lambda: [picture_digest(upload.data) for upload in uploads])
    return [
        _signed(services, routed.trial, seen.get(id(answer.outcome)), answer, context, picture, fx_px)
        if isinstance(answer, Answered)
        else answer
        for picture, answer in zip(pictures, answers, strict=True)
    ]


def _signed(
    services: Services,
    trial: Trial | None,
    seen: Seen | None,
    answer: Answered,
    context: RequestContext,
    picture: str | None,
    fx_px: float | None,
) -> Answered:
    card, task, result = answer.handle.card, answer.handle.task, answer.result
    experiment = other = None
    if trial is not None:
        declaration, arm = trial.route.declaration, trial.route.arm.label
        experiment = (declaration.name, trial.route.revision, arm)
        # In `shadow` the candidate may run later: it counts where feedback has the picture measured again.
        other = trial.other_target if task.measured_again or (seen is not None and seen.other_classes) else None
    prediction = Prediction(
        id=seen.id if seen is not None else new_id(),
        request_id=context.request_id,
        task=card.task,
        target=Target(card.name, card.version, answer.handle.variant),
        classes=_classes(result) if isinstance(result, ClassifyResult) else (),
        picture=picture,
        fx_px=fx_px,
        experiment=experiment,
        other=other,
        other_classes=seen.other_classes if seen is not None else (),
    )
    return answer._replace(
        experiment=(experiment[0], trial.route.declaration.mode, experiment[2]) if trial and experiment else None,
        feedback_token=services.laboratory.tokens.sign(prediction),
    )


def _classes(result: ClassifyResult) -> tuple[int, ...]:
    """The best five, whatever number the client asked for."""
    if len(result.predictions) >= 5:
        return tuple([item.index for item in result.predictions[:5]])
    return CLASSIFY.best(result.probabilities)


def picture_digest(data: bytes) -> str:
    """Names an upload without keeping it."""
    return hashlib.sha256(data).hexdigest()[:32]
