"""The Open Inference Protocol's extension for model repositories, as Triton has it. For administrators only."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import RequireAdmin
from service.api.findings import refuse_unknown
from service.api.openapi import oip_responses
from service.api.services import DeadlineOf, ServicesOf
from service.api.uploads import read_body
from service.errors import BadTensorError, ModelInUseError

router = APIRouter(
    prefix="/v2/repository", tags=["open inference protocol"], dependencies=[RequireAdmin, Depends(refuse_unknown)]
)

_STATUSES = (400, 404, 408, 409, 413, 422, 500, 503)
_NAME = Path(description="Of a model: its folder's name.", max_length=64)


class RepositoryEntry(BaseModel):
    """One version of one model."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class IndexWish(BaseModel):
    """What the index is to hold."""

    ready: bool = False


class ChangeWish(BaseModel):
    """What a change is to mind; Triton's clients send `{}`, or `unload_dependents`, with each."""

    parameters: dict[str, JsonValue] | None = None


@router.post("/index", summary="Which models are there?", responses=oip_responses(*_STATUSES))
async def index(request: Request, services: ServicesOf, deadline: DeadlineOf) -> list[RepositoryEntry]:
    """Every version in the folder; with `{"ready": true}` those that run."""
    body = await read_body(request, deadline)
    try:
        wish = IndexWish.model_validate_json(body or b"{}")
    except ValueError:
        raise BadTensorError("The body is no JSON object with `ready`.", remedy="Send {} or nothing.") from None
    states = await asyncio.to_thread(services.changes.states)
    return [
        RepositoryEntry(
            name=state.name,
            version=state.version,
            state="READY" if state.state == "ready" else "UNAVAILABLE",
            reason=state.reason or ("" if state.state == "ready" else "unloaded"),
        )
        for state in states
        if state.state == "ready" or not wish.ready
    ]


@router.post("/models/{model}/load", summary="Load a model, or load it again", responses=oip_responses(*_STATUSES))
async def load(request: Request, services: ServicesOf, deadline: DeadlineOf, model: Annotated[str, _NAME]) -> Response:
    """Every version of the model in the folder takes the place of the one that runs."""
    await _check_parameters(
        await read_body(request, deadline),
        (),
        remedy="A model is what its folder has, its card too: put it there, and send {} or nothing.",
    )
    await asyncio.to_thread(services.changes.reload, model)
    return Response(b"{}", media_type="application/json")


@router.post("/models/{model}/unload", summary="Take a model out of service", responses=oip_responses(*_STATUSES))
async def unload(
    request: Request, services: ServicesOf, deadline: DeadlineOf, model: Annotated[str, _NAME]
) -> Response:
    """Every version; refused where the service would then not be ready."""
    await _check_parameters(
        await read_body(request, deadline),
        ("unload_dependents",),  # no model depends on another: the same with and without
        remedy="Send {} or nothing: every version is unloaded.",
    )
    try:
        await asyncio.to_thread(services.changes.unload, model)
    except ModelInUseError as error:
        # The protocol has no `force`, which the error's own remedy is about.
        remedy = f"Load or name another one first; POST /admin/models/{model}/unload?force=true takes it all the same."
        raise ModelInUseError(error.model, error.reasons, remedy=remedy) from None
    return Response(b"{}", media_type="application/json")


async def _check_parameters(body: bytes, known: Sequence[str], *, remedy: str) -> None:
    """Refuses what Triton would do and this service does not, such as to load other files than the folder's.

    Raises:
        BadTensorError: The body is no JSON object, or has other parameters.
    """
    try:
        # In a thread: files that are sent along are megabytes.
        wish = await asyncio.to_thread(ChangeWish.model_validate_json, body or b"{}")
    except ValueError:
        raise BadTensorError("The body is no JSON object with `parameters`.", remedy="Send {} or nothing.") from None
    unknown = next((name for name in wish.parameters or {} if name not in known), None)
    if unknown is not None:
        raise BadTensorError(f"The parameter {unknown[:40]!r} is not supported.", remedy=remedy)
