"""`POST /classify` and `POST /depth`."""

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from starlette.responses import Response, StreamingResponse

from service.api.assignment import Assigned, SubjectOf, assign, signed
from service.api.context import context_of
from service.api.direct import DirectRoute
from service.api.findings import PLAIN_DIGITS, refuse_repeated
from service.api.negotiation import best_media_type
from service.api.openapi import problem_responses
from service.api.services import DeadlineOf, Services, ServicesOf
from service.api.uploads import Uploads, read_uploads, request_body
from service.api.wire import (
    classify_answer,
    classify_body,
    depth_answer,
    depth_headers,
    depth_json,
    json_response,
    run_headers,
)
from service.errors import BadParameterError, ServiceError
from service.pipeline import Answered, Job, RequestContext, only
from service.scheduler import Deadline
from service.schemas import ClassifyAnswer, ClassifyList, DepthAnswer, DepthList, Problem
from service.server.presence import while_connected
from service.tasks import ClassifyOptions, ColorOptions, DepthOptions, DepthResult, encode_depth
from service.tasks.depth_formats import DepthFormat, EncodedDepth, json_values
from service.tasks.focal import FX_RANGE_PX
from service.tasks.point_cloud import interpolated_cloud

router = APIRouter(tags=["inference"], route_class=DirectRoute, dependencies=[Depends(refuse_repeated)])

#: What `/depth` answers when `Accept` alone says which; the first where it does not matter.
BY_MEDIA_TYPE: dict[str, Literal["json", "png16", "npy", "ply"]] = {
    "application/json": "json",
    "image/png": "png16",
    "application/x-npy": "npy",
    "application/x-ply": "ply",
}
#: Checked by `DepthOptions`, whose words say what a focal length is.
FX_SCHEMA: dict[str, JsonValue] = {"minimum": FX_RANGE_PX[0], "maximum": FX_RANGE_PX[1]}
#: Larger files are sent while they are made.
_AT_ONCE_BYTES = 2_000_000
STATUSES = (400, 404, 406, 408, 413, 415, 422, 429, 500, 503, 504)


