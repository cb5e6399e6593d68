"""`POST /feedback` and `POST /feedback/depth`: what a client knows better, held against what was answered."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from service.api.context import context_of
from service.api.feedback_form import DEPTH_FORM, DepthForm, read_depth_form, read_truth
from service.api.findings import refuse_unknown
from service.api.json_body import json_request, read_document
from service.api.openapi import problem_responses
from service.api.services import DeadlineOf, Services, ServicesOf
from service.api.wire import json_response
from service.card import Card, TaskName
from service.errors import (
    FeedbackConflictError,
    GroundTruthError,
    NotReadyError,
    ServiceError,
    UnknownLabelError,
)
from service.evaluation import CAPS_M, depth_errors
from service.experiments.observation import FeedbackRecord, Score
from service.experiments.tokens import Prediction, Target
from service.pipeline import Answered, Job, Upload, picture_digest
from service.registry import Handle
from service.scheduler import Deadline
from service.schemas import FeedbackAnswer
from service.server.presence import while_connected
from service.tasks import DepthOptions, DepthResult
from service.tasks.depth import place_in_picture

router = APIRouter(tags=["feedback"], dependencies=[Depends(refuse_unknown)])

_LABEL_CHARACTERS = 200


def _index_or_name(label: object) -> object:
    is_index = isinstance(label, int) and not isinstance(label, bool) and label >= 0
    if is_index or (isinstance(label, str) and 1 <= len(label) <= _LABEL_CHARACTERS):
        return label
    raise ValueError(f"a class is an index from 0 on, or a WordNet id or name of 1 to {_LABEL_CHARACTERS} characters")


class Feedback(BaseModel):
    """What is right about a picture that was classified."""

    model_config = ConfigDict(extra="forbid")

    token: Annotated[str, Field(min_length=1, max_length=4096, description="The answer's `feedback_token`.")]
    label: Annotated[
        Annotated[int, Field(ge=0, strict=True)] | Annotated[str, Field(min_length=1, max_length=_LABEL_CHARACTERS)],
        BeforeValidator(_index_or_name),  # one sentence, where a union has one for each of its types
        Field(description="The right class: its index, its WordNet id, or its name."),
    ]


_STATUSES = (400, 404, 408, 409, 410, 413, 415, 422, 429, 500, 503, 504)
_RESPONSES = {201: {"model": FeedbackAnswer, "description": "Stored."}, **problem_responses(*_STATUSES)}


@router.post(
    "/feedback",
    summary="Say what a classified picture shows",
    response_model=FeedbackAnswer,
    responses=_RESPONSES,
    openapi_extra=json_request(Feedback),
)
async def feedback(request: Request, services: ServicesOf, deadline: DeadlineOf) -> Response:
    """Keeps the right class of a picture: 201 once it is on the disk, 200 where the same was said before."""
    body = await read_document(request, services, deadline, Feedback)
    prediction = _read(services, body.token, "classify")
    with _refusals(services, "classify"):
        card = _handle(services, "classify", prediction.target).card
        label = label_index(card, body.label)
    record = _record(
        prediction,
        content=f"class:{label}",
        label=label,
        score=Score(top1=prediction.classes[:1] == (label,), top5=label in prediction.classes),
        other=Score(top1=prediction.other_classes[:1] == (label,), top5=label in prediction.other_classes)
        if prediction.other_classes
        else None,
    )
    return await _store(services, prediction, record)


@router.post(
    "/feedback/depth",
    summary="Say how far things in a picture are",
    response_model=FeedbackAnswer,
    responses=_RESPONSES,
    openapi_extra=DEPTH_FORM,
)
async def feedback_depth(request: Request, services: ServicesOf, deadline: DeadlineOf) -> Response:
    """Has the picture measured again and holds the map against a ground truth; neither is kept, only the errors are.

    The map is computed again by the model version that answered, so no replica has to remember it.
    """
    form = await read_depth_form(request, deadline)
    prediction = _read(services, form.token, "depth")
    with _refusals(services, "depth"):
        if picture_digest(form.picture.data) != prediction.picture:
            raise GroundTruthError(
                "The picture is not the one that was answered.", remedy="Send the same file, byte for byte."
            )
        targets = [prediction.target, *([prediction.other] if prediction.other is not None else [])]
        handles = [_handle(services, "depth", target) for target in targets]
        scores = await while_connected(request, _scores(services, request, form, prediction, handles, deadline))
    record = _record(
        prediction,
        content=f"truth:{hashlib.sha256(form.truth.data).hexdigest()[:32]}",
        score=scores[0],
        other=scores[1] if len(scores) > 1 else None,
    )
    return await _store(services, prediction, record)


def label_index(card: Card, label: int | str) -> int:
    """The index of a class that is named by index, WordNet id or name.

    Raises:
        UnknownLabelError: There is no such class, or more than one of this name.
    """
    if isinstance(label, int):
        if label < len(card.classes):
            return label
        raise UnknownLabelError(
            f"{card.name} has {len(card.classes)} classes; there is no class {label}.",
            remedy=f"Send an index of 0 to {len(card.classes) - 1}, a WordNet id, or a name.",
        )
    wanted = label.casefold()
    by_id = [index for index, item in enumerate(card.classes) if item.wnid.casefold() == wanted]
    found = by_id or [index for index, item in enumerate(card.classes) if item.name.casefold() == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(card.classes[index].wnid for index in found)
        raise UnknownLabelError(
            f"{len(found)} classes of {card.name} are called {label[:60]!r}.", remedy=f"Send one of their ids: {ids}."
        )
    raise UnknownLabelError(
        f"{card.name} has no class {label[:60]!r}.", remedy="Send an index, a WordNet id or a name from its card."
    )


async def _scores(
    services: Services,
    request: Request,
    form: DepthForm,
    prediction: Prediction,
    handles: list[Handle],
    deadline: Deadline,
) -> list[Score]:
    """The errors of each network's map of the picture."""
    scores = []
    for handle in handles:
        options = DepthOptions(fx_px=prediction.fx_px)
        job = Job(options, deadline, context_of(request), begun=time.perf_counter())
        answer = await services.pipeline.predict(form.picture, handle, job)
        scores.append(await services.pipeline.answer(handle, deadline, _score, answer, form.truth))
    return scores


