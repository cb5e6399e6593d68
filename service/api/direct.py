"""Routes that answer ordinary requests without the framework's routing and dependency injection.

For every request, the framework resolves the dependencies and the type of each parameter again. The parameters of a
`DirectRoute` are known in advance and read in one step. The endpoint keeps its signature, from which the OpenAPI
document is made. A request that does not fit (an unknown parameter, one sent twice, a value out of range) takes the
framework's path, whose findings become the error.

`Shortcut` dispatches to these routes as the innermost middleware. Everything that guards the service (limits, keys,
ids, logs, the error boundary) runs before it; only the framework's own layers are skipped.
"""

import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.assignment import SUBJECT_HEADER, subject_of
from service.api.services import TIMEOUT_HEADER, Services, deadline_of
from service.errors import BadParameterError
from service.server.headers import header

_TIMEOUT, _SUBJECT = TIMEOUT_HEADER.encode(), SUBJECT_HEADER.encode()
_TAKES = ("request", "services", "deadline", "subject", "query")


class DirectRoute(APIRoute):
    """A route whose endpoint takes `request`, `services`, `deadline`, `subject` and `query` (a pydantic model).

    Without it, a small picture's `/classify` takes 19 % more CPU (0.37 ms more than 1.92 ms without `Shortcut`; Zen 4
    with AVX-512, ADR 0050).

    Raises:
        TypeError: The endpoint has other parameters.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that the framework calls: the direct one, or the framework's if the parameters do not fit."""
        framework, direct = super().get_route_handler(), self.direct_handler()

        async def handle(request: Request) -> Response:
            return await direct(request, request.app.state.services) or await framework(request)

        return handle

    def direct_handler(self) -> Callable[[Request, Services], Coroutine[Any, Any, Response | None]]:
        """The handler for requests whose parameters fit. It returns None, without reading the body, if they do not."""
        endpoint = self.endpoint
        parameters = inspect.signature(endpoint).parameters
        if tuple(parameters) != _TAKES:
            raise TypeError(f"{endpoint.__name__} takes {tuple(parameters)}; a DirectRoute's endpoint takes {_TAKES}")
        model: type[BaseModel] = parameters["query"].annotation.__origin__  # of Annotated[model, Query()]

        default = model()  # for requests without a query, which are most; shared, so never modify it

        async def handle(request: Request, services: Services) -> Response | None:
            try:
                deadline = await deadline_of(request, services, header(request.scope, _TIMEOUT))
                subject = await subject_of(request, header(request.scope, _SUBJECT))
                query = _query(request, default)
            except (BadParameterError, ValidationError):
                return None
            if query is None:
                return None
            response: Response = await endpoint(request, services, deadline, subject, query)
            return response

        return handle


class Shortcut:
    """The innermost middleware: dispatches POST requests to their `DirectRoute`, and all others to the framework.

    Without it, a small picture's `/classify` takes 7 % more CPU (0.13 ms more than 1.80 ms; Zen 4 with AVX-512,
    ADR 0050).

    Args:
        app: The framework's router and its own layers.
        services: The services of the application.
        routes: The routes to search for direct ones.
    """

    def __init__(self, app: ASGIApp, *, services: Services, routes: Iterable[BaseRoute]) -> None:
        self._app, self._services = app, services
        self._handlers = {
            route.path: (route, route.direct_handler())
            for route in routes
            if isinstance(route, DirectRoute) and route.methods == {"POST"}
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one ASGI connection."""
        found = self._handlers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None or scope.get("root_path"):
            await self._app(scope, receive, send)
            return
        scope["route"], handle = found  # for the metrics, the log and the trace
        response = await handle(Request(scope, receive, send), self._services)
        if response is None:
            await self._app(scope, receive, send)
        else:
            await response(scope, receive, send)


def _query(request: Request, default: BaseModel) -> BaseModel | None:
    """The query's parameters; None if one is sent twice, because the framework builds the error for that."""
    if not request.scope["query_string"]:
        return default
    given = request.query_params
    if len(given.multi_items()) != len(given):
        return None
    return type(default).model_validate(dict(given))
