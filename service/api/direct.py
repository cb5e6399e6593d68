"""A route that answers ordinary requests without the framework's resolution of dependencies.

It walks the dependencies, and the type of each parameter, anew for every request, and takes about a quarter of the CPU
that the service spends beside its work on a small picture. What a route of this class takes is known, so its parameters
are read in one step. The endpoint's signature stays as it is: the OpenAPI document comes from it, and a request that
does not fit (an unknown parameter, one sent twice, a value out of range) goes the framework's way, whose findings its
error is made of.
"""

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.experimenting import SUBJECT_HEADER, subject_of
from service.api.services import TIMEOUT_HEADER, Services, deadline_of
from service.errors import BadParameterError

_TAKES = ("request", "services", "deadline", "subject", "query")


class DirectRoute(APIRoute):
    """A route whose endpoint takes `request`, `services`, `deadline`, `subject` and `query`, a model of its query.

    Raises:
        TypeError: The endpoint takes something else.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        framework, endpoint = super().get_route_handler(), self.endpoint
        parameters = inspect.signature(endpoint).parameters
        if tuple(parameters) != _TAKES:
            raise TypeError(f"{endpoint.__name__} takes {tuple(parameters)}; a DirectRoute's takes {_TAKES}")
        model: type[BaseModel] = parameters["query"].annotation.__origin__  # of Annotated[model, Query()]

        async def handle(request: Request) -> Response:
            services: Services = request.app.state.services
            headers = request.headers
            try:
                deadline = await deadline_of(services, headers.get(TIMEOUT_HEADER))
                subject = await subject_of(request, headers.get(SUBJECT_HEADER))
                query = _query(request, model)
            except (BadParameterError, ValidationError):
                query = None
            if query is None:
                return await framework(request)
            response: Response = await endpoint(request, services, deadline, subject, query)
            return response

        return handle


def _query(request: Request, model: type[BaseModel]) -> BaseModel | None:
    """The query's parameters; None where one is sent twice, of which only the framework knows what to say."""
    if not request.scope["query_string"]:
        return model()
    given = request.query_params
    if len(given.multi_items()) != len(given):
        return None
    return model.model_validate(dict(given))
