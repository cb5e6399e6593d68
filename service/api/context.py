"""The context of a request: its id, its clock, the time spent in each stage, and what answered it."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection
from starlette.types import Scope

from service.randomness import random_bytes

SCOPE_KEY = "bireal.context"
REQUEST_ID_HEADER = "x-request-id"
#: Paths that monitoring polls every few seconds: logged only at debug level, and never traced.
PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_HEADERS = "bireal.headers"

# Ids end up in log lines and in headers of other systems, so separators, quotes and control characters are excluded.
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


@dataclass(frozen=True, slots=True)
class ImageTimes:
    """The stages of one image in one network, for a trace.

    Attributes:
        labels: What ran: task, model, version, variant, kernel.
        batch_size: Number of images in the batch.
        stages: Name, start by `time.perf_counter()` and duration in seconds of each stage.
    """

    labels: Mapping[str, object]
    batch_size: int
    stages: tuple[tuple[str, float, float], ...]


@dataclass(slots=True)
class RequestContext:
    """The state of one request.

    Attributes:
        request_id: The client's `x-request-id` if that is well-formed, else a new one.
        started: `time.perf_counter()` at the request's arrival.
        stages: Seconds spent in each stage so far, summed over the images, in the order of the stages.
        labels: What answered (task, model, variant, ...), for the log line.
        problem: Code of the error that was sent, if any.
        client_deadline_s: Length of the deadline, seconds, if the client set it itself and it passed.
        images: The stages of each image if the request is traced; else None.
    """

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    client_deadline_s: float | None = None
    images: list[ImageTimes] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.perf_counter() - self.started

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds to a stage."""
        self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the duration of a block to a stage, even if the block raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - begun)

    def server_timing(self) -> str:
        """The value of the `Server-Timing` header: each stage, and the total, in milliseconds."""
        text = "".join([f"{name};dur={1000 * seconds:.3f}, " for name, seconds in self.stages.items()])
        return f"{text}total;dur={1000 * self.elapsed_s:.3f}"


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of this name. The lookup table is built once per request and shared by all layers.

    Args:
        scope: The request's scope; servers pass header names in lower case.
        name: The header's name in lower case.
    """
    headers: dict[bytes, bytes] | None = scope.get(_HEADERS)
    if headers is None:
        headers = scope[_HEADERS] = dict(reversed(list(scope["headers"])))  # reversed, so that the first one wins
    value = headers.get(name)
    return None if value is None else str(value, "latin-1")


def contradicts(scope: Scope, name: bytes) -> bool:
    """Whether a request repeats a header with different values.

    Args:
        scope: The request's scope.
        name: The header's name in lower case.
    """
    headers = scope["headers"]
    if len(scope.get(_HEADERS, ())) == len(headers):  # no header is repeated, as in nearly all requests
        return False
    return len({value for each, value in headers if each == name}) > 1


def request_id_from(given: str | None) -> str:
    """The client's id if it is safe to echo and to log, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return random_bytes(16).hex()


def context_of(where: HTTPConnection | Scope) -> RequestContext:
    """The context that `AccessMiddleware` attached to a request."""
    scope = where.scope if isinstance(where, HTTPConnection) else where
    context: RequestContext = scope[SCOPE_KEY]
    return context
