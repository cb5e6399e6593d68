"""The model repository extension of the Open Inference Protocol, as in Triton. Requires an admin key."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import RequireAdmin
from service.api.body import read_body
from service.api.findings import refuse_unknown
from service.api.json_body import document_of
from service.api.openapi import oip_responses
from service.api.services import DeadlineOf, Services, ServicesOf
from service.errors import BadTensorError, ModelInUseError
from service.scheduler import Deadline

M = TypeVar("M", bound=BaseModel)

router = APIRouter(
    prefix="/v2/repository", tags=["open inference protocol"], dependencies=[RequireAdmin, Depends(refuse_unknown)]
)

_STATUSES = (400, 404, 408, 409, 413, 422, 429, 500, 503, 504)
_NAME = Path(description="Name of the model, which is the name of its folder.", max_length=64)


class RepositoryEntry(BaseModel):
    """One version of one model."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class IndexRequest(BaseModel):
    """Which models the index should list."""

    ready: bool = False


class ControlRequest(BaseModel):
    """Parameters of loading or unloading; Triton's clients always send `{}` or `unload_dependents`."""

    parameters: dict[str, JsonValue] | None = None


@router.post("/index", summary="All models in the repository", responses=oip_responses(*_STATUSES))
async def index(request: Request, services: ServicesOf, deadline: DeadlineOf) -> list[RepositoryEntry]:
    """Lists every version in the folder; with `{"ready": true}`, only those that are loaded."""
    asked = await _read(request, services, deadline, IndexRequest)
    states = await asyncio.to_thread(services.changes.states)
    return [
        RepositoryEntry(
            name=state.name,
            version=state.version,
            state="READY" if state.state == "ready" else "UNAVAILABLE",
            reason=state.reason or ("" if state.state == "ready" else "unloaded"),
        )
        for state in states
        if state.state == "ready" or not asked.ready
    ]


@router.post("/models/{model}/load", summary="Load or reload a model", responses=oip_responses(*_STATUSES))
async def load(request: Request, services: ServicesOf, deadline: DeadlineOf, model: Annotated[str, _NAME]) -> Response:
    """Loads every version of the model from the folder, and replaces those that are loaded."""
    _check_parameters(
        await _read(request, services, deadline, ControlRequest),
        (),
        remedy="Models come only from the model folder: put the model and its card there, and send {} or nothing.",
    )
    await services.changes.apart(services.changes.reload, model)
    return Response(b"{}", media_type="application/json")


@router.post("/models/{model}/unload", summary="Take a model out of service", responses=oip_responses(*_STATUSES))
async def unload(
    request: Request, services: ServicesOf, deadline: DeadlineOf, model: Annotated[str, _NAME]
) -> Response:
    """Unloads every version. Refused if the service would then no longer be ready."""
    _check_parameters(
        await _read(request, services, deadline, ControlRequest),
        ("unload_dependents",),  # has no effect, because no model depends on another
        remedy="Send {} or nothing; every version is unloaded.",
    )
    try:
        await services.changes.apart(services.changes.unload, model)
    except ModelInUseError as error:
        # The error's default remedy mentions `force`, which this protocol does not have.
        remedy = f"Load or name another model first; POST /admin/models/{model}/unload?force=true unloads it anyway."
        raise ModelInUseError(error.model, error.reasons, remedy=remedy) from None
    return Response(b"{}", media_type="application/json")


async def _read(request: Request, services: Services, deadline: Deadline, model: type[M]) -> M:
    """Reads a document of one optional member; clients also send none.

    Raises:
        BadTensorError: The body is not such a document.
        BodyTooLargeError: The body has more bytes than the middleware allows.
        UploadTimeoutError: The body was not complete in time.
        OverloadedError: Too many large bodies wait to be parsed.
        DeadlineExceededError: The body was not parsed in time.
    """
    (member,) = model.model_fields

    def refusal(_: ValidationError) -> BadTensorError:
        return BadTensorError(f"The body is not a JSON object with `{member}`.", remedy="Send {} or nothing.")

    body = await read_body(request, deadline) or b"{}"
    # In a thread if it is large: a request for Triton may contain megabytes of files.
    return await services.pipeline.parse_document(None, deadline, document_of, body, model, refusal)


def _check_parameters(asked: ControlRequest, known: Sequence[str], *, remedy: str) -> None:
    """Rejects parameters of Triton that this service does not support, such as files to load from the request.

    Raises:
        BadTensorError: There are unsupported parameters.
    """
    unknown = next((name for name in asked.parameters or {} if name not in known), None)
    if unknown is not None:
        raise BadTensorError(f"The parameter {unknown[:40]!r} is not supported.", remedy=remedy)