class Selection(BaseModel):
    """Which network is to run."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str | None,
        Field(description="`NAME`, or `NAME@VERSION`; GET /models lists them. The task's default where not given."),
    ] = None
    variant: Annotated[
        str | None,
        Field(description="`binary`, `reference` or `full` (the full-precision twin). The default where not given."),
    ] = None


class ClassifyQuery(Selection):
    """The query of `/classify`."""

    top_k: Annotated[int | None, Field(ge=1, le=1000, description="Classes in the answer."), PLAIN_DIGITS] = None
    min_probability: Annotated[
        float | None,
        Field(ge=0, le=1, description="The answer is marked `uncertain` when its best probability is below this."),
    ] = None

    def options(self, services: Services) -> ClassifyOptions:
        """With the defaults of the settings."""
        settings = services.settings
        return _options(
            settings.top_k if self.top_k is None else self.top_k,
            settings.min_probability if self.min_probability is None else self.min_probability,
        )


class DepthQuery(Selection):
    """The query of `/depth`."""

    format: Annotated[
        Literal["json", "png16", "npy", "color", "ply"] | None,
        Field(
            description="`json`: figures; `png16`: 16-bit PNG, metres x 256 as KITTI's; `npy`: float32 metres; "
            "`color`: a picture, bright near and dark far, with a scale bar; `ply`: a point cloud in the camera's "
            "coordinates. Without it `Accept` decides: application/json, image/png (`png16`), application/x-npy or "
            "application/x-ply."
        ),
    ] = None
    size: Annotated[
        Literal["network", "original"],
        Field(
            description="Of the map: the network's own, or that of the uploaded picture, upright; what the network "
            "did not see then has no depth: 0 in png16, NaN in npy, null in json, transparent in color."
        ),
    ] = "network"
    fx: Annotated[
        float | None,
        Field(
            json_schema_extra=FX_SCHEMA,
            description="Your camera's horizontal focal length, in pixels of the uploaded picture: makes the metres "
            "those of your camera. It must be 0.1 to 100 times the picture's width. Without it EXIF's "
            "FocalLengthIn35mmFilm counts, else the training camera's field of view is assumed.",
        ),
    ] = None
    values: Annotated[bool, Field(description="With `json`: the map too, as `depth_m`, up to 1,000,000 values.")] = (
        False
    )
    near: Annotated[
        float | None,
        Field(gt=0, le=1e6, allow_inf_nan=False, description="With `color`: metres of the brightest colour."),
    ] = None
    far: Annotated[
        float | None,
        Field(gt=0, le=1e6, allow_inf_nan=False, description="With `color`: metres of the darkest colour."),
    ] = None
    scale_bar: Annotated[bool, Field(description="With `color`: whether metres stand below the picture.")] = True

    def options(self) -> DepthOptions:
        """As the task takes them."""
        return DepthOptions(fx_px=self.fx, size=self.size)

    def colors(self) -> ColorOptions:
        """How a picture is drawn."""
        return ColorOptions(self.near, self.far, self.scale_bar)


@router.post(
    "/classify",
    summary="Name what is in a picture",
    response_model=ClassifyAnswer | ClassifyList,
    responses=problem_responses(*STATUSES),
    openapi_extra=request_body(),
)
async def classify(
    request: Request,
    services: ServicesOf,
    deadline: DeadlineOf,
    subject: SubjectOf,
    query: Annotated[ClassifyQuery, Query()],
) -> Response:
    """Classifies one image, or several: a multipart body with more than one file is answered by a list."""
    assigned = assign(services, "classify", query.model, query.variant, subject)
    parse = partial(services.pipeline.parse_document, assigned.handle, deadline)
    uploads = await read_uploads(request, deadline, parse, max_images=services.settings.max_images_per_request)
    context = context_of(request)
    job = _job(query.options(services), deadline, context, assigned)
    answers = signed(services, assigned, await _answers(request, services, uploads, assigned, job), context)
    if not uploads.several:
        answer = only(answers)
        return Response(classify_body(answer, context), headers=run_headers(answer), media_type="application/json")
    results = [
        classify_answer(answer, context) if isinstance(answer, Answered) else _problem(answer, services, context)
        for answer in answers
    ]
    return json_response(ClassifyList(request_id=context.request_id, count=len(results), results=results))


@router.post(
    "/depth",
    summary="Measure the depth of a road scene",
    response_model=DepthAnswer | DepthList,
    responses={
        200: {
            "content": {
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "application/x-npy": {"schema": {"type": "string", "format": "binary"}},
                "application/x-ply": {"schema": {"type": "string", "format": "binary"}},
            }
        },
        **problem_responses(*STATUSES),
    },
    openapi_extra=request_body(),
)
async def depth(
    request: Request,
    services: ServicesOf,
    deadline: DeadlineOf,
    subject: SubjectOf,
    query: Annotated[DepthQuery, Query()],
) -> Response:
    """Estimates the metric depth of one image as figures, a map or a picture, or of several images as figures."""
    options = query.options()
    assigned = assign(services, "depth", query.model, query.variant, subject)
    form = (
        query.format
        or BY_MEDIA_TYPE[best_media_type(", ".join(request.headers.getlist("accept")), list(BY_MEDIA_TYPE))]
    )
    parse = partial(services.pipeline.parse_document, assigned.handle, deadline)
    uploads = await read_uploads(request, deadline, parse, max_images=services.settings.max_images_per_request)
    if uploads.several and form != "json":
        raise BadParameterError(
            "format",
            f"Several images are answered as JSON, not as {form}.",
            remedy="Send one image a request to get its map, or ask for format=json.",
        )
    _check_fits(query, form, several=uploads.several)
    context = context_of(request)
    job = _job(options, deadline, context, assigned, _encoder(query, form))
    answers = signed(services, assigned, await _answers(request, services, uploads, assigned, job), context, query.fx)
    if uploads.several:
        results = [
            depth_answer(answer, context) if isinstance(answer, Answered) else _problem(answer, services, context)
            for answer in answers
        ]
        return json_response(DepthList(request_id=context.request_id, count=len(results), results=results))
    answer = only(answers)
    if isinstance(answer.encoded, _File):
        return _depth_file(answer, answer.encoded)
    text = depth_json(answer, context, answer.encoded)
    return Response(text, headers=run_headers(answer), media_type="application/json")


@lru_cache(maxsize=64)
def _options(top_k: int, min_probability: float) -> ClassifyOptions:
    """Checked once for those that ask the same."""
    return ClassifyOptions(top_k=top_k, min_probability=min_probability)


def _job(
    options: object,
    deadline: Deadline,
    context: RequestContext,
    assigned: Assigned,
    encode: Callable[[DepthResult], object] | None = None,
) -> Job:
    return Job(options, deadline, context, time.perf_counter(), assigned.trial, signed=True, encode=encode)


async def _answers(
    request: Request, services: Services, uploads: Uploads, assigned: Assigned, job: Job
) -> list[Answered | ServiceError]:
    """The answers. Nothing is waited for after them, so they alone are given up when the client disconnects."""
    return await while_connected(request, services.pipeline.predict_all(uploads.images, assigned.handle, job))


def _problem(error: ServiceError, services: Services, context: RequestContext) -> Problem:
    """One image's problem among the answers to several."""
    services.metrics.requests.count_problem(error.code)
    return Problem.model_validate(error.problem(request_id=context.request_id))


