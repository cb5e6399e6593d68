"""`POST /compare/classify` and `POST /compare/depth`: one decoded image, two variants, both answers."""

import time
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.context import context_of
from service.api.findings import PLAIN_DIGITS, refuse_repeated
from service.api.openapi import problem_responses
from service.api.predict import FX_SCHEMA, STATUSES
from service.api.services import DeadlineOf, Services, ServicesOf
from service.api.uploads import read_one, request_body
from service.api.wire import classify_comparison, depth_comparison, json_response
from service.card import TaskName
from service.errors import BadParameterError, ModelBrokenError
from service.pipeline import Answered, Job, RequestContext, Side, Upload
from service.registry import Handle
from service.schemas import ClassifyComparison, DepthComparison
from service.server.presence import while_connected
from service.tasks import ClassifyOptions, DepthOptions, encode_error_map

router = APIRouter(tags=["comparison"], dependencies=[Depends(refuse_repeated)])


class CompareQuery(BaseModel):
    """The query of both comparisons."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[
        str | None, Field(description="A binary model, `NAME` or `NAME@VERSION`; the task's default where not given.")
    ] = None
    a: Annotated[str, Field(description="One variant: `binary`, `reference` or `full`.")] = "binary"
    b: Annotated[str, Field(description="The other variant.")] = "full"


class ClassifyCompareQuery(CompareQuery):
    """The query of `/compare/classify`."""

    top_k: Annotated[int | None, Field(ge=1, le=1000, description="Classes in each answer."), PLAIN_DIGITS] = None


class DepthCompareQuery(CompareQuery):
    """The query of `/compare/depth`."""

    fx: Annotated[
        float | None,
        Field(json_schema_extra=FX_SCHEMA, description="Your camera's focal length, pixels of the uploaded picture."),
    ] = None
    format: Annotated[
        Literal["json", "error_map"],
        Field(
            description="`json`: figures; `error_map`: a PNG of the network's size, white where the maps are equal, "
            "blue where `a` is nearer, red where it is farther, fully so from a factor of 2 on; a scale bar below."
        ),
    ] = "json"
    scale_bar: Annotated[bool, Field(description="With `error_map`: whether figures stand below the picture.")] = True


@router.post(
    "/compare/classify",
    summary="Name what is in a picture, by two variants",
    response_model=ClassifyComparison,
    responses=problem_responses(*STATUSES),
    openapi_extra=request_body(several=False),
)
async def compare_classify(
    request: Request, services: ServicesOf, deadline: DeadlineOf, query: Annotated[ClassifyCompareQuery, Query()]
) -> Response:
    """Decodes one image once, and has two variants classify it, one after the other in random order."""
    settings = services.settings
    options = ClassifyOptions(query.top_k or settings.top_k, settings.min_probability)
    sides = _sides(services, "classify", query)
    parse = partial(services.pipeline.parse_document, sides["a"], deadline)
    upload = await read_one(request, deadline, parse)
    job = Job(options, deadline, context_of(request), begun=time.perf_counter())
    answers, order = await while_connected(request, services.pipeline.compare(upload, sides, job))
    comparison = classify_comparison(answers, order, job.context)
    _count(services, "classify", answers, agree=comparison.agree)
    return json_response(comparison)


@router.post(
    "/compare/depth",
    summary="Measure the depth of a road scene, by two variants",
    response_model=DepthComparison,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
        **problem_responses(*STATUSES),
    },
    openapi_extra=request_body(several=False),
)
async def compare_depth(
    request: Request, services: ServicesOf, deadline: DeadlineOf, query: Annotated[DepthCompareQuery, Query()]
) -> Response:
    """Decodes one image once, and has two variants estimate its depth, one after the other in random order."""
    if not query.scale_bar and query.format != "error_map":
        raise BadParameterError(
            "scale_bar",
            f"scale_bar is of the picture of format=error_map, and this answer is {query.format}.",
            remedy="Ask for format=error_map, or leave scale_bar out.",
        )
    sides = _sides(services, "depth", query)
    parse = partial(services.pipeline.parse_document, sides["a"], deadline)
    upload = await read_one(request, deadline, parse)
    job = Job(DepthOptions(fx_px=query.fx), deadline, context_of(request), begun=time.perf_counter())
    return await while_connected(request, _depth_answer(services, upload, sides, job, query))


async def _depth_answer(
    services: Services, upload: Upload, sides: dict[Side, Handle], job: Job, query: DepthCompareQuery
) -> Response:
    answers, order = await services.pipeline.compare(upload, sides, job)
    comparison, picture = await services.pipeline.answer(
        sides["a"], job.deadline, _compared, answers, order, job.context, query
    )
    _count(services, "depth", answers, agree=comparison.agree)
    if picture is not None:
        return Response(picture, headers=_comparison_headers(answers, comparison), media_type="image/png")
    return json_response(comparison)


def _compared(
    answers: dict[Side, Answered], order: list[Side], context: RequestContext, query: DepthCompareQuery
) -> tuple[DepthComparison, bytes | None]:
    """The comparison, and the error map if it is asked for. Takes milliseconds: called in a thread."""
    comparison = depth_comparison(answers, order, context)
    if query.format != "error_map":
        return comparison, None
    maps = (answers[side].result.depth_m for side in ("a", "b"))
    return comparison, encode_error_map(*maps, with_bar=query.scale_bar)


def _sides(services: Services, task: TaskName, query: CompareQuery) -> dict[Side, Handle]:
    """The two networks: what is wrong with them is reported before the picture is read."""
    sides: dict[Side, Handle] = {
        "a": services.registry.resolve(task, query.model, query.a),
        "b": services.registry.resolve(task, query.model, query.b),
    }
    _check_comparable(sides["a"], sides["b"])
    return sides


def _comparison_headers(answers: dict[Side, Answered], comparison: DepthComparison) -> dict[str, str]:
    """The figures that belong to an error map."""
    sides = (answers["a"].handle, answers["b"].handle)
    a, b = (f"{handle.card.name}@{handle.card.version}/{handle.variant}" for handle in sides)
    return {
        "content-disposition": 'inline; filename="error_map.png"',
        "x-bireal-compared": f"a={a}, b={b}",
        "x-bireal-agreement": f"agree={str(comparison.agree).lower()}, within_1_25={comparison.within_1_25:.4f}, "
        f"abs_rel={comparison.abs_rel:.4f}",
    }


def _check_comparable(a: Handle, b: Handle) -> None:
    """Two depth maps are compared pixel by pixel: a twin of another input size was exported wrongly."""
    size_a, size_b = ((side.card.input.height, side.card.input.width) for side in (a, b))
    if a.card.task == "depth" and size_a != size_b:
        raise ModelBrokenError(
            a.card.name, f"its input is {size_a[0]} x {size_a[1]} and that of {b.card.name} {size_b[0]} x {size_b[1]}."
        )


def _count(services: Services, task: TaskName, answers: dict[Side, Answered], *, agree: bool) -> None:
    a, b = ((answers[side].handle.card.name, answers[side].handle.variant) for side in ("a", "b"))
    services.metrics.requests.count_comparison(task, a, b, agree=agree)
