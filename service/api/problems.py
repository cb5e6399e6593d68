"""Errors as `application/problem+json` (RFC 9457): one writer for all of them."""

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
from service.api.findings import malformed_json, request_error
from service.api.uploads import refuse_encoded
from service.errors import (
    PROBLEM_TYPE_PREFIX,
    DeadlineExceededError,
    ServiceError,
    SettingsError,
    UnsupportedEncodingError,
    error_classes,
)
from service.schemas import ProblemKind

PROBLEM_MEDIA_TYPE = "application/problem+json"
#: Paths of the Open Inference Protocol, which has a shape of its own for errors.
OIP_PREFIX = "/v2"

log = logging.getLogger(__name__)


def problem_response(error: ServiceError, scope: Scope) -> Response:
    """Renders an error of ours."""
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
    """What a client is told of an error that nobody foresaw: nothing about the code."""
    return ServiceError("The service met an error of its own; it was logged under the request id.")


def install_handlers(app: FastAPI) -> None:
    """Makes every error that reaches the application a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    log_failure(error)
    return problem_response(error, request.scope)


def log_failure(error: ServiceError) -> None:
    """Logs an error that is the service's own; those of clients are theirs."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s: %s", error.code, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's findings about query, headers and body, as one of our own errors."""
    assert isinstance(error, RequestValidationError)
    findings = error.errors()
    found = request_error(findings)
    if any(finding["loc"][0] == "body" for finding in findings):
        found = _by_its_cause(request, found)
    return problem_response(found, request.scope)


def _by_its_cause(request: Request, error: ServiceError) -> ServiceError:
    """An error of a request whose body the framework took for JSON; a compressed one is named as what it is."""
    try:
        refuse_encoded(request)
    except UnsupportedEncodingError as cause:
        return cause
    return error


async def _http_error(request: Request, error: Exception) -> Response:
    """The framework's own errors: no such path, no such method, a body that is no text."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.BAD_REQUEST:  # of a route that takes JSON, where the bytes are not even UTF-8
        return problem_response(_by_its_cause(request, malformed_json("it is no text in UTF-8")), request.scope)
    path = request.scope.get("path", "")
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed(request)
    allowed = headers.get("Allow", "")
    detail, remedy = {
        HTTPStatus.NOT_FOUND: (f"There is nothing at {path[:100]!r}.", "GET /docs lists every path."),
        HTTPStatus.METHOD_NOT_ALLOWED: (
            f"{path} does not answer {request.method[:20]}.",
            f"Use {allowed}; GET /docs lists what each path answers.",
        ),
    }.get(status, (str(error.detail), "GET /docs describes the interface."))
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
    """Every method that the path answers: routes of one path, such as PUT and DELETE, are several to the framework."""
    methods: set[str] = set()
    for included in request.app.routes:
        router = getattr(included, "original_router", None)  # newer versions of FastAPI keep included routers apart
        for route in [included] if router is None else router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                methods |= getattr(route, "methods", None) or set()
    if "GET" in methods:
        methods.add("HEAD")  # see HeadAsGet
    return ", ".join(sorted(methods))


def problem_kinds() -> dict[str, ProblemKind]:
    """Every kind of problem that can be answered, by its code; `type` refers to them."""
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
            title="The path does not answer this method.",
            help="GET /docs lists what each path answers.",
        ),
    }
    for error in error_classes():
        if not issubclass(error, SettingsError):  # raised at start, never sent
            # A kind without a remedy of its own: the general one, to report a failure, is wrong for a client's mistake.
            general = error.status < 500 and error.default_remedy == ServiceError.default_remedy
            remedy = "The problem's own `help` says what to do in its case." if general else error.default_remedy
            kinds[error.code] = ProblemKind(code=error.code, status=error.status, title=error.title, help=remedy)
    return kinds
