"""The Open Inference Protocol's extension for model repositories, as Triton has it. For administrators only."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import RequireAdmin
from service.api.findings import refuse_unknown
from service.api.problems import oip_responses
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
async def load(services: ServicesOf, model: Annotated[str, _NAME]) -> Response:
    """Every version of the model in the folder takes the place of the one that runs."""
    await asyncio.to_thread(services.changes.reload, model)
    return Response(b"{}", media_type="application/json")


@router.post("/models/{model}/unload", summary="Take a model out of service", responses=oip_responses(*_STATUSES))
async def unload(services: ServicesOf, model: Annotated[str, _NAME]) -> Response:
    """Every version; refused where the service would then not be ready."""
    try:
        await asyncio.to_thread(services.changes.unload, model)
    except ModelInUseError as error:
        # The protocol has no `force`, which the error's own remedy is about.
        remedy = f"Load or name another one first; POST /admin/models/{model}/unload?force=true takes it all the same."
        raise ModelInUseError(error.model, error.reasons, remedy=remedy) from None
    return Response(b"{}", media_type="application/json")