def _score(answer: Answered, truth: Upload) -> Score:
    result: DepthResult = answer.result
    truth_m = read_truth(truth, (answer.report.height, answer.report.width))
    errors = depth_errors(place_in_picture(result.depth_m, result.geometry), truth_m, CAPS_M[0])
    if errors is None:
        raise GroundTruthError(
            "No point of the ground truth lies where depth is compared: inside Garg's crop, above 0 and below "
            f"{CAPS_M[0]:g} m.",
            remedy="Send metres; the crop is the middle 93 % of the width and from 41 % to 99 % of the height.",
        )
    return Score(abs_rel=errors["abs_rel"], delta1=errors["delta1"])


def _read(services: Services, token: str, task: Literal["classify", "depth"]) -> Prediction:
    with _refusals(services, task):
        prediction = services.experimentation.tokens.read(token)
        if prediction.task != task:
            path = "/feedback" if prediction.task == "classify" else "/feedback/depth"
            raise GroundTruthError(f"The answer is one of /{prediction.task}.", remedy=f"Send it to {path}.")
        return prediction


@contextmanager
def _refusals(services: Services, task: TaskName) -> Iterator[None]:
    """Counts feedback that is refused for what the client sent, which a service at its capacity has not judged."""
    try:
        yield
    except ServiceError as error:
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.status != HTTPStatus.TOO_MANY_REQUESTS:
            services.metrics.feedback.count(task, "refused")
        raise


def _handle(services: Services, task: TaskName, target: Target) -> Handle:
    """The network that answered, which may have been unloaded since."""
    handle = services.registry.resolve(task, f"{target.model}@{target.version}", target.variant)
    if handle.variant != target.variant:
        raise NotReadyError(
            f"{target.variant} of {target.model} does not run here now.", remedy="Send the feedback again later."
        )
    return handle


def _record(
    prediction: Prediction, *, content: str, score: Score, other: Score | None, label: int | None = None
) -> FeedbackRecord:
    experiment, revision, arm = prediction.experiment or (None, None, None)
    return FeedbackRecord(
        id=prediction.id,
        at=time.time(),
        task=prediction.task,
        model=prediction.target.model,
        version=prediction.target.version,
        variant=prediction.target.variant,
        content=content,
        score=score,
        label=label,
        experiment=experiment,
        revision=revision,
        arm=arm,
        other=other,
        subject=prediction.subject,
    )


async def _store(services: Services, prediction: Prediction, record: FeedbackRecord) -> Response:
    """Acknowledges what is on the disk, and nothing else."""
    outcome = await services.experimentation.write(services.experimentation.store.add_feedback, record)
    services.metrics.feedback.count(prediction.task, outcome)
    if outcome == "conflicting":
        raise FeedbackConflictError
    answer = FeedbackAnswer(
        status=outcome,
        request_id=prediction.request_id,
        model=record.model,
        version=record.version,
        variant=prediction.target.variant,
        correct=record.score.top1,
        correct_top5=record.score.top5,
        abs_rel=record.score.abs_rel,
        delta1=record.score.delta1,
    )
    status = HTTPStatus.CREATED if outcome == "stored" else HTTPStatus.OK
    return json_response(answer, status)
