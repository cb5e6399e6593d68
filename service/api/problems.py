"""Renders all errors as `application/problem+json` (RFC 9457)."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from service.api.context import context_of
from service.api.findings import query_names, request_error
from service.errors import (
    PROBLEM_MEDIA_TYPE,
    PROBLEM_TYPE_PREFIX,
    DeadlineExceededError,
    ServiceError,
    SettingsError,
    error_classes,
)
from service.schemas import ProblemKind

#: Prefix of the Open Inference Protocol, which has its own format for errors.
OIP_PREFIX = "/v2"

log = logging.getLogger(__name__)


def problem_response(error: ServiceError, scope: Scope) -> Response:
    """Renders an error of the service."""
    context = context_of(scope)
    context.problem = error.code
    if isinstance(error, DeadlineExceededError) and error.by_client:
        context.client_deadline_s = error.timeout_s
    if _is_oip(scope):
        return _oip_error(str(error), error.status, error.headers)
    document = error.problem(instance=scope.get("path"), request_id=context.request_id)
    return Response(json.dumps(document), error.status, error.headers, PROBLEM_MEDIA_TYPE)


def _is_oip(scope: Scope) -> bool:
    path = scope.get("path", "")
    return bool(path == OIP_PREFIX or path.startswith(f"{OIP_PREFIX}/"))


def _oip_error(text: str, status: int, headers: Mapping[str, str] | None) -> Response:
    return Response(json.dumps({"error": text}), status, headers, "application/json")


def internal_error() -> ServiceError:
    """The error sent to a client for an unexpected exception; it reveals nothing about the code."""
    return ServiceError("An internal error occurred; it was logged under the request id.")


def install_handlers(app: FastAPI) -> None:
    """Turns every error that reaches the application into a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    log_failure(error)
    return problem_response(error, request.scope)


def log_failure(error: ServiceError) -> None:
    """Logs an error if it is the service's fault (5xx)."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s: %s", error.code, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """Converts FastAPI's findings about path, query and headers to one of the service's errors."""
    assert isinstance(error, RequestValidationError)
    return problem_response(request_error(error.errors(), known=query_names(request)), request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    """Renders the framework's own errors: no such path, no such method."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    path = request.scope.get("path", "")
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request)
    allowed = headers.get("Allow", "")
    detail, remedy = {
        HTTPStatus.NOT_FOUND: (f"There is nothing at {path[:100]!r}.", "GET /docs lists every path."),
        HTTPStatus.METHOD_NOT_ALLOWED: (
            f"{path} does not support {request.method[:20]}.",
            f"Use {allowed}; GET /docs lists the methods of each path.",
        ),
    }.get(status, (str(error.detail), "GET /docs describes the API."))
    code = status.phrase.lower().replace(" ", "-")
    kind = problem_kinds().get(code)
    context = context_of(request)
    context.problem = code
    if _is_oip(request.scope):
        return _oip_error(f"{detail} {remedy}", status, headers)
    document = {
        "type": PROBLEM_TYPE_PREFIX + code,
        "title": kind.title if kind is not None else f"{status.phrase}.",
        "status": int(status),
        "detail": detail,
        "code": code,
        "help": remedy,
        "instance": path,
        "request_id": context.request_id,
    }
    return Response(json.dumps(document), status, headers, PROBLEM_MEDIA_TYPE)


def _allowed(request: Request) -> str:
    """All methods of the path. The framework has a separate route for each, such as PUT and DELETE."""
    methods: set[str] = set()
    for included in request.app.routes:
        router = getattr(included, "original_router", None)  # newer versions of FastAPI nest included routers
        for route in [included] if router is None else router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                methods |= getattr(route, "methods", None) or set()
    if "GET" in methods:
        methods.add("HEAD")  # see HeadAsGet
    return ", ".join(sorted(methods))


def problem_kinds() -> dict[str, ProblemKind]:
    """All kinds of problems that can be sent, by code; a problem's `type` refers to them."""
    kinds = {
        "not-found": ProblemKind(
            code="not-found",
            status=404,
            title="There is nothing at this path.",
            help="GET /docs lists every path.",
        ),
        "method-not-allowed": ProblemKind(
            code="method-not-allowed",
            status=405,
            title="The path does not support this method.",
            help="GET /docs lists the methods of each path.",
        ),
    }
    for error in error_classes():
        if not issubclass(error, SettingsError):  # raised at startup, never sent
            kinds[error.code] = ProblemKind(
                code=error.code, status=error.status, title=error.title, help=error.default_remedy
            )
    return kinds
