"""What the handlers work with, made once by the composition root, and how a handler gets at it."""

import re
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header
from starlette.requests import Request

from service.api.auth import Auth
from service.errors import BadParameterError
from service.experiments.experimentation import Experimentation
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.registry import Changes, Registry
from service.scheduler import Deadline
from service.server.headers import contradicts
from service.settings import Settings

TIMEOUT_HEADER = "x-timeout-ms"
_TIMEOUT = re.compile(r"0*[1-9][0-9]{0,9}")
_TIMEOUT_NAME = TIMEOUT_HEADER.encode()
_LONGEST_TIMEOUT = "9999999999"


@dataclass(slots=True)
class Lifecycle:
    """Whether the service is on its way out: set by the first signal, read by `/readyz` and by every response."""

    draining: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running service."""

    settings: Settings
    registry: Registry
    pipeline: Pipeline
    metrics: Metrics
    version: str
    auth: Auth
    experimentation: Experimentation
    changes: Changes
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    revision: str = "unknown"


async def services_of(request: Request) -> Services:
    """The services of the application that a request came to.

    Asynchronous, as is `deadline_of`, although neither waits: FastAPI sends plain functions through a thread each.
    """
    services: Services = request.app.state.services
    return services


async def deadline_of(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    timeout_ms: Annotated[
        str | None,
        Header(
            alias=TIMEOUT_HEADER,
            description="Time that the request has, milliseconds: a whole number; 504 after it. It can shorten the "
            "service's own limit, not lengthen it.",
            json_schema_extra={"pattern": f"^{_TIMEOUT.pattern}$"},  # checked below, for an error that helps
        ),
    ] = None,
) -> Deadline:
    """When the answer is no longer wanted."""
    limit_s = services.settings.default_timeout_s
    if timeout_ms is None:
        return Deadline.after(limit_s)
    if contradicts(request.scope, _TIMEOUT_NAME):
        raise BadParameterError(
            TIMEOUT_HEADER,
            f"The header {TIMEOUT_HEADER} is there more than once, with different values.",
            remedy="Send it once.",
        )
    if _TIMEOUT.fullmatch(timeout_ms) is None:
        raise BadParameterError(
            TIMEOUT_HEADER,
            f"The header {TIMEOUT_HEADER} is {timeout_ms[:20]!r}, not a whole number of milliseconds, 1 to "
            f"{_LONGEST_TIMEOUT}.",
            remedy=f"Send, for example, {TIMEOUT_HEADER}: 500, or leave it out: the limit is {limit_s:g} s then.",
        )
    timeout_s = float(timeout_ms) / 1000  # int() refuses text that is very long, be it for zeros in front
    return Deadline.after(timeout_s, by_client=True) if timeout_s < limit_s else Deadline.after(limit_s)


ServicesOf = Annotated[Services, Depends(services_of)]
DeadlineOf = Annotated[Deadline, Depends(deadline_of)]