def _check_fits(query: DepthQuery, form: str, *, several: bool) -> None:
    """Says before anything runs what does not go together."""
    if query.values and (several or form != "json"):
        raise BadParameterError(
            "values",
            "values=true adds the map to the JSON of one image.",
            remedy="Send one image with format=json, or leave values out.",
        )
    for name, metres in (("near", query.near), ("far", query.far)):
        if metres is not None and form != "color":
            raise BadParameterError(
                name,
                f"{name} sets the colours of format=color, and this answer is {form}.",
                remedy=f"Ask for format=color, or leave {name} out.",
            )
    if not query.scale_bar and form != "color":
        raise BadParameterError(
            "scale_bar",
            f"scale_bar is of the picture of format=color, and this answer is {form}.",
            remedy="Ask for format=color, or leave scale_bar out.",
        )
    if form == "ply" and query.size == "original":
        raise interpolated_cloud()


class _File(NamedTuple):
    """An encoded map; its bytes if it is small enough to be sent at once."""

    encoded: EncodedDepth
    body: bytes | None


def _encoder(query: DepthQuery, form: Literal["json"] | DepthFormat) -> Callable[[DepthResult], _File | bytes] | None:
    """What takes milliseconds to make of a map, if anything: called in the thread that makes the map."""
    if form == "json":
        return _values if query.values else None
    return partial(_file, form=form, colors=query.colors())


def _values(result: DepthResult) -> bytes:
    return json_values(result).encode()


def _file(result: DepthResult, *, form: DepthFormat, colors: ColorOptions) -> _File:
    encoded = encode_depth(result, form, colors)
    return _File(encoded, encoded.body if encoded.length <= _AT_ONCE_BYTES else None)


def _depth_file(answer: Answered, file: _File) -> Response:
    """The map as a file, with what ran and what it shows in the headers."""
    encoded = file.encoded
    headers = {
        **run_headers(answer),
        **depth_headers(answer.result),
        "content-disposition": f'inline; filename="depth{encoded.suffix}"',
    }
    if encoded.near_m is not None and encoded.far_m is not None:
        headers["x-bireal-color-range-m"] = f"near={encoded.near_m:.3f}, far={encoded.far_m:.3f}"
    if file.body is not None:
        return Response(file.body, headers=headers, media_type=encoded.media_type)
    # Made while it is sent: a client that reads slowly holds a few rows in memory and not the whole map.
    headers["content-length"] = str(encoded.length)
    return StreamingResponse(encoded.chunks, headers=headers, media_type=encoded.media_type)
