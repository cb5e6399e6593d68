"""Pure ASGI middleware: request ids, access log and metrics, the limit on bodies, and the error boundary.

Starlette's BaseHTTPMiddleware is not used because it hides a client's disconnect from the application.
"""

import logging
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.context import PROBES, SCOPE_KEY, context_of
from service.api.problems import internal_error, log_failure, problem_response
from service.errors import BodyTooLargeError, ServiceError
from service.metrics import RequestMetrics
from service.pipeline import RequestContext
from service.request_id import REQUEST_ID_HEADER, request_id_from
from service.server.headers import header

log = logging.getLogger(__name__)
access_log = logging.getLogger("service.access")

#: Status in logs and metrics of a request whose client disconnected before the response, as in nginx.
CLIENT_CLOSED_REQUEST = 499
_REQUEST_ID = REQUEST_ID_HEADER.encode()


class AccessMiddleware:
    """The second layer: creates the request's context, adds its id and timings to the response, logs and counts it.

    Args:
        app: The inner application.
        metrics: Counts each request.
        draining: Whether the service is about to stop; responses then tell clients to close their connections.
    """

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics, draining: Callable[[], bool]) -> None:
        self._app, self._metrics, self._draining = app, metrics, draining
        self._in_flight = 0  # changed only in the event loop
        metrics.in_flight.set_function(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext(request_id_from(header(scope, _REQUEST_ID)))
        scope[SCOPE_KEY] = context
        status = CLIENT_CLOSED_REQUEST

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (_REQUEST_ID, context.request_id.encode())]
                if context.stages:
                    headers.append((b"server-timing", context.server_timing().encode()))
                message["headers"] = headers
                if self._draining():
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        self._in_flight += 1
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._in_flight -= 1
            self._finished(scope, context, status)

    def _finished(self, scope: Scope, context: RequestContext, status: int) -> None:
        # The path template, never the client's path: the paths that scanners try must not become label values.
        seconds, route = context.elapsed_s, getattr(scope.get("route"), "path", None)
        self._metrics.observe_http(scope["method"], route, status, seconds)
        if context.problem is not None:
            self._metrics.count_problem(context.problem)
        if context.client_deadline_s is not None:
            self._metrics.observe_client_deadline(route, context.client_deadline_s)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if not access_log.isEnabledFor(level):
            return
        fields = {
            "request_id": context.request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
            **context.labels,
        }
        if context.problem is not None:
            fields["problem"] = context.problem
        access_log.log(level, "request", extra={"fields": fields})


class ErrorBoundary:
    """Turns every exception that escapes the application into a problem document and logs it; sends no traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            log.info("the client disconnected", extra={"fields": {"request_id": context_of(scope).request_id}})
        except Exception as error:  # whatever it is, the client gets a response and the service keeps running
            if isinstance(error, ServiceError):
                log_failure(error)
            else:
                log.exception("unexpected error", extra={"fields": {"request_id": context_of(scope).request_id}})
                error = internal_error()
            if started:
                raise  # too late for a document: the server closes the connection, which the client notices
            await problem_response(error, scope)(scope, receive, send)


class BodyLimit:
    """Rejects bodies above a limit before they are buffered: by their declared length, else while they arrive.

    Args:
        app: The inner application.
        max_bytes: The limit, bytes.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = header(scope, b"content-length") or ""
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise BodyTooLargeError(self._max_bytes, int(declared))
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise BodyTooLargeError(self._max_bytes)
            return message

        await self._app(scope, counted, send)


class HeadAsGet:
    """Answers HEAD like GET, without the body (RFC 9110 section 9.3.2), for load balancers and uptime checks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        as_get = {**scope, "method": "GET"}  # a copy, because the server and the log must still see HEAD
        try:
            await self._app(as_get, receive, without_body)
        finally:
            scope["route"] = as_get.get("route")
