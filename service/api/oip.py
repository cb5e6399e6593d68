"""The Open Inference Protocol, version 2, over HTTP: what KServe's and Triton's clients speak.

The same networks, queue, limits and metrics as `/classify` and `/depth`; only the wire differs. Errors have the
protocol's shape, `{"error": "..."}`, here and nowhere else (`service.api.problems`). The extensions for binary tensors
and for classification are those of Triton.
"""

import time
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel
from starlette.responses import Response

from service.api import triton_extensions
from service.api.body import read_body
from service.api.context import context_of
from service.api.findings import refuse_unknown
from service.api.inflate import inflate
from service.api.oip_answer import OutputForm, TensorKind, encode, inputs_of, outputs_of, requested_outputs, tensors
from service.api.oip_request import HEADER_LENGTH, Parsed, check_parameters, images, parse
from service.api.openapi import oip_responses
from service.api.ops import readiness
from service.api.services import DeadlineOf, Services, ServicesOf
from service.api.wire import network_headers
from service.card import Card
from service.errors import BadTensorError
from service.pipeline import Job, Upload
from service.registry import Entry, Handle
from service.request_id import REQUEST_ID_HEADER, request_id_from
from service.scheduler import Deadline
from service.server.presence import while_connected

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", *triton_extensions.EXTENSIONS)
_STATUSES = (400, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_PARAMETERS = ("variant", "timeout", "binary_data_output")
_NAME = Path(description="Of a model; GET /models lists them.", max_length=200)
_VERSION = Path(description="A version of the model, or a label such as `stable`.", max_length=200)


class Live(BaseModel):
    """Whether the process lives."""

    live: bool


class Ready(BaseModel):
    """Whether requests are answered."""

    ready: bool


class ModelReady(Ready):
    """Whether a model answers."""

    name: str


class ServerMetadata(BaseModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor; -1 stands for the number of images."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model: its versions, and what goes in and comes out. A request carries one of the inputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class AnswerTensor(TensorMetadata):
    """An output."""

    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class InferAnswer(BaseModel):
    """The document of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[AnswerTensor]


@router.get("", summary="What serves?")
async def server(services: ServicesOf) -> ServerMetadata:
    """Name, version and extensions."""
    return ServerMetadata(name="bireal-serve", version=services.version, extensions=list(EXTENSIONS))


@router.get("/health/live", summary="Does the process live?")
async def live() -> Live:
    """Answers as long as the event loop turns."""
    return Live(live=True)


@router.get("/health/ready", summary="Are requests answered?", responses={503: {"model": Ready}})
async def ready(services: ServicesOf, response: Response) -> Ready:
    """200 once every model that must be served is warm; `/readyz` says what is missing."""
    found = readiness(services)
    if not found.ready:
        response.status_code = 503
    return Ready(ready=found.ready)


@router.get("/models/{model}", summary="A model's versions and tensors", responses=oip_responses(404, 422, 503))
async def metadata(services: ServicesOf, model: Annotated[str, _NAME]) -> ModelMetadata:
    """Of the default version."""
    return _metadata(services, model, None)


@router.get("/models/{model}/versions/{version}", summary="A version's tensors", responses=oip_responses(404, 422, 503))
async def version_metadata(
    services: ServicesOf, model: Annotated[str, _NAME], version: Annotated[str, _VERSION]
) -> ModelMetadata:
    """Of one version."""
    return _metadata(services, model, version)


@router.get("/models/{model}/ready", summary="Does a model answer?", responses=oip_responses(404, 422, 503))
async def model_ready(services: ServicesOf, model: Annotated[str, _NAME]) -> ModelReady:
    """200 when its default version answers; else an error that says why not."""
    return ModelReady(name=services.registry.resolve_model(model).card.name, ready=True)


@router.get(
    "/models/{model}/versions/{version}/ready", summary="Does a version answer?", responses=oip_responses(404, 422, 503)
)
async def version_ready(
    services: ServicesOf, model: Annotated[str, _NAME], version: Annotated[str, _VERSION]
) -> ModelReady:
    """200 when it answers; else an error that says why not."""
    return ModelReady(name=services.registry.resolve_model(f"{model}@{version}").card.name, ready=True)


_INFER: dict[str, Any] = {
    "response_model": InferAnswer,
    "response_model_exclude_none": True,
    "dependencies": [Depends(refuse_unknown)],  # `?variant=` is a parameter of the document here
    "responses": {
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **oip_responses(*_STATUSES),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": "A JSON document; with its length in the header `Inference-Header-Content-Length`, the data "
            "of tensors follow it. `Content-Encoding` gzip and deflate are undone.",
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
}


@router.post("/models/{model}/infer", summary="Run a model", **_INFER)
async def infer(request: Request, services: ServicesOf, deadline: DeadlineOf, model: Annotated[str, _NAME]) -> Response:
    """Runs the default version on one or more images."""
    return await _infer(request, services, deadline, model)


@router.post("/models/{model}/versions/{version}/infer", summary="Run a version of a model", **_INFER)
async def version_infer(
    request: Request,
    services: ServicesOf,
    deadline: DeadlineOf,
    model: Annotated[str, _NAME],
    version: Annotated[str, _VERSION],
) -> Response:
    """Runs one version on one or more images."""
    return await _infer(request, services, deadline, f"{model}@{version}")


def _metadata(services: Services, model: str, version: str | None) -> ModelMetadata:
    entry = services.registry.find(model if version is None else f"{model}@{version}")
    return ModelMetadata(
        name=entry.card.name,
        versions=services.registry.versions(entry.card.name),
        platform="onnxruntime_onnx",
        inputs=[_described(kind) for kind in inputs_of(entry.card)],
        outputs=[_described(kind) for kind in outputs_of(entry.card)],
    )


def _described(kind: TensorKind) -> TensorMetadata:
    return TensorMetadata(name=kind.name, datatype=kind.datatype, shape=list(kind.shape))


async def _infer(request: Request, services: Services, deadline: Deadline, model: str) -> Response:
    entry = services.registry.find(model)  # report an unknown model before reading its picture
    body = await read_body(request, deadline)
    return await while_connected(request, _answer(request, services, deadline, model, entry, body))


async def _answer(
    request: Request, services: Services, deadline: Deadline, model: str, entry: Entry, body: bytes
) -> Response:
    context, headers, settings = context_of(request), request.headers, services.settings
    with context.stage("parse"):
        parsed = await services.pipeline.parse(
            _any_handle(entry),
            deadline,
            _parse,
            body,
            headers.get("content-encoding", ""),
            headers.get(HEADER_LENGTH),
            settings.max_body_bytes,
        )
    if REQUEST_ID_HEADER not in headers and request_id_from(parsed.document.id) == parsed.document.id:
        context.request_id = parsed.document.id  # the protocol's own id, where it can be one of ours
    deadline = _deadline(parsed, deadline)
    handle = services.registry.resolve_model(model, _variant(parsed))
    with context.stage("parse"):
        pictures, wanted = await services.pipeline.parse(
            handle, deadline, _inputs, parsed, handle.card, settings.max_images_per_request
        )
    job = Job(None, deadline, context, begun=time.perf_counter())

    def answer(rows: list[npt.NDArray[np.float32]]) -> tuple[bytes, int | None]:
        return encode(_document(parsed, handle), tensors(handle.card, rows, wanted))

    made, length = await services.pipeline.infer(pictures, handle, job, answer)
    if length is None:
        return Response(made, headers=network_headers(handle), media_type="application/json")
    sizes = {"inference-header-content-length": str(length)}
    return Response(made, headers=network_headers(handle) | sizes, media_type="application/octet-stream")


def _any_handle(entry: Entry) -> Handle | None:
    """The first network of a version that runs: the one to count a request for whose document names it unread."""
    return next((loaded.handle for loaded in entry.variants.values() if loaded.handle is not None), None)


def _parse(body: bytes, encoding: str, header_length: str | None, max_bytes: int) -> Parsed:
    parsed = parse(inflate(body, encoding, max_bytes=max_bytes), header_length)
    check_parameters(parsed.document.parameters, _PARAMETERS, of="a request")
    return parsed


def _inputs(
    parsed: Parsed, card: Card, max_images: int
) -> tuple[list[Upload] | npt.NDArray[np.uint8], list[OutputForm]]:
    return images(parsed, card, max_images), requested_outputs(parsed, card)


def _variant(parsed: Parsed) -> str | None:
    variant = parsed.parameter("variant")
    if variant is not None and not isinstance(variant, str):
        raise BadTensorError("The parameter variant is not a text.", remedy="Send binary, reference or full.")
    return variant


def _deadline(parsed: Parsed, deadline: Deadline) -> Deadline:
    """The header's, or the parameter `timeout` (microseconds; 0 is none, as in Triton) where that ends earlier."""
    timeout_us = parsed.parameter("timeout")
    if timeout_us is None:
        return deadline
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise BadTensorError(
            "The parameter timeout is not a whole number of microseconds.",
            remedy="500000 is half a second, and 0 the service's own limit.",
        )
    # compared as a whole number, which may be too large for a float
    if timeout_us == 0 or timeout_us >= deadline.remaining_s * 1e6:
        return deadline
    return Deadline.after(timeout_us / 1e6, by_client=True)


def _document(parsed: Parsed, handle: Handle) -> dict[str, Any]:
    parameters = {"variant": handle.variant, "kernel": handle.kernel}
    if handle.fallback is not None:
        parameters["fallback"] = handle.fallback
    document: dict[str, Any] = {
        "model_name": handle.card.name,
        "model_version": handle.card.version,
        "parameters": parameters,
    }
    if parsed.document.id is not None:
        document["id"] = parsed.document.id
    return document
